"""What an engine's start fails of, when it is not the command."""

import errno
import os
import subprocess
import sys

import pytest

from dynamo_entry.init import engine
from dynamo_entry.init.engine import StartFailed

#: In a process of its own: the launcher's modules change signals.
START = """
import errno, os, sys
from dynamo_entry.init import engine, freezable, supervisor
from dynamo_entry.linux import io_uring, timens
def refuse(*_):
    raise OSError(errno.ENOSPC, "no")
{change}
try:
    pid = engine.start(engine.Start(["sh", "-c", "exit 3"], {{}}, own_session=True, stdin={stdin!r}))
except engine.StartFailed as error:
    print(error, error.code)
else:
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
NAMESPACE = "timens.may_be_set = lambda: True; timens.enter_new = refuse"
FILTER = "io_uring.may_filter = lambda: True; io_uring.install_filter = refuse"


def started(change="", stdin="/dev/null"):
    script = START.format(change=change, stdin=stdin)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_a_clock_namespace_is_not_needed():
    """user.max_time_namespaces, or a security module, may refuse it."""
    assert started(NAMESPACE) == "ended with 3"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"change": FILTER}, "what makes it fit for a dump: No space left on device 126"),
        ({"stdin": "/nowhere"}, "/nowhere: No such file or directory 126"),
    ],
)
def test_what_the_launcher_cannot_do_is_not_the_commands_fault(how, said):
    assert started(**how) == f"cannot start 'sh': {said}"


def test_the_command_has_the_shells_codes():
    assert StartFailed("x", errno.ENOENT).code == 127
    assert StartFailed("x", errno.EACCES).code == 126
    assert os.strerror(errno.EACCES) in str(StartFailed("x", errno.EACCES))


@pytest.mark.parametrize("command", ["tool", "{}/tool"])
def test_a_script_whose_interpreter_is_gone_is_not_called_missing(tmp_path, monkeypatch, command):
    (tmp_path / "tool").write_text("#!/nowhere/python3\n")
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    said = str(StartFailed(command.format(tmp_path), errno.ENOENT))
    assert said.endswith("the interpreter that it names is not there")


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (errno.ENOENT, True),
        (errno.ESTALE, True),
        (errno.EACCES, True),
        (errno.E2BIG, False),
        (errno.ETXTBSY, False),
    ],
)
def test_a_directory_of_the_path_that_does_not_answer_is_passed_over(monkeypatch, first, found):
    """As by execvp(3); what is there and cannot be run now is not exchanged for another."""
    asked = []

    def execv(path, _):
        asked.append(path)
        raise OSError(first if path == "/a/tool" else errno.EACCES, "")

    monkeypatch.setenv("PATH", "/a:/b")
    monkeypatch.setattr(engine.os, "execv", execv)
    with pytest.raises(OSError, match="Errno"):
        engine._execute(["tool"])
    assert asked == ["/a/tool", "/b/tool"][: 1 + found]


def test_no_process_left_for_raising_the_pids_is_no_end(monkeypatch):
    """The limit of processes may be reached for a moment; where it stays, the start itself says so."""
    from types import SimpleNamespace

    from dynamo_entry.init import supervisor
    from dynamo_entry.settings import Settings

    def refuse(_):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    told = []
    log = SimpleNamespace(warning=lambda event, **fields: told.append(event))
    monkeypatch.setattr(supervisor.process, "raise_pids_above", refuse)
    monkeypatch.setattr(supervisor, "start", lambda how: 7)
    mine = supervisor.Supervisor(SimpleNamespace(), log, Settings(), ["engine"])
    mine.start_for_creation(["engine"], {}, {}, 999)
    assert (mine.engine_pid, told) == (7, ["engine pids not raised"])
