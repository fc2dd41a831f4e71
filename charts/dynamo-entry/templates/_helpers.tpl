{{/* The effective `checkpoint` values: the platform's way of writing them wins. Only this reads them. */}}
{{- define "dynamo-entry.checkpoint" -}}
{{- $platform := dig "dynamo-operator" "checkpoint" (dict) (.Values | merge (dict)) -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.checkpoint) $platform) -}}
{{- end -}}

{{- define "dynamo-entry.labels" -}}
app.kubernetes.io/name: dynamo-entry
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "dynamo-entry.image" -}}
{{ .Values.operator.image.repository }}:{{ .Values.operator.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The name of both webhook configurations, which belong to no namespace. */}}
{{- define "dynamo-entry.webhook" -}}
dynamo-entry-{{ .Release.Namespace }}
{{- end -}}

{{/* Cluster-wide, or one namespace at a time. Call with the list (context, name, rules in YAML). */}}
{{- define "dynamo-entry.role" -}}
{{- $context := index . 0 -}}
{{- $name := index . 1 -}}
{{- $rules := index . 2 -}}
{{- $namespaces := $context.Values.operator.watchNamespaces -}}
{{- range $namespace := (empty $namespaces | ternary (list "") $namespaces) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ empty $namespace | ternary "ClusterRole" "Role" }}
metadata:
  name: {{ empty $namespace | ternary (printf "%s-%s" $name $context.Release.Namespace) $name }}
  {{- if $namespace }}
  namespace: {{ $namespace | quote }}
  {{- end }}
  labels: {{- include "dynamo-entry.labels" $context | nindent 4 }}
rules: {{- $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ empty $namespace | ternary "ClusterRoleBinding" "RoleBinding" }}
metadata:
  name: {{ empty $namespace | ternary (printf "%s-%s" $name $context.Release.Namespace) $name }}
  {{- if $namespace }}
  namespace: {{ $namespace | quote }}
  {{- end }}
  labels: {{- include "dynamo-entry.labels" $context | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ empty $namespace | ternary "ClusterRole" "Role" }}
  name: {{ empty $namespace | ternary (printf "%s-%s" $name $context.Release.Namespace) $name }}
subjects:
- {kind: ServiceAccount, name: {{ $name }}, namespace: {{ $context.Release.Namespace | quote }}}
{{- end }}
{{- end -}}
