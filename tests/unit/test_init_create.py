"""A creation whose worker was lost: how long PID 1 waits for another one that gives the engine back."""

import time
from types import SimpleNamespace

import pytest
from given_events import GivenEvents

from dynamo_entry.init import create
from dynamo_entry.init.loop import Ended, Said, Signalled, Silent
from dynamo_entry.init.signals import signal
from dynamo_entry.protocol import Result

TERM, USR1 = Signalled(signal.SIGTERM), Signalled(signal.SIGUSR1)


@pytest.mark.parametrize(
    ("events", "is_short"),
    [
        ((Said(Result("released", "wake")), Ended(7, 0)), [False, False]),
        ((USR1, Ended(7, 0)), [False, False]),
        ((TERM, Silent()), [False, True]),
        ((TERM, TERM, Ended(7, 0)), [False, True, True]),
    ],
)
def test_a_request_to_end_is_not_kept_waiting(events, is_short):
    loop = GivenEvents(*events)
    engine = SimpleNamespace(events=-1)
    creation = create._Creation(SimpleNamespace(loop=loop, engine_pid=9), engine)
    helper = SimpleNamespace(pid=7, deadline=time.monotonic() + 65, heard=lambda _: None)
    creation._follow_release(helper)
    assert [seconds <= create.CALL_OFF_S for seconds in loop.waited] == is_short
    assert not loop.events


@pytest.mark.parametrize(
    ("argv", "preset", "gpus", "told"),
    [
        (["/entrypoint.sh"], "auto", 1, ["engine not recognised"]),
        (["/entrypoint.sh"], "auto", 0, []),
        (["/entrypoint.sh"], "none", 1, []),
        (["/entrypoint.sh"], "sglang", 1, ["environment preset"]),
        (["vllm", "serve"], "auto", 1, ["environment preset"]),
    ],
)
def test_an_engine_on_gpus_that_nobody_knows_is_told_of(monkeypatch, argv, preset, gpus, told):
    """It would fail in the driver, after minutes."""
    events = []
    monkeypatch.setattr(create, "_gpus", lambda: gpus)
    log = SimpleNamespace(**dict.fromkeys(("info", "warning"), lambda event, **_: events.append(event)))
    settings = SimpleNamespace(preset=preset, pre_dump="")
    loop = SimpleNamespace(listen=lambda _: None)
    supervisor = SimpleNamespace(loop=loop, log=log, settings=settings, argv=argv)
    creation = create._Creation(supervisor, SimpleNamespace(events=-1))
    assert bool(creation._preset()) == ("environment preset" in told)
    assert events == told


def test_a_worker_that_cannot_even_be_killed_is_not_waited_for(monkeypatch):
    """A volume that does not answer may keep it in the kernel for ever; the engine is frozen meanwhile."""
    loop, killed = GivenEvents(Silent(), Silent(), Silent()), []
    worker = SimpleNamespace(
        pid=7, events=-1, deadline=time.monotonic() + 65, phase="publish", gone_by=0.0, call_off=lambda: None,
        kill=lambda: killed.append(7) or setattr(worker, "gone_by", time.monotonic() + 1),
    )  # fmt: skip
    log = SimpleNamespace(error=lambda *_, **__: None)
    creation = create._Creation(SimpleNamespace(loop=loop, engine_pid=9, log=log), worker)
    monkeypatch.setattr(creation, "_worker_ended", lambda code: code)
    assert creation.run() == 137
    assert killed == [7]
    assert loop.waited[-1] <= 1


def test_nothing_is_sent_to_an_engine_that_has_ended(monkeypatch):
    """Its pid, or its process group, may be another's by then."""
    loop, sent = GivenEvents(USR1, Ended(9, 1), USR1, TERM, Ended(7, 0)), []
    worker = SimpleNamespace(
        pid=7, events=-1, deadline=time.monotonic() + 65, phase="wait-ready", gone_by=0.0,
        call_off=lambda: None, tell=lambda _: None,
    )  # fmt: skip
    creation = create._Creation(SimpleNamespace(loop=loop, engine_pid=9, forward=sent.append), worker)
    monkeypatch.setattr(creation, "_worker_ended", lambda code: code)
    assert creation.run() == 0
    assert sent == [signal.SIGUSR1]
