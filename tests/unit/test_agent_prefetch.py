"""Which copies a node keeps."""

import threading
import time

import pytest

from dynamo_entry.errors import StorageUnavailable
from dynamo_entry.kube.agent.cache import Entry
from dynamo_entry.kube.agent.prefetch import Limiter, Plan, Prefetcher, Room, Wanted, plan
from dynamo_entry.kube.metrics import AgentMetrics

NOW = 1_000_000.0
ROOMY = Room(limit=100, spare=100)


def want(name, size=10, **fields):
    return Wanted(name=name, hash=name, location=f"s3://b/{name}.tar", size=size, digest="d", **fields)


def have(name, size=10, digest="d", **fields):
    return Entry(source=f"s3://b/{name}.tar", digest=digest, size=size, **fields)


def decide(wanted, cached=(), used=None, room=ROOMY):
    made = plan(wanted, dict(cached), used or {}, room, NOW)
    return [one.name for one in made.fetch], list(made.evict)


@pytest.mark.parametrize(
    ("case", "wanted", "cached", "used", "room", "expected"),
    [
        ("nothing to do", [], {}, {}, ROOMY, ([], [])),
        ("a Ready checkpoint is fetched", [want("a")], {}, {}, ROOMY, (["a"], [])),
        ("one that is there is not", [want("a")], {"a": have("a")}, {}, ROOMY, ([], [])),
        ("a changed one is fetched anew", [want("a")], {"a": have("a", digest="old")}, {}, ROOMY, (["a"], [])),
        ("the annotation forbids", [want("a", pinned=False)], {}, {}, ROOMY, ([], [])),
        (
            "the most recently used first, then the newest",
            [want("old", created_at=1), want("new", created_at=2), want("used")], {}, {"used": NOW - 5000}, ROOMY,
            (["used", "new", "old"], []),
        ),
        (
            "the annotation goes before use",
            [want("used"), want("pinned", pinned=True)], {}, {"used": NOW - 5000}, ROOMY, (["pinned", "used"], []),
        ),
        (
            "as long as all fit, smaller ones further down included",
            [want("big", 90, created_at=3), want("bigger", 20, created_at=2), want("small", 10, created_at=1)],
            {}, {}, ROOMY, (["big", "small"], []),
        ),
        ("the disk is the limit, too", [want("a", 60)], {}, {}, Room(limit=100, spare=50), ([], [])),
        ("what nobody wants stays while there is room", [want("a")], {"x": have("x")}, {}, ROOMY, (["a"], [])),
        (
            "and goes when there is none, the least recently used first",
            [want("a", 50)], {"x": have("x", 40, used_at=2), "y": have("y", 40, used_at=1)}, {}, ROOMY, (["a"], ["y"]),
        ),
        (
            "never one that a pod just began to read",
            [want("a", 90, pinned=True)], {"x": have("x", 40)}, {"x": NOW - 60}, ROOMY, ([], []),
        ),
        (
            "a renewed copy needs room beside the old one, which stays meanwhile",
            [want("a", 60)], {"a": have("a", 60, digest="old")}, {}, ROOMY, ([], []),
        ),
        (
            "a smaller limit evicts",
            [want("a", 60, created_at=2), want("b", 60, created_at=1)], {"a": have("a", 60), "b": have("b", 60)}, {},
            ROOMY, ([], ["b"]),
        ),
    ],
)  # fmt: skip
def test_plan(case, wanted, cached, used, room, expected):
    """The table above."""
    assert decide(wanted, cached, used, room) == expected, case


def test_a_limited_rate():
    """So many bytes take so many seconds, whoever asks for them."""
    limiter = Limiter(1_000_000)
    began = time.monotonic()
    threads = [threading.Thread(target=lambda: [limiter.take(50_000) for _ in range(3)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.24 < time.monotonic() - began < 5


class Log:
    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append(event)

    warning = info


class SlowCache:
    """Counts how many fetches run at once."""

    def __init__(self):
        self.running = self.most = 0
        self.begun, self.removed = [], []
        self.go_on = threading.Event()

    def fetch(self, name, *_, digest=""):
        self.begun.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.go_on.wait(30)
        self.running -= 1
        if name == "bad":
            raise StorageUnavailable("no answer", reason="a word of the server's")
        return have(name)

    def remove(self, name):
        self.removed.append(name)


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_at_a_time_and_each_once():
    """However often the same plan is made."""
    cache = SlowCache()
    prefetcher = Prefetcher(cache, AgentMetrics(), Log(), Limiter(0), threading.Event())
    wanted = Plan((want("a"), want("b"), want("c")), ("x",))
    for _ in range(3):
        prefetcher.follow(wanted)
    wait_until(lambda: cache.running == 2)
    assert cache.begun == ["a", "b"]
    cache.go_on.set()
    wait_until(lambda: cache.running == 0)
    assert cache.removed == ["x"] * 3


def test_a_failure_is_counted_and_waits():
    """The same fetch is not begun again at once."""
    cache, metrics, log = SlowCache(), AgentMetrics(), Log()
    cache.go_on.set()
    prefetcher = Prefetcher(cache, metrics, log, Limiter(0), threading.Event())
    prefetcher.follow(Plan((want("bad"),), ()))
    wait_until(lambda: "copy failed" in log.lines)
    wait_until(lambda: not prefetcher._running)
    prefetcher.follow(Plan((want("bad"),), ()))
    assert cache.begun == ["bad"]
    errors = metrics.registry.get_sample_value(
        "dynamo_checkpoint_prefetch_errors_total", {"reason": "StorageUnavailable"}
    )
    assert errors == 1
