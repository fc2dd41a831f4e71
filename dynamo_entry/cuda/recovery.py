"""Gives processes that were locked or checkpointed their GPU back, or ends the engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from dynamo_entry.cuda import abi, failures
from dynamo_entry.cuda.abi import State
from dynamo_entry.cuda.session import Session, candidates

Pids = Callable[[], list[int]]

#: The pause between two rounds of unlocking.
_ROUND_S = 0.05


def recover(session: Session, log: Any, pids: Pids) -> None:
    """Give processes that another worker left locked their GPU back."""
    asked = candidates(pids())
    session.join_job(asked)
    answers = session.ask("state", asked)
    without = {pid for pid, answer in answers.items() if answer.code in abi.NO_CONTEXT}
    give_back(session, log, pids, set(asked) - without)


def give_back(session: Session, log: Any, pids: Pids, known: Iterable[int]) -> None:
    """Make those of ``known`` that still exist run again. An engine for which that fails is ended."""
    began = time.monotonic()
    left = sorted(set(known).intersection(pids()))
    if not left:
        return
    if why := _thaw(session, left):
        log.error("engine ended: GPU state lost", pids=left, why=why)
        for pid in pids():
            with suppress(ProcessLookupError):  # it has ended, with one of the others
                os.kill(pid, signal.SIGKILL)
        return
    log.info("GPU given back", processes=len(left), seconds=round(time.monotonic() - began, 3))


def _thaw(session: Session, pids: list[int]) -> str:
    """Unlock all of them, whatever state they are in; returns the reason if that fails.

    If ranks block each other (NCCL), one answers only when another is unlocked, and a process that is being locked does
    not answer until that is done, or the driver gives up. Hence the rounds, until all of them are seen to run.
    """
    waiting, rounds_left = pids, len(pids) + 1
    deadline = time.monotonic() + session.limit_s("lock")
    while rounds_left > 0 or time.monotonic() < deadline:
        rounds_left -= 1
        waiting = [pid for pid in waiting if candidates([pid])]
        states = session.states(waiting)
        if lost := [pid for pid, state in states.items() if state == State.FAILED]:
            return f"the CUDA state of process {lost[0]} is FAILED"
        for action, state in (("restore", State.CHECKPOINTED), ("unlock", State.LOCKED)):
            ready = sorted(pid for pid in waiting if states.get(pid) == state)
            for pid, answer in session.ask(action, ready).items():
                if action == "restore" and answer.code:
                    return failures.of_call(action, pid, answer.code, answer.name).message
            states |= session.states(ready)
        waiting = [pid for pid in waiting if states.get(pid) != State.RUNNING]
        if not waiting:
            return ""
        time.sleep(_ROUND_S)
    return f"process {', '.join(map(str, waiting))} cannot be unlocked or does not answer"
