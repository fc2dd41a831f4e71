"""Images are rewritten as they are served, so that an engine comes back where things are called otherwise.

One module for each kind of thing that differs: tasks (capabilities, limits, timers, memory), files, sockets (addresses),
unix sockets, pipes and stdio. All but ``pipes.refill``, ``sockets.is_reachable`` and ``files.Lock`` are pure. ``Rewriter``
puts them together.
"""

from dynamo_entry.criu.rewrite.rewriter import Rewriter, Source

__all__ = ["Rewriter", "Source"]
