"""The node agent, DaemonSet ``dynamo-checkpoint-agent``: copies of checkpoints on the node, and the storage sweep.

Nothing waits for it: a pod without a copy streams its checkpoint from storage itself.
"""
