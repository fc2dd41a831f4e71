"""The Kubernetes side: operator, pod webhook and node agent. Never imported by the launcher."""
