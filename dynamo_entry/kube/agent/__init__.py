"""The node agent, DaemonSet ``dynamo-checkpoint-agent``: copies of checkpoints on the node, and the sweep of storage.

Nothing waits for it: a pod without a copy streams its checkpoint from storage itself.
"""
