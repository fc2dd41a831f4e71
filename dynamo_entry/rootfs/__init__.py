"""What an engine left in its container's own filesystem: found (changes), packed, applied, undone.

A restored process finds its files by path. Those on volumes come with the volume; those in the
container's layer and in its tmpfs mounts are carried along as a *delta*: one tar and one index.
"""
