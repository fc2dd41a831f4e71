"""Give an engine back what a lost worker took: its GPUs, and for one of Dynamo's workers the word to go on."""

from __future__ import annotations

import os
from typing import Any

from dynamo_entry import cuda
from dynamo_entry.engine import dynamo
from dynamo_entry.linux import proc
from dynamo_entry.scratch import work_directory
from dynamo_entry.settings import Settings
from dynamo_entry.worker.channel import Channel


def run(settings: Settings, channel: Channel) -> dict[str, Any]:
    """PID 1 says ``engine PID``; returns the result message. An engine that cannot be helped is ended."""
    root = int(channel.wait_for_word(10).split()[1])

    def pids() -> list[int]:
        return [process.pid for process in proc.tree(root)]

    if cuda.is_present():
        cuda.for_creation(channel, settings.gpu_timeout).recover(pids)
    handshake = dynamo.Handshake.of_pod(proc.command(os.getppid()), os.environ, work_directory(settings))
    if handshake:
        release = handshake.ready(tuple) or dynamo.RELEASES[0]
        handshake.let_go_or_warn(release, os.environ, pids(), channel.log)
    return {"result": "released", "phase": channel.phase_name}
