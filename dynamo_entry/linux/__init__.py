"""What the kernel says of processes, mounts, cgroups and this container. One module a man page."""
