"""A node for tests: a real kubelet and a real containerd in a container of their own, joined to a control plane.

What a node of a real cluster has and this one has not: other services' addresses than the API server's
(kube-proxy), DNS, a device plugin (the advertised GPUs are a number), a registry (images are imported from podman,
and a pull of one of them succeeds at once). Claims are bound to directories on this machine.

    python -m node --kubeconfig FILE --state DIRECTORY --binaries DIRECTORY --service-ip ADDRESS --machine IMAGE
        --sandbox IMAGE --life SECONDS [--name NAME] [--gpus N] [--image IMAGE]… [--mirror NAME=IMAGE]…
"""
