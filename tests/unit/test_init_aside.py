"""PID 1 does not wait for volumes that never answer."""

import errno
import os
import subprocess
import sys

import pytest

#: In a process of its own: the launcher's modules change signals.
SCRIPT = """
import errno, os, time
from types import SimpleNamespace
from dynamo_entry.init import aside, run, supervisor
from dynamo_entry.init.loop import Loop
from dynamo_entry.init.signals import signal
from dynamo_entry.protocol import Result
from dynamo_entry.settings import Settings
def hang(*_):
    time.sleep(600)
def refuse(*_):
    raise BlockingIOError
def report(path):
    log = SimpleNamespace(warning=lambda event, **fields: print(event, fields["error"]))
    supervisor.Supervisor(loop, log, Settings(status_file=path), []).report(Result("cold", "start"))
loop = Loop()
numbers = [signal.SIGUSR1, signal.SIGUSR2]
for number in numbers:
    os.kill(os.getpid(), number)
{code}
assert [loop.next().number for _ in numbers] == numbers, "none is lost meanwhile, and none overtakes another"
"""

NO_PROCESS = "aside._start = refuse\n"


def said(code):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(code=code)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("before", ["", NO_PROCESS])
@pytest.mark.parametrize(
    ("path", "may"), [("/etc", True), ("/none/a.tar", False), ("/etc/passwd/a.tar", False), ("", False)]
)
def test_an_archive_is_looked_for(before, path, may):
    assert said(f"{before}print(run._may_be_there(loop, {path!r}))") == str(may)


@pytest.mark.parametrize("why", ["hang", "refuse"])
def test_what_a_volume_does_not_say_the_worker_finds_out(why):
    """It has a limit, and names the error."""
    assert said(f"os.stat = {why}; print(run._may_be_there(loop, '/volume/a.tar'))") == "True"


@pytest.mark.parametrize("before", ["", NO_PROCESS])
def test_a_result_is_written_or_its_error_told(tmp_path, before):
    assert said(f"{before}report({str(tmp_path / 'status')!r}); report('/nowhere/x')").endswith(
        "No such file or directory"
    )
    assert '"result": "cold"' in (tmp_path / "status").read_text()


def test_a_result_that_cannot_be_written_holds_nothing_up(tmp_path):
    code = f"supervisor.write_result = hang; report({str(tmp_path / 'status')!r})"
    assert said(code) == f"status not written {os.strerror(errno.ETIMEDOUT)}"


def test_who_reads_of_a_failure_in_the_log_finds_the_result(tmp_path):
    """Probes and people follow the log, and then look into the file."""
    code = f"""
path = {str(tmp_path / "status")!r}
log = SimpleNamespace(warning=lambda event, **_: print(event, os.path.exists(path)))
settings = Settings(status_file=path, on_failure="fail")
supervisor.Supervisor(loop, log, settings, []).fall_back(Result("failed", "check", exit_code=5))
"""
    assert said(code) == "Restore failed True"
