"""What is written down about an engine that goes on meanwhile."""

import os

from dynamo_entry.linux import mounts
from dynamo_entry.worker import manifest_head


def test_a_file_of_a_volume_may_be_removed_while_it_is_looked_at(tmp_path, monkeypatch):
    """By the engine, or by another pod that shares the volume."""
    path = tmp_path / "file"
    path.write_text("some")
    real = os.stat

    def stat(found, *more, **how):
        status = real(found, *more, **how)
        if found == str(path):
            os.unlink(path)
        return status

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(mounts, "volume_of", lambda *_: "/volume")
    with path.open("r+b") as file:
        assert manifest_head.binding({os.getpid(): {file.fileno(): str(path)}}, [], ()) == []
