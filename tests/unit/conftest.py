"""What unit tests of several modules need."""

import pytest

from dynamo_entry.archive.manifest import TRAILER_BYTES


@pytest.fixture
def short_tail(monkeypatch):
    """Archives are opened by their last bytes: else small ones are read wholly then."""
    monkeypatch.setattr("dynamo_entry.archive.reader._TAIL_BYTES", TRAILER_BYTES)
