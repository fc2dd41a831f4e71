"""A node for tests: runs the real containers of the pods bound to it with podman, and reports on them.

What a kubelet does and this does not: metrics, device plugins (the advertised GPUs are a number), resource
limits, port-forward, DNS and service addresses (but that of the API server), updates of mounted secrets,
volumes other than emptyDir, hostPath, persistentVolumeClaim (of a hostPath volume), secret, configMap,
downwardAPI and projected. Stricter than a kubelet: the runtime's seccomp profile is the default; privileged
containers and the host's namespaces are refused.

    python -m node --kubeconfig FILE --state DIRECTORY [--name NAME] [--gpus N] [--mirror IMAGE=LOCAL]…
"""
