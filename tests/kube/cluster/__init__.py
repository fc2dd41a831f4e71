"""A real Kubernetes control plane on loopback, for one test session."""
