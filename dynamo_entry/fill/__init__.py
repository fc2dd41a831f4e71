"""Filling memory in parallel while CRIU holds the rebuilt tasks.

CRIU restores pages one by one: in one thread a task, shared memory serially. So it is served a *skeleton*, in
which large ranges are left out (``plan``, ``skeleton``); when it has rebuilt everything else and is about to let
the tasks go, it waits while threads of ours write the missing pages into them (``filler``, ``memory``).
"""
