"""Log lines and the result object: what operators and machines read."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dynamo_entry import report


def test_a_json_line_leads_with_time_level_and_event():
    line = report.render({"event": "Restored", "level": "info", "pid": 1000, "empty": ""}, "json")
    fields = json.loads(line)
    assert list(fields) == ["ts", "level", "event", "pid"]
    assert fields["event"] == "Restored"


def test_a_console_line_quotes_blanks():
    line = report.render(
        {"ts": "2026-01-02T03:04:05.678Z", "event": "dump", "seconds": 1.23456, "why": "a b"}, "console"
    )
    assert line == "03:04:05.678 info    dump  seconds=1.23 why='a b'"


def test_a_console_line_spells_out_phases():
    line = report.render(
        {"ts": "2026-01-02T03:04:05.678Z", "event": "Restored", "seconds": {"open": 0.1}}, "console"
    )
    assert line.endswith("Restored  seconds=(open=0.1)")


@pytest.mark.parametrize("descriptor", ["closed", "full"])
def test_a_log_line_never_blocks_or_fails(descriptor):
    """Standard error that nobody reads, or that is closed, must not stop PID 1."""
    code = "from dynamo_entry.report import Log\nfor _ in range(2000): Log().info('x' * 100)\nprint('done')"
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer) as stderr:
        arguments = {"stderr": stderr} if descriptor == "full" else {"preexec_fn": lambda: os.close(2)}
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30, check=True, **arguments
        )
    assert done.stdout == b"done\n"


#: Says that a full pipe is writable, as it was until the engine filled it.
TOO_LATE = """
import select

class Poll:
    def register(self, descriptor, _events):
        self.descriptor = descriptor
    def poll(self, _limit_ms):
        return [(self.descriptor, select.POLLOUT)]

select.poll = Poll
"""


def test_a_log_line_never_blocks_because_somebody_else_was_faster():
    """The pipe is the engine's as well, which finds it as it was: blocking."""
    code = f"{TOO_LATE}\nfrom dynamo_entry.report import Log\nfor _ in range(2000): Log().info('x' * 100)"
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer) as stderr:
        subprocess.run([sys.executable, "-c", code], stderr=stderr, timeout=30, check=True)
        assert os.get_blocking(writer)


def test_a_result_that_nobody_reads_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "status")
    with pytest.raises(OSError, match="No such device or address"):
        report.write_result(str(tmp_path / "status"), {"result": "restored"})


def test_the_result_object_stays_within_its_limit():
    data = report.encode({"result": "failed", "phase": "dump", "message": "é" * 10_000})
    assert len(data) <= report.LIMIT_BYTES
    assert json.loads(data)["result"] == "failed"
    assert json.loads(data)["message"].endswith("…")


def test_the_result_object_is_written_in_place(tmp_path):
    path = tmp_path / "status"
    path.write_text("x" * 5000)
    inode = path.stat().st_ino
    report.write_result(str(path), {"result": "restored"})
    assert json.loads(path.read_text()) == {"v": 1, "result": "restored", "message": ""}
    assert path.stat().st_ino == inode


@pytest.mark.parametrize(
    "value",
    [
        "x" * 100_000, "é" * 5_000, '"' * 5_000, ["name"] * 5_000, {f"n{i}": "x" * 100 for i in range(500)},
        [["x" * 5_000] * 100] * 100, {"a": ["\udcff" * 5_000]}, ("x" * 2_000,) * 3,
    ],
)  # fmt: skip
def test_a_json_line_is_whole_whatever_it_says(value):
    line = report.render(
        {"event": "Falling back to cold start", "reason": "NotFound", "message": value}, "json"
    )
    assert len(line.encode("utf-8", "backslashreplace")) < report.PIPE_BUF
    fields = json.loads(line)
    assert (fields["event"], fields["reason"]) == ("Falling back to cold start", "NotFound")
    assert fields["message"]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "said", ["\x1b[31mred", "a\x85b", "a\u2028b", "a\x7f\x9b2Jb", "\U000e0001", "\udcff", "a\nb"]
)
def test_what_others_say_cannot_act_on_a_terminal_or_end_a_line(log_format, said):
    line = report.render({"event": "x", "message": said}, log_format)
    assert line.isprintable()
    if log_format == "json":
        assert json.loads(line)["message"] == said


def test_a_reader_that_is_gone_is_an_error_and_no_signal():
    """PID 1 passes on to the engine what it gets, and SIGPIPE ends most."""
    reader, writer = os.pipe()
    os.close(reader)
    got = []
    before = signal.signal(signal.SIGPIPE, lambda *_: got.append("PIPE"))
    try:
        with pytest.raises(BrokenPipeError):
            report.write(writer, b"a line\n")
        assert got == []
        assert signal.SIGPIPE not in signal.sigpending()
        os.kill(os.getpid(), signal.SIGPIPE)
        assert got == ["PIPE"], "what others send is still caught"
    finally:
        signal.signal(signal.SIGPIPE, before)
        os.close(writer)
