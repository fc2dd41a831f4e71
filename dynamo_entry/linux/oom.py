"""Who goes first when memory runs out (proc_pid_oom_score_adj(5))."""

from __future__ import annotations

_PATH = "/proc/self/oom_score_adj"

#: Rather the worker, whose end is a cold start, than PID 1; not rather than what is wanted least on the node.
_VOLUNTEER = 500


def volunteer() -> int | None:
    """This process first, as far as it may say so; returns what applied before, for ``withdraw``."""
    try:
        with open(_PATH, encoding="ascii") as file:
            before = int(file.read())
        _write(max(before, _VOLUNTEER))
    except OSError:
        return None
    return before


def withdraw(before: int | None) -> None:
    """As if there had been no ``volunteer``, for what must not inherit it: nobody needs a right to go back."""
    try:
        if before is not None:
            _write(before)
    except OSError:
        pass


def _write(value: int) -> None:
    with open(_PATH, "w", encoding="ascii") as file:
        file.write(str(value))
