"""Give an engine its GPUs back that a lost worker took away."""

from __future__ import annotations

from typing import Any

from dynamo_entry import cuda
from dynamo_entry.linux import proc
from dynamo_entry.settings import Settings
from dynamo_entry.worker.channel import Channel


def run(settings: Settings, channel: Channel) -> dict[str, Any]:
    """PID 1 says ``engine PID``; returns the result message. An engine that cannot be helped is ended."""
    root = int(channel.wait_for_word(10).split()[1])
    cuda.for_creation(channel, settings.gpu_timeout).recover(
        lambda: [process.pid for process in proc.tree(root)]
    )
    return {"result": "thawed", "phase": channel.phase_name}
