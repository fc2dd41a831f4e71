"""Releases an engine after its worker was lost: gives its GPUs back, lets it continue if it paused, wakes it.

It also removes what a killed CRIU left.
"""

from __future__ import annotations

import os

from dynamo_entry import cuda
from dynamo_entry.criu import remaps
from dynamo_entry.engine import handshakes, hooks, sleep, sleep_protocols
from dynamo_entry.linux import proc
from dynamo_entry.protocol import Outcomes, Phases, Release, Result
from dynamo_entry.scratch import work_directory
from dynamo_entry.settings import Settings
from dynamo_entry.worker import context_file
from dynamo_entry.worker.channel import Channel


def run(settings: Settings, channel: Channel) -> Result:
    """Release the engine that PID 1 names; returns the result message.

    An engine whose GPUs cannot be given back is ended. Raises CheckpointError if it cannot be woken.
    """
    root = channel.receive(10)
    assert isinstance(root, Release)

    def pids() -> list[int]:
        return [process.pid for process in proc.tree(root.pid)]

    remaps.take_back(pids())
    if cuda.is_present():
        cuda.for_creation(channel, settings.gpu_timeout).recover(pids)
    argv = proc.command(os.getppid())
    work = work_directory(settings)
    handshake = handshakes.of_pod(settings.protocol, argv, os.environ, work)
    if paused := handshake or handshakes.offered(settings.protocol, work):
        handshakes.let_go_or_warn(paused, context_file.environment(settings), argv, pids(), channel.log)
    if root.may_sleep:
        commands = [proc.command(pid) for pid in pids()]
        hook = sleep.hook(settings.pre_dump, commands, is_paused=handshake is not None)
        with channel.phase(Phases.WAKE, stall_s=2 * settings.stall_timeout):
            hooks.wake(sleep_protocols.wake_of(hook), settings.post_restore, settings.stall_timeout, commands)
    return Result(Outcomes.RELEASED, channel.phase_name)
