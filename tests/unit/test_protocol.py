"""What PID 1 and the worker say to each other: whole messages, or nothing."""

import importlib.util
from types import SimpleNamespace

import pytest

from dynamo_entry.errors import CheckpointError
from dynamo_entry.init.loop import LINE_LIMIT_BYTES
from dynamo_entry.protocol import (
    Began,
    ChildGone,
    EngineGone,
    EngineIs,
    Moved,
    Release,
    Result,
    Sources,
    StartEngine,
    Taken,
    Verbs,
    decode,
)
from dynamo_entry.worker.__main__ import _failed

MESSAGES = [
    Began("dump", 3, 4.5),
    Began("dump", stall_s=float("inf")),
    Moved(1 << 40),
    StartEngine({"A": "1", "B": None}, "/run/control"),
    Result(
        "failed", "check", reason="Corrupt", message="é\n", retry=False, seconds={"open": 0.1}, exit_code=181
    ),
    Result("restored", "settle", pid=1000, size_bytes=5, location="/a", digest="d"),
    Sources(["/a b", "s3://c"]),
    EngineIs(1000),
    EngineGone(),
    Taken(),
    Release(1000, may_sleep=True),
    ChildGone(12, 137),
]

GARBAGE = [
    b"", b"42", b"null", b"[]", b"{}", b"\x00\xff", b"[" * 100_000, b'{"kind": "Began"}', b'{"kind": "Moved", "done": "1"}',
    b'{"kind": "Moved", "done": 1, "more": 2}', b'{"kind": "Result", "result": 5, "phase": {}}', b'{"kind": []}',
    b'{"kind": "Result", "result": "failed", "phase": "check"}',
    b'{"kind": "Result", "result": "failed", "phase": "check", "exit_code": 256}',
    b'{"kind": "Result", "result": "failed", "phase": "check", "exit_code": 180, "seconds": {"open": "x"}}',
    b'{"kind": "StartEngine", "environment": {"A": 1}}', b'{"kind": "Sources", "locations": [1]}',
    b'{"kind": "Message"}', b'{"kind": "Result", "result": "restored", "phase": "settle"}', b'{"kind": "Sources", "locations": "/a"}',
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_a_message_is_one_line_and_comes_out_as_it_went_in(message):
    line = message.encode()
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize("line", GARBAGE)
def test_everything_else_is_garbage(line):
    assert decode(line) is None


def test_every_verb_is_a_module_of_the_worker():
    verbs = [name for key, name in vars(Verbs).items() if key.isupper()]
    assert len(verbs) == 4
    for verb in verbs:
        assert importlib.util.find_spec(f"dynamo_entry.worker.{verb}"), verb


def test_a_result_object_holds_what_is_known_and_nothing_private():
    failed = Result("failed", "check", reason="Corrupt", message="m", retry=False, exit_code=181)
    assert failed.reportable() == {
        "result": "failed", "phase": "check", "reason": "Corrupt", "message": "m", "retry": False
    }  # fmt: skip
    assert "pid" not in Result("restored", "settle", pid=7).reportable()


@pytest.mark.parametrize("letter", ["a", "\N{GRINNING FACE}"])
def test_a_long_message_is_told_and_not_taken_for_garbage(letter):
    channel = SimpleNamespace(phase_name="restore", seconds={"open": 0.1})
    for length in (1, 1 << 20):
        line = _failed(channel, Verbs.RESTORE, CheckpointError(letter * length)).encode()
        assert len(line) < LINE_LIMIT_BYTES
        assert decode(line).message.startswith(letter)
