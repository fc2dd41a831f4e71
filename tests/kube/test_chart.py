"""The chart renders what it should from every way of writing its values. helm alone; no server."""

import itertools
import json
import re

import pytest
import yaml

from charts import CHART, GCS, GUIDE, OCI, S3, notes, render, run, umbrella
from dynamo_entry.kube import api, config, storage

S3_ENDPOINT = S3.replace("credentialsSecretRef", "endpointUrl: 'https://minio:9000', credentialsSecretRef")
SEALED = S3.replace("type: s3,", "type: s3, caSecretRef: ca, keySecretRef: key, verifyKeySecretRef: verify,")


def settings(objects):
    return yaml.safe_load(objects["ConfigMap", "dynamo-entry-operator"]["data"]["operator.yaml"])


@pytest.mark.parametrize("values", [GUIDE, S3, OCI, GUIDE + "operator: {watchNamespaces: [a, b]}"])
def test_nothing_is_privileged(values):
    """No capability, no host namespace, no writable root file system, in any of our pods."""
    objects = render(values)
    for kind, name in (("Deployment", "dynamo-entry-operator"), ("DaemonSet", "dynamo-checkpoint-agent")):
        spec = objects[kind, name]["spec"]["template"]["spec"]
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True


def test_both_ways_of_writing_the_values_are_one():
    """The guide's platform values, and the same under `checkpoint`."""
    inner = yaml.safe_load(GUIDE)["dynamo-operator"]
    assert render(GUIDE) == render(yaml.safe_dump(inner))


def test_the_storage_reaches_the_operator():
    """What the guide's storage section says."""
    assert settings(render(GUIDE))["storage"]["pvc"]["pvcName"] == "checkpoint-storage"
    assert settings(render(S3))["storage"]["s3"] == {
        "uri": "s3://bucket/prefix", "credentialsSecretRef": "keys", "restoreCredentialsSecretRef": "",
        "endpointUrl": "",
    }  # fmt: skip


def test_namespaces_share_no_archives_unless_somebody_says_so():
    """Whoever may publish one runs code with the secrets of all who restore it."""
    assert settings(render(S3))["storage"]["isolateNamespaces"] is True


def test_the_agent_reaches_what_fsspec_knows():
    """By the same settings as the pods."""
    objects = render(GCS)
    assert settings(objects)["storage"]["gcs"]["options"] == {"project": "mine"}
    pod = objects["DaemonSet", "dynamo-checkpoint-agent"]["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    env = {one["name"]: one.get("value") for one in agent["env"]}
    assert json.loads(env["DYNAMO_CHECKPOINT_STORAGE_OPTIONS"]) == {"project": "mine"}
    mounts = {one["mountPath"]: one["name"] for one in agent["volumeMounts"]}
    name = mounts[env["DYNAMO_CHECKPOINT_CREDENTIALS_DIR"]]
    (volume,) = [one for one in pod["volumes"] if one["name"] == name]
    assert volume["secret"] == {"secretName": "login", "optional": True}
    crd = objects["CustomResourceDefinition", "dynamocheckpoints.nvidia.com"]
    assert "gcs" in str(crd["spec"]["versions"][0]["schema"])


@pytest.mark.parametrize("endpoint", ["", "https://minio:9000"])
def test_the_agent_has_the_keys_of_a_bucket_in_files(endpoint):
    """These change when somebody exchanges the Secret; an agent runs for months, with the environment of its start."""
    pod = render(S3 + "\n", "--set", f"checkpoint.storage.s3.endpointUrl={endpoint}")[
        "DaemonSet", "dynamo-checkpoint-agent"
    ]["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    env = {one["name"]: one for one in agent["env"]}
    assert not [one for one in agent["env"] if "secretKeyRef" in one.get("valueFrom", {})]
    mounts = {one["mountPath"]: one["name"] for one in agent["volumeMounts"]}
    name = mounts[env["DYNAMO_CHECKPOINT_CREDENTIALS_DIR"]["value"]]
    (volume,) = [one for one in pod["volumes"] if one["name"] == name]
    assert (volume["secret"]["secretName"], volume["secret"]["optional"]) == ("keys", True)
    files = {one["path"] for one in volume["secret"]["items"]}
    assert files >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"}
    assert ("AWS_ENDPOINT_URL" in files) == (not endpoint) != ("AWS_ENDPOINT_URL" in env)


@pytest.mark.parametrize("values", [S3, S3_ENDPOINT, OCI, GCS, SEALED])
def test_an_agent_reads_the_secrets_that_pods_read(values):
    """The same entries, in the same files: the chart writes the agent's, and the operator the pods'."""
    objects = render(values)
    pod = objects["DaemonSet", "dynamo-checkpoint-agent"]["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    wired = storage.wiring(config.parse(yaml.safe_dump(settings(objects))), "h", "n", creates=True)
    assert secrets(pod["volumes"], agent["volumeMounts"]) == secrets(wired.volumes, wired.mounts)


def secrets(volumes, mounts):
    """The entries of each Secret, by the path where they are mounted; whether it may be missing is each one's own."""
    by_name = {one["name"]: one["secret"] for one in volumes if "secret" in one}
    return {
        one["mountPath"]: {key: by_name[one["name"]].get(key) for key in ("secretName", "items")}
        for one in mounts
        if one["name"] in by_name
    }


def test_switched_off_it_is_the_resource_alone():
    """Objects of users stay usable."""
    assert list(render("{}")) == [("CustomResourceDefinition", "dynamocheckpoints.nvidia.com")]
    assert list(render("crds: {install: false}")) == []


@pytest.mark.parametrize(
    ("version", "has_rule"), [("1.20.2", False), ("1.24.9", False), ("1.25.0", True), ("1.34.1", True)]
)
def test_the_identity_rule_where_the_server_knows_it(version, has_rule):
    """Older servers and their clients refuse the field."""
    crd = render("{}", "--kube-version", version)["CustomResourceDefinition", "dynamocheckpoints.nvidia.com"]
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert ("x-kubernetes-validations" in schema["properties"]["spec"]["properties"]["identity"]) == has_rule


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("checkpoint: {storage: {type: nfs}}", "checkpoint.storage.type"),
        ("checkpoint: {storage: {type: s3}}", "checkpoint.storage.s3.uri"),
        ("checkpoint: {storage: {type: s3, s3: {uri: 's3://key:secret@host/bucket'}}}", "checkpoint.storage.s3.uri"),
        ("checkpoint: {storage: {type: gcs, gcs: {uri: 's3://bucket'}}}", "checkpoint.storage.gcs.uri"),
        ("checkpoint: {storage: {type: azure}}", "checkpoint.storage.azure.uri"),
        ("checkpoint: {storage: {type: fsspec, fsspec: {uri: 'sftp://me:secret@host/d'}}}", "checkpoint.storage.fsspec.uri"),
        ("checkpoint: {security: {profile: privileged}}", "checkpoint.security.profile"),
        ("agent: {cache: {sizeLimit: much}}", "agent.cache.sizeLimit"),
        ("checkpoint: {storgae: {type: s3}}", "storgae"),
        ("checkpoint: {storage: {s3: {url: s3://b}}}", "url"),
        ("checkpoint: {gc: {grace: tomorrow}}", "checkpoint.gc.grace"),
        ("dynamo-operator: {checkpoint: {storage: {type: nfs}}}", "dynamo-operator.checkpoint.storage.type"),
        ("operator: {replicas: two}", "operator.replicas"),
        ("operator: {image: {pullPolicy: Sometimes}}", "operator.image.pullPolicy"),
        ("webhook: {certificates: {mode: none}}", "webhook.certificates.mode"),
        ("agent: {rateLimit: fast}", "agent.rateLimit"),
        ("crds: {install: 'no'}", "crds.install"),
        ("checkpoint: {storage: {pvc: {basePath: /}}}", "checkpoint.storage.pvc.basePath"),
        ("checkpoint: {storage: {pvc: {pvcName: My_Claim}}}", "checkpoint.storage.pvc.pvcName"),
        ("checkpoint: {storage: {keySecretRef: 'a b'}}", "checkpoint.storage.keySecretRef"),
        ("agent: {cache: {hostPath: //}}", "agent.cache.hostPath"),
        ("agent: {sweepInterval: 0m}", "agent.sweepInterval"),
        ("agent: {verifyInterval: '0'}", "agent.verifyInterval"),
        ("operator: {watchNamespaces: [a, a]}", "operator.watchNamespaces"),
        ("operator: {watchNamespaces: [A]}", "operator.watchNamespaces"),
        ("webhook: {allowFrom: [10.0.0.1]}", "webhook.allowFrom"),
    ],
)  # fmt: skip
def test_mistakes_are_named(values, complaint):
    """Before anything is installed."""
    done = run(values)
    assert done.returncode != 0
    assert complaint in done.stderr


def strings(one):
    """Whatever of an object must be a string."""
    if isinstance(one, dict):
        for name, inner in one.items():
            if name in (
                "name",
                "namespace",
                "secretName",
                "claimName",
                "mountPath",
                "path",
                "key",
                "cidr",
                "storageClassName",
            ):
                yield name, inner
            yield from strings(inner)
    elif isinstance(one, list):
        for inner in one:
            yield from strings(inner)


@pytest.mark.parametrize("kind", ["pvc", "s3", "oci", "gcs"])
def test_names_of_digits_alone_stay_names(kind):
    """YAML would take them for numbers, and the API server would not."""
    secrets = dict.fromkeys(("caSecretRef", "keySecretRef", "verifyKeySecretRef"), "123")
    remote = {
        "uri": {"s3": "s3://b", "oci": "oci://h/r", "gcs": "gs://b"}.get(kind, ""),
        "credentialsSecretRef": "456",
    }
    claim = {"pvcName": "789", "create": True, "storageClassName": "012", "basePath": "/a, b: {c}"}
    storage = {"type": kind, "pvc": claim, "oci": {}} | secrets | ({kind: remote} if kind != "pvc" else {})
    values = {
        "checkpoint": {"enabled": True, "storage": storage},
        "agent": {"cache": {"pvc": True, "hostPath": "/x: y"}}, "operator": {"watchNamespaces": ["345"]},
        "webhook": {"allowFrom": ["::1/128"], "certificates": {"secretName": "678"}},
    }  # fmt: skip
    objects = render(yaml.safe_dump(values), "-n", "901")
    found = [(name, one) for item in objects.values() for name, one in strings(item)]
    assert len(found) > 50
    assert not [(name, one) for name, one in found if not isinstance(one, str | dict)]


def test_openshift_chooses_the_users():
    """Its constraints refuse pods that say one, or a seccomp profile."""
    shift = render(S3 + "\n", "--set", "checkpoint.security.openshift=true")
    pod = shift["Deployment", "dynamo-entry-operator"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True}
    pod = render(S3)["Deployment", "dynamo-entry-operator"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 65532


@pytest.mark.parametrize(
    ("values", "keeps"),
    [
        (GUIDE, False), (GUIDE + "agent: {cache: {pvc: true}}", True),
        (GUIDE + "agent: {cache: {pvc: true, enabled: false}}", False), (S3, True),
        (S3 + "\nagent: {cache: {enabled: false}}", False),
    ],
)  # fmt: skip
def test_an_agent_that_keeps_no_copies_has_nothing_of_the_node(values, keeps):
    """A hostPath is refused where the baseline standard is enforced, and would lie there for nothing."""
    pod = render(values)["DaemonSet", "dynamo-checkpoint-agent"]["spec"]["template"]["spec"]
    assert any("hostPath" in one for one in pod["volumes"]) == keeps


def test_the_operators_jobs_run_where_its_pod_does():
    """By the same selector, tolerations and pull policy."""
    where = "operator: {nodeSelector: {a: b}, tolerations: [{key: c, operator: Exists}], image: {pullPolicy: Never}}"
    found = settings(render(GUIDE + where))
    assert found["operator"]["nodeSelector"] == {"kubernetes.io/os": "linux", "a": "b"}
    assert found["imagePullPolicy"] == "Never"
    assert found["operator"]["tolerations"] == [{"key": "c", "operator": "Exists"}]


@pytest.mark.parametrize("name", ["nodeSelector", "tolerations", "imagePullSecrets", "watchNamespaces"])
def test_a_value_of_null_is_none(name):
    """As helm has it: null takes a default away. The operator's settings must be readable all the same."""
    found = settings(render(GUIDE + f"operator: {{{name}: null}}"))
    assert config.parse(yaml.safe_dump(found))


def leaves(values, path=()):
    """The paths of all that can be set; a dict that is empty is one."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("part", ["checkpoint", "checkpointNames", ""])
def test_every_value_has_a_type(part):
    """And none has that is not in values.yaml; what Kubernetes itself describes is left to it."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    known = schema["definitions"][part] if part else schema
    found = values["checkpoint"] if part else {name: values[name] for name in values if name != "checkpoint"}

    def typed(one, path=()):
        for name, inner in one["properties"].items():
            if isinstance(inner, dict) and "properties" in inner:
                yield from typed(inner, (*path, name))
            elif name not in ("checkpoint", "matchExpressions"):
                yield (*path, name)

    def shortened(path):
        """Without what Kubernetes itself describes."""
        return path[:2] if path[1:2] in (("resources",), ("nodeSelector",)) else path

    open_ = {("dynamo-operator",), ("webhook", "namespaceSelector")}
    assert {shortened(path) for path in leaves(found)} - open_ == set(typed(known)) - open_


def test_what_the_platform_adds_is_left_alone():
    """A parent's condition, and values of the platform's own chart beside ours."""
    more = (
        "enabled: true\ndynamo-operator: {enabled: true, natsAddr: a, checkpoint: {enabled: true, later: {}}}"
    )
    assert ("Deployment", "dynamo-entry-operator") in render(more)


def test_the_agents_identity_for_the_cloud():
    """IRSA and workload identity go by an annotation of the service account."""
    values = (
        S3 + "\nagent: {sweepInterval: 1h, serviceAccount: {annotations: {eks.amazonaws.com/role-arn: arn}}}"
    )
    objects = render(values)
    account = objects["ServiceAccount", "dynamo-checkpoint-agent"]
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn"}
    assert settings(objects)["agent"]["sweepInterval"] == "1h"


@pytest.mark.parametrize(("secret", "is_marked"), [("", True), ("login", False)])
def test_azure_knows_an_agent_by_its_label(secret, is_marked):
    """The account's annotation alone gives no identity."""
    values = f"checkpoint: {{enabled: true, storage: {{type: azure, azure: {{uri: az://c, credentialsSecretRef: '{secret}'}}}}}}"
    labels = render(values)["DaemonSet", "dynamo-checkpoint-agent"]["spec"]["template"]["metadata"]["labels"]
    assert (labels.get(api.AZURE_LABEL) == "true") == is_marked


def test_the_agent_has_what_sealed_archives_and_private_authorities_take():
    """Else it could copy nothing."""
    values = "checkpoint: {enabled: true, storage: {type: s3, caSecretRef: ca, keySecretRef: key, signKeySecretRef: sign, verifyKeySecretRef: verify, s3: {uri: s3://b}}}"
    objects = render(values)
    (container,) = objects["DaemonSet", "dynamo-checkpoint-agent"]["spec"]["template"]["spec"]["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert settings(objects)["agent"]["keyFile"] == mounts["key"]
    assert settings(objects)["agent"]["verifyKeyFile"] == mounts["verify-key"]
    assert "sign" not in json.dumps(objects["DaemonSet", "dynamo-checkpoint-agent"])
    env = {one["name"]: one.get("value", "") for one in container["env"]}
    assert env["DYNAMO_CHECKPOINT_CA_FILE"].startswith(mounts["ca"])


@pytest.mark.parametrize("endpoint", ["", "https://minio.example.com"])
def test_no_variable_of_the_agent_is_there_twice(endpoint):
    """A server-side apply refuses such a list. What the values say goes before the Secret."""
    values = yaml.safe_load(S3)
    values["checkpoint"]["storage"]["s3"]["endpointUrl"] = endpoint
    objects = render(yaml.safe_dump(values))
    (container,) = objects["DaemonSet", "dynamo-checkpoint-agent"]["spec"]["template"]["spec"]["containers"]
    names = [one["name"] for one in container["env"]]
    assert len(names) == len(set(names))
    found = [one["value"] for one in container["env"] if one["name"] == "AWS_ENDPOINT_URL"]
    assert found == ([endpoint] if endpoint else [])


@pytest.mark.parametrize(
    ("values", "place"),
    [(GUIDE, "claim checkpoint-storage"), (S3, "s3://bucket/prefix"), (OCI, "oci://host/repository"), (GCS, "gs://bucket/prefix")],
)  # fmt: skip
def test_the_notes_say_where_checkpoints_are(values, place, tmp_path):
    """Of every kind of storage."""
    assert re.search(rf"Checkpoints are kept in \w+: {place}(,|\n)", notes(values, tmp_path))


def rights(objects, account):
    """What an account may do by all roles that it is bound to: place, API group and resource, names → verbs."""
    found = {}
    for (kind, _), binding in objects.items():
        if not kind.endswith("RoleBinding") or account not in {one["name"] for one in binding["subjects"]}:
            continue
        role = objects[binding["roleRef"]["kind"], binding["roleRef"]["name"]]  # no role of others
        place = "everywhere" if kind == "ClusterRoleBinding" else binding["metadata"]["namespace"]
        for rule in role["rules"]:
            for group, resource in itertools.product(rule["apiGroups"], rule["resources"]):
                key = (place, f"{group}/{resource}".lstrip("/"), *rule.get("resourceNames", ()))
                found[key] = " ".join(sorted({*found.get(key, "").split(), *rule["verbs"]}))
    return found


def without_names(objects):
    """Two labels say which chart it was."""
    return yaml.safe_load(re.sub(r"helm.sh/chart: .*", "", yaml.safe_dump(list(objects.values()))))


def test_a_part_of_another_chart_that_is_called_as_in_the_guide(tmp_path):
    """With the guide's values as they are, the parts are those of a chart of its own."""
    part = render(GUIDE, chart=umbrella(tmp_path, alias="dynamo-operator"))
    assert without_names(part) == without_names(render(GUIDE))


def test_a_part_of_another_chart(tmp_path):
    """Under its own name, in either way of writing; the parent's other values do not reach it."""
    inner = yaml.safe_load(GUIDE)
    for number, values in enumerate((inner, inner["dynamo-operator"])):
        other = {"dynamo-operator": {"checkpoint": {"enabled": False}}}
        parent = umbrella(tmp_path / str(number))
        part = render(yaml.safe_dump(other | {"dynamo-entry": values}), chart=parent)
        assert without_names(part) == without_names(render(GUIDE))


#: The release's namespace.
HOME = "dynamo-system"
#: What the operator needs wherever checkpoints are.
WORK = {
    "nvidia.com/dynamocheckpoints": "create delete get list patch watch",
    "nvidia.com/dynamocheckpoints/status": "patch",
    "nvidia.com/dynamocheckpoints/finalizers": "update",
    "nvidia.com/dynamographdeployments": "get list watch",
    "nvidia.com/podsnapshots": "get",
    "batch/jobs": "create delete get list patch watch",
    "pods": "create get list watch",
    "apps/replicasets": "get",
    "apps/statefulsets": "get",
    "persistentvolumeclaims": "get list watch",
    "events": "create patch",
    "namespaces": "get",
}
#: And by name, or in its own namespace.
DEFINITIONS = ("dynamocheckpoints.nvidia.com", "dynamographdeployments.nvidia.com", "podsnapshots.nvidia.com")
OWN = {
    (HOME, "coordination.k8s.io/leases"): "create",
    (HOME, "coordination.k8s.io/leases", "dynamo-entry-operator"): "get update",
    (HOME, "secrets"): "create",
    (HOME, "secrets", "dynamo-entry-webhook-tls"): "get patch",
    ("everywhere", "apiextensions.k8s.io/customresourcedefinitions", *DEFINITIONS): "get",
    **{
        ("everywhere", f"admissionregistration.k8s.io/{kind}webhookconfigurations", f"dynamo-entry-{HOME}"): "get patch"
        for kind in ("mutating", "validating")
    },
}  # fmt: skip


@pytest.mark.parametrize(("watched", "place"), [("", "everywhere"), ("team-a", "team-a")])
def test_the_operator_may_do_this_and_nothing_else(watched, place):
    """No secrets of users, no exec, no nodes; by name what has no namespace."""
    found = rights(render(GUIDE + f"operator: {{watchNamespaces: [{watched}]}}"), "dynamo-entry-operator")
    assert found == OWN | {(place, what): may for what, may in WORK.items()}


def test_an_operator_that_tries_nothing_out_creates_no_pod():
    found = rights(render(S3.replace("{", "{dryRun: false, ", 1)), "dynamo-entry-operator")
    assert found["everywhere", "pods"] == "get list watch"


def test_users_get_rights_to_checkpoints_alone():
    """By the roles that everybody has who may edit, or view."""
    found = {
        label.rpartition("-")[2]: role["rules"]
        for (kind, _), role in render(GUIDE).items()
        if kind == "ClusterRole"
        for label in role["metadata"]["labels"]
        if "/aggregate-to-" in label
    }
    checkpoints = {"apiGroups": ["nvidia.com"], "resources": ["dynamocheckpoints"]}
    edit = [checkpoints | {"verbs": ["create", "update", "patch", "delete", "deletecollection"]}]
    assert found == {
        "edit": edit, "admin": edit, "view": [checkpoints | {"verbs": ["get", "list", "watch"]}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "announces"), [("self-signed", True), ("secret", True), ("cert-manager", False)]
)
def test_who_tells_the_api_server_whom_to_trust(mode, announces):
    """The operator, by name; or cert-manager."""
    objects = render(GUIDE + f"webhook: {{certificates: {{mode: {mode}}}}}")
    rules = objects["ClusterRole", "dynamo-entry-operator-cluster-dynamo-system"]["rules"]
    patched = [rule["resourceNames"] for rule in rules if "patch" in rule["verbs"]]
    assert patched == ([["dynamo-entry-dynamo-system"]] if announces else [])
    annotations = objects["MutatingWebhookConfiguration", "dynamo-entry-dynamo-system"]["metadata"].get(
        "annotations", {}
    )
    assert ("cert-manager.io/inject-ca-from" in annotations) != announces


def test_the_agent_may_do_this_and_nothing_else():
    """It reads checkpoints and pods, and writes conditions, events and its lease."""
    assert rights(render(GUIDE), "dynamo-checkpoint-agent") == {
        ("everywhere", "nvidia.com/dynamocheckpoints"): "get list watch",
        ("everywhere", "nvidia.com/dynamocheckpoints/status"): "patch",
        ("everywhere", "pods"): "list watch",
        ("everywhere", "events"): "create patch",
        (HOME, "coordination.k8s.io/leases"): "create",
        (HOME, "coordination.k8s.io/leases", "dynamo-checkpoint-sweep"): "get update",
    }


def test_replicas_are_apart_and_never_all_gone():
    """By a drain of two nodes, say. One alone may be moved: pods start cold meanwhile."""
    alone, pair = render(GUIDE), render(GUIDE + "operator: {replicas: 2}", "--kube-version", "1.30.0")
    budget = pair["PodDisruptionBudget", "dynamo-entry-operator"]
    pod = pair["Deployment", "dynamo-entry-operator"]["spec"]["template"]
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    for selector in (budget["spec"]["selector"], spread["labelSelector"]):
        assert selector["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert budget["apiVersion"] == "policy/v1"
    assert ("PodDisruptionBudget", "dynamo-entry-operator") not in alone


@pytest.mark.parametrize(
    "values", [GUIDE, GUIDE + "operator: {nodeSelector: {a: b}}\nagent: {nodeSelector: {a: b}}"]
)
def test_nothing_runs_on_windows_nodes(values):
    """A DaemonSet would be on each of them; what the user selects by comes besides."""
    objects = render(values)
    for kind, name in (("Deployment", "dynamo-entry-operator"), ("DaemonSet", "dynamo-checkpoint-agent")):
        selector = objects[kind, name]["spec"]["template"]["spec"]["nodeSelector"]
        assert selector == {"kubernetes.io/os": "linux"} | ({"a": "b"} if "a: b" in values else {})


def test_the_definition_has_all_that_the_operator_writes():
    """What it lacks the API server drops, without a word."""
    found = render(GUIDE)["CustomResourceDefinition", "dynamocheckpoints.nvidia.com"]["spec"]["versions"][0]
    assert found["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"].keys() == api.STATUS


def test_the_webhook_can_refuse_nothing():
    """Every failure lets the pod through, soon."""
    (configuration,) = (
        one for (kind, _), one in render(GUIDE).items() if kind == "MutatingWebhookConfiguration"
    )
    for webhook in configuration["webhooks"]:
        assert webhook["failurePolicy"] == "Ignore"
        assert webhook["timeoutSeconds"] <= 2


def test_a_network_policy_keeps_all_but_the_api_servers_from_the_webhook():
    """Where their addresses are given; metrics stay reachable."""
    assert ("NetworkPolicy", "dynamo-entry-webhook") not in render(GUIDE)
    made = render(GUIDE + "webhook: {allowFrom: [10.0.0.0/28]}")["NetworkPolicy", "dynamo-entry-webhook"]
    first, second = made["spec"]["ingress"]
    assert first["from"] == [{"ipBlock": {"cidr": "10.0.0.0/28"}}]
    assert [one["port"] for one in first["ports"] + second["ports"]] == ["webhook", "metrics"]
