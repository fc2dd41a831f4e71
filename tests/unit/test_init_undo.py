"""PID 1 has a restore taken back: a request to end shortens that, and does not break it off."""

from types import SimpleNamespace

import pytest
from given_events import GivenEvents

from dynamo_entry.init import undo
from dynamo_entry.init.loop import Ended, Said, Signalled, Silent
from dynamo_entry.init.signals import signal
from dynamo_entry.protocol import Result
from dynamo_entry.settings import Settings


@pytest.fixture
def take_back(monkeypatch):
    killed = []

    def run(*events, limit_s=undo.LIMIT_S):
        worker = SimpleNamespace(
            pid=7, events=-1, result=None, gone_by=0.0, close=lambda: None,
            kill=lambda: killed.append(7) or setattr(worker, "gone_by", 1.0),
            heard=lambda message: setattr(worker, "result", message),
        )  # fmt: skip
        monkeypatch.setattr(undo, "Worker", lambda *_: worker)
        warnings, held, loop = [], [], GivenEvents(*events)
        log = SimpleNamespace(warning=lambda event, **fields: warnings.append((event, fields)))
        supervisor = SimpleNamespace(loop=loop, settings=Settings(), log=log)
        return undo.take_back(supervisor, held, limit_s), held, warnings, loop

    run.killed = killed
    return run


DONE = (Said(Result("undone", "start")), Ended(7, 0))


def test_it_is_done_to_its_end(take_back):
    assert take_back(*DONE)[:3] == (0, [], [])
    assert not take_back.killed


def test_a_request_to_end_waits_for_it_as_long_as_a_pod_has_time(take_back):
    term, usr1, hup = (Signalled(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP))
    number, held, warnings, loop = take_back(usr1, term, hup, *DONE)
    assert (number, held, warnings) == (
        signal.SIGTERM, [signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP], []
    )  # fmt: skip
    assert not loop.events
    assert loop.waited[1] > undo.CALLED_OFF_S + 1
    assert loop.waited[2] <= undo.CALLED_OFF_S


def test_what_takes_too_long_is_said(take_back):
    number, _, [(event, _)], _ = take_back(Signalled(signal.SIGTERM), Silent(), Ended(7, 137))
    assert (number, event) == (signal.SIGTERM, "filesystem delta not undone")
    assert take_back.killed == [7]


def test_what_cannot_even_be_killed_is_left(take_back):
    assert take_back(Silent(), Silent())[0] == 0
