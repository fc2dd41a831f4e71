"""Retries: what is tried again, for how long, and what is reported in the end."""

import math
import time

import pytest

from dynamo_entry.errors import NotFound, StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage.failures import answered
from dynamo_entry.storage.retry import Retry


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """Time that passes only when somebody sleeps."""
    pauses = []
    now = [1000.0]

    def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("tenacity.nap.time.sleep", sleep)
    return pauses


def failing(times, error=None):
    calls = []

    def action():
        calls.append(1)
        if len(calls) <= times:
            raise error or StorageUnavailable("no")
        return len(calls)

    return action


def test_what_may_pass_is_tried_again(slept):
    assert Retry().call(failing(3)) == 4
    assert len(slept) == 3


@pytest.mark.parametrize("kind", [StorageError, StorageDenied, NotFound])
def test_what_is_for_good_is_not(slept, kind):
    with pytest.raises(kind):
        Retry().call(failing(1, kind("no")))
    assert slept == []


def test_the_last_error_is_raised_when_time_is_up(slept):
    with pytest.raises(StorageUnavailable):
        Retry(limit_s=20).call(failing(10**6))
    assert 10 < sum(slept) <= 20


def test_time_starts_anew_with_every_byte(slept):
    """An operation that gets on, if slowly, is not given up."""
    done = [0]

    def action():
        done[0] += 1
        if done[0] < 60:
            raise StorageUnavailable("no")
        return "whole"

    assert Retry(limit_s=10).call(action, progress=lambda: done[0]) == "whole"
    assert sum(slept) > 10


def test_a_large_part_over_a_slow_line_is_sent_again(slept):
    """It moved bytes for longer than a whole operation may stand still, then its connection broke; twice is enough."""

    def slow(then):
        time.sleep(50)
        return then()

    once, for_ever = failing(1), failing(10**6)
    assert Retry(limit_s=42, stall_s=10).call(lambda: slow(once)) == 2
    slept.clear()
    with pytest.raises(StorageUnavailable):
        Retry(limit_s=42, stall_s=10).call(lambda: slow(for_ever))
    assert slept.count(50) == 2


@pytest.mark.parametrize("first_s", [1, 20, 55, 59])
def test_no_large_part_keeps_the_phase_from_its_report(slept, first_s):
    """The phase ends what stalls; whatever the first attempt took, the store gives up before."""
    pauses = iter([first_s])

    def action():
        time.sleep(next(pauses, 0))
        raise StorageUnavailable("no")

    with pytest.raises(StorageUnavailable):
        Retry.within(60).call(action)
    assert sum(slept) <= 60


def test_the_server_is_given_the_time_it_asks_for(slept):
    asked = answered("x", 503, code="SlowDown", retry_after="7")
    assert Retry().call(failing(2, asked)) == 3
    assert all(7 <= pause <= 9 for pause in slept)


def test_a_server_that_asks_for_too_much_is_not_waited_for(slept):
    with pytest.raises(StorageUnavailable):
        Retry(limit_s=5).call(failing(2, answered("x", 503, retry_after="60")))
    assert slept == []


def test_a_store_fails_before_its_phase_is_ended():
    for stall_timeout in (1, 10, 60, 600):
        retry = Retry.within(stall_timeout)
        assert retry.stall_s < retry.limit_s < stall_timeout
    assert Retry.within(math.inf) == Retry()


@pytest.mark.parametrize(
    ("status", "kind", "is_retried"),
    [
        (400, StorageError, False), (401, StorageDenied, False), (403, StorageDenied, False),
        (404, NotFound, False), (408, StorageUnavailable, True), (411, StorageError, False),
        (429, StorageUnavailable, True), (500, StorageUnavailable, True), (502, StorageUnavailable, True),
        (503, StorageUnavailable, True), (504, StorageUnavailable, True), (507, StorageError, False),
    ],
)  # fmt: skip
def test_what_an_answer_means(status, kind, is_retried):
    """The type says what to do; the text says what, where, and the request to ask the server's people about."""
    error = answered("s3://b/k: GetObject", status, code="Word", detail="Because.", request_id="7f3")
    assert type(error) is kind
    assert isinstance(error, StorageUnavailable) == is_retried
    assert error.message == f"s3://b/k: GetObject was answered with {status} Word: Because (request 7f3)"
    reason = "NotFound" if kind is NotFound else "Word"
    assert (error.status, error.reason, error.request_id) == (status, reason, "7f3")


def test_a_refusal_is_one_whatever_its_status():
    """AWS says 400 for an expired token and 404 for a bucket that is not there."""
    for status in (400, 404):
        error = answered("x", status, code="Word", is_refusal=True)
        assert type(error) is StorageDenied
        assert (error.status, error.reason) == (status, "Word")
