"""Images are rewritten as they are served, so that an engine comes back where things are called otherwise.

One module for each thing that differs: tasks (capabilities, limits), mappings, sockets (addresses),
stdio, pipes, timers, and regular files. All but ``pipes.refill`` and ``sockets.is_reachable`` are pure. ``Rewriter`` puts them together.
"""

from dynamo_entry.criu.rewrite.rewriter import Rewriter, Source

__all__ = ["Rewriter", "Source"]
