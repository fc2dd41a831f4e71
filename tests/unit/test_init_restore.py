"""From the moment at which PID 1 has heard of a restored engine it is PID 1's, whatever becomes of the worker."""

from types import SimpleNamespace

import pytest
from given_events import GivenEvents

from dynamo_entry.init import restore
from dynamo_entry.init.loop import Ended, Said, Signalled, Silent
from dynamo_entry.init.signals import signal
from dynamo_entry.protocol import ChildGone, Result, Taken
from dynamo_entry.settings import Settings

WORKER, ENGINE = 7, 1000
RESTORED = Said(Result("restored", "settle", pid=ENGINE))
TERM = Signalled(signal.SIGTERM)


@pytest.fixture
def run(monkeypatch):
    """How a restore with these events ended: (what was done, in order; how many events were not taken)."""
    done = []
    monkeypatch.setattr(restore.tree, "is_child", lambda pid: pid == ENGINE and run.is_there)
    monkeypatch.setattr(restore.tree, "are_working", lambda: run.working.pop(0) if run.working else False)
    monkeypatch.setattr(restore.tree, "kill_all", lambda: done.append("all killed"))
    monkeypatch.setattr(restore.undo, "take_leftovers_back", lambda *_: done.append("undone") or 0)
    monkeypatch.setattr(restore.undo, "take_back", lambda *_: done.append("undone") or 0)

    def run(*events):
        done.clear()
        loop = GivenEvents(*events)
        worker = SimpleNamespace(
            pid=WORKER,
            events=-1,
            deadline=float("inf"),
            phase="settle",
            result=None,
            is_garbled=False,
            gone_by=0.0,
        )
        worker.close = lambda: None
        worker.kill = lambda: done.append("worker killed") or setattr(worker, "gone_by", 1.0)
        worker.tell = lambda message, **_: done.append(type(message))
        worker.heard = lambda message: setattr(worker, "result", message)
        worker.lost = lambda what, code: Result("failed", "settle", message=what, exit_code=code)
        supervisor = SimpleNamespace(
            loop=loop, settings=Settings(min_uptime=0), engine_pid=0, engine_end=float("inf"), is_asked_to_end=False,
            log=SimpleNamespace(info=lambda *_, **__: None), report=lambda result: None,
            forward=lambda number: done.append(f"forwarded {number}"), follow=lambda: done.append("followed") or 0,
            fall_back=lambda result, held: done.append(result.message) or 1,
        )  # fmt: skip
        code = restore._Restoration(supervisor, worker).run()
        assert not loop.events
        run.waited = loop.waited
        return done, code

    run.is_there, run.working = True, []
    return run


def test_it_is_followed_once_the_worker_has_dropped_what_it_kept(run):
    assert run(RESTORED, Ended(WORKER, 0)) == ([Taken, "followed"], 0)


def test_a_request_to_end_is_the_engines_then(run):
    assert run(RESTORED, TERM, Ended(WORKER, 0)) == ([Taken, "forwarded 15", "followed"], 0)


def test_a_request_to_end_before_that_leaves_nothing(run):
    assert run(TERM) == (["worker killed", "all killed", "undone"], 143)


@pytest.mark.parametrize(
    "ends",
    [(Ended(WORKER, 137),), (Silent(), Ended(WORKER, 137)), (Silent(), Silent())],
    ids=["dies", "hangs", "cannot even be killed"],
)
def test_a_worker_that_is_lost_then_costs_nothing(run, ends):
    done, code = run(RESTORED, *ends)
    assert [what for what in done if what != "worker killed"] == [Taken, "followed"]
    assert code == 0


def test_a_worker_that_stops_does_not_hold_up_the_end_of_its_engine(run):
    for events in ((RESTORED, Ended(ENGINE, 3)), (Ended(ENGINE, 3), RESTORED)):
        run.is_there = events[0] is RESTORED
        done, code = run(*events, Silent(), Ended(WORKER, 137))
        assert run.waited[1] == float("inf")
        assert run.waited[2] <= 10
        assert (done[-1], code) == ("worker killed", 3)


def test_a_worker_that_is_lost_before_costs_the_restore(run):
    done, code = run(Ended(WORKER, 137))
    assert (done[-2:], code) == (["undone", "ended with 137"], 1)


def test_an_engine_that_is_not_there_is_not_taken(run):
    done, _ = run(Said(Result("restored", "settle", pid=ENGINE + 1)))
    assert done[-1] == "reported an engine that is not there"
    assert Taken not in done


def test_a_process_that_had_the_engines_pid_before_is_not_taken_for_it(run):
    assert run(Ended(ENGINE, 3), RESTORED, Ended(WORKER, 0)) == ([ChildGone, Taken, "followed"], 0)


def test_killed_tasks_give_back_their_memory_and_ports_before_a_cold_start(run):
    run.working = [True, True, False]
    done, code = run(Ended(WORKER, 137), Silent(), Ended(ENGINE, 137))
    assert (done, code) == (["worker killed", "all killed", "undone", "ended with 137"], 1)


def test_nobody_waits_for_them_who_is_to_end(run):
    run.working = [True] * 9
    done, code = run(Ended(WORKER, 137), TERM)
    assert (done, code) == (["worker killed", "all killed", "undone"], 143)
