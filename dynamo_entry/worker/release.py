"""Give an engine back what a lost worker took: its GPUs, and if it pauses by itself the word to go on."""

from __future__ import annotations

import os

from dynamo_entry import cuda
from dynamo_entry.engine import handshakes
from dynamo_entry.linux import proc
from dynamo_entry.protocol import EngineIs, Outcomes, Result
from dynamo_entry.scratch import work_directory
from dynamo_entry.settings import Settings
from dynamo_entry.worker.channel import Channel


def run(settings: Settings, channel: Channel) -> Result:
    """PID 1 says which engine; returns the result message. An engine that cannot be helped is ended."""
    root = channel.receive(10)
    assert isinstance(root, EngineIs)

    def pids() -> list[int]:
        return [process.pid for process in proc.tree(root.pid)]

    if cuda.is_present():
        cuda.for_creation(channel, settings.gpu_timeout).recover(pids)
    argv = proc.command(os.getppid())
    handshake = handshakes.of_pod(settings.protocol, argv, os.environ, work_directory(settings))
    if handshake:
        handshake.ready(tuple)
        handshakes.let_go_or_warn(handshake, os.environ, argv, pids(), channel.log)
    return Result(Outcomes.RELEASED, channel.phase_name)
