"""Filling memory in parallel while CRIU holds the rebuilt tasks.

CRIU restores pages one by one: in one thread a task, shared memory serially. So it is served a *skeleton*, in
which large ranges are left out (``plan``, ``served``); when it has rebuilt everything else and is about to let
the tasks go, it waits while threads of ours write the missing pages into them (``filler``, ``memory``).

Tried and dropped: huge pages, by advising dense mappings (in the mm images, before CRIU makes them). With memory to
spare the fill took a third less processor time (0.6 instead of 0.9 s per GiB); on a busy machine, where huge pages have
to be made first, 3 to 5 times as long.
"""
