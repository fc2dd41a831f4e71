"""Rewrites images while they are served, so that an engine can be restored where names and numbers differ.

There is one module for each kind of difference: tasks (capabilities, limits, timers, memory), files, sockets (addresses),
unix sockets, pipes and stdio. All except ``pipes.refill``, ``sockets.is_reachable`` and ``files.Lock`` are pure.
``Rewriter`` puts them together.
"""

from dynamo_entry.criu.rewrite.rewriter import Rewriter

__all__ = ["Rewriter"]
