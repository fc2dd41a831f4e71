"""What a rebuild leaves behind when it fails."""

from contextlib import closing
from types import SimpleNamespace

import pytest

from dynamo_entry.worker.rebuild import Rebuild


def test_the_threads_are_told_to_stop_before_their_userfaultfds_are_closed():
    """A number that was closed may be that of another file by the time a thread uses it."""
    closed = []

    def phase(*_, **__):
        raise ValueError("no channel")

    rebuild = object.__new__(Rebuild)
    rebuild._settings = SimpleNamespace(stall_timeout=1)
    rebuild._channel = SimpleNamespace(phase=phase)
    rebuild._filler = SimpleNamespace(close=lambda: closed.append("filler"))
    rebuild._standby = Standby(lambda: closed.append("standby"))
    with pytest.raises(ValueError, match="no channel"), rebuild.running():
        pass
    assert closed == ["filler", "standby"]


class Standby(closing):
    """As the real one, a context that ends CRIU."""

    criu = held = None

    def __init__(self, close):
        super().__init__(SimpleNamespace(close=close))
