"""The Kubernetes side: operator, pod webhook and node agent. The launcher never imports it."""
