"""PID 1 does not wait for volumes that never answer."""

import subprocess
import sys

import pytest

#: In a process of its own: the launcher's modules change signals.
SCRIPT = """
import errno, os, time
from types import SimpleNamespace
from dynamo_entry.init import aside, run, supervisor, tree
aside._LIMIT_S = 0.3
from dynamo_entry.init.loop import Loop, Signalled
from dynamo_entry.init.signals import signal
from dynamo_entry.protocol import Result
from dynamo_entry.settings import Settings
def hang(*_):
    time.sleep(90)  # longer than the test waits
def refuse(*_):
    raise BlockingIOError
def report(path):
    log = SimpleNamespace(warning=lambda event, **fields: print(event, *fields.values()))
    supervisor.Supervisor(loop, log, Settings(status_file=path), []).report(Result("cold", "start"))
loop = Loop()
numbers = [signal.SIGUSR1, signal.SIGUSR2]
for number in numbers:
    os.kill(os.getpid(), number)
{code}
found = []
while len(found) < len(numbers):
    found += [event.number for event in (loop.next(),) if isinstance(event, Signalled)]
assert found == numbers, "none is lost meanwhile, and none overtakes another"
"""

NO_PROCESS = "aside.signals.fork = refuse\n"


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
    assert said(f"{before}print(run._may_be_there({path!r}))") == str(may)


@pytest.mark.parametrize("why", ["hang", "refuse"])
def test_what_a_volume_does_not_say_the_worker_finds_out(why):
    """It has a limit, and names the error."""
    assert said(f"os.stat = {why}; print(run._may_be_there('/volume/a.tar'))") == "True"


@pytest.mark.parametrize("before", ["", NO_PROCESS])
def test_a_result_is_written_or_its_error_told(tmp_path, before):
    assert said(f"{before}report({str(tmp_path / 'status')!r}); report('/nowhere/x')").endswith(
        "No such file or directory"
    )
    assert '"result": "cold"' in (tmp_path / "status").read_text()


def test_a_result_that_cannot_be_written_holds_nothing_up(tmp_path):
    path = str(tmp_path / "status")
    assert said(f"supervisor.write_result = hang; report({path!r})") == f"status is written late {path}"


#: For what takes signals itself.
AGAIN = "[os.kill(os.getpid(), number) for number in numbers]\n"

#: Writing waits until somebody reads from the fifo, and does not end by a signal: a volume that is slow.
SLOW = """
fifo, path = {fifo!r}, {path!r}
os.mkfifo(fifo)
for _ in numbers:
    loop.next()
write = supervisor.write_result
def slowly(path, fields):
    os.write(os.open(fifo, os.O_WRONLY), b"x")
    write(path, fields)
supervisor.write_result = slowly
log = SimpleNamespace(warning=lambda event, **fields: print(event))
it = supervisor.Supervisor(loop, log, Settings(status_file=path, stop_grace={grace}), [])
it.report(Result("cold", "start"))
"""


def slow(tmp_path, grace):
    return SLOW.format(fifo=str(tmp_path / "fifo"), path=str(tmp_path / "status"), grace=grace)


def test_a_result_that_is_written_late_is_not_lost(tmp_path):
    code = f"""{slow(tmp_path, 30)}
reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
it.end_rest()
print(tree.has_children())
{AGAIN}"""
    assert said(code).split("\n") == ["status is written late", "False"]
    assert '"result": "cold"' in (tmp_path / "status").read_text()


def test_a_later_result_takes_the_place_of_one_that_is_late(tmp_path):
    code = f"""{slow(tmp_path, 30)}
supervisor.write_result = write
it.report(Result("failed", "start", exit_code=5))
it.end_rest()
print(tree.has_children())
{AGAIN}"""
    assert said(code).split("\n") == ["status is written late", "False"]
    assert '"result": "failed"' in (tmp_path / "status").read_text()


def test_the_end_waits_for_a_late_result_no_longer_than_for_anything_else(tmp_path):
    assert said(f"{slow(tmp_path, 0.1)}it.end_rest(); print(tree.has_children()); {AGAIN}").endswith("False")
    assert not (tmp_path / "status").exists()


def test_what_cannot_be_killed_does_not_hold_up_the_end(tmp_path):
    """A process that is stuck in the kernel: it was killed, and does not end."""
    code = f"""
os.stat = hang
tree.send, send = lambda pids, number: None, tree.send
tree.is_dying = lambda pid: True
assert run._may_be_there("/volume/a.tar")
(stuck,) = tree._children()
log = SimpleNamespace(warning=print)
loop.next = lambda deadline=None: print("waited")
supervisor.Supervisor(loop, log, Settings(), []).end_rest()
tree.kill_all(600)
print(tree.has_children())
loop = Loop()
os.kill(stuck, signal.SIGKILL)
while tree.is_child(stuck):
    tree.reap()
print(stuck in tree._may_hang)
{AGAIN}"""
    assert said(code).split("\n") == ["False", "False"]


def test_nothing_goes_on_while_everything_is_killed():
    """A task that CRIU holds would run if CRIU were killed first, and CRIU would go on without its script."""
    code = """
children = set()
for _ in range(3):
    children.add(os.fork())
    if 0 in children:
        time.sleep(90)
sent = []
tree.send, send = lambda pids, number: (sent.append((set(pids), number)), send(pids, number)), tree.send
tree.kill_all()
print(sent[:2] == [(children, signal.SIGSTOP), (children, signal.SIGKILL)], tree.has_children())
"""
    assert said(code) == "True False"


def test_who_reads_of_a_failure_in_the_log_finds_the_result(tmp_path):
    """Probes and people follow the log, and then look into the file."""
    code = f"""
path = {str(tmp_path / "status")!r}
log = SimpleNamespace(warning=lambda event, **_: print(event, os.path.exists(path)))
settings = Settings(status_file=path, on_failure="fail")
supervisor.Supervisor(loop, log, settings, []).fall_back(Result("failed", "check", exit_code=5))
"""
    assert said(code) == "Restore failed True"


@pytest.mark.parametrize(
    ("hangs", "said_then"), [("hang", "taken back\ntaken back"), ("lambda _: False", "")]
)
def test_a_scratch_directory_that_does_not_answer_is_taken_for_one_with_leftovers(hangs, said_then):
    """The worker that takes back has a limit."""
    code = f"""
from dynamo_entry.init import undo
os.path.lexists = {hangs}
undo.take_back = lambda *_: print("taken back") or 0
settings = Settings(work_dir="/volume", on_failure="fail", status_file="/dev/null")
log = SimpleNamespace(warning=lambda event, **_: None)
for start_cold in (run._start_cold, undo.start_cold):
    assert start_cold(supervisor.Supervisor(loop, log, settings, []), Result("failed", "start", exit_code=5)) == 5
"""
    assert said(code) == said_then


@pytest.mark.parametrize(
    ("before", "place", "is_remembered"),
    [("", "refused", True), ("", "none/refused", False), ("refusals.write_new = hang", "refused", False)],
)
def test_only_what_was_written_counts_as_remembered(tmp_path, before, place, is_remembered):
    """The log names no file that is not there."""
    path = tmp_path / place
    code = f"""
from dynamo_entry.checks import refusals
from dynamo_entry.init.restore import _Restoration
{before}
log = SimpleNamespace(warning=lambda event, **fields: print(event, fields["remembered"]))
it = SimpleNamespace(_supervisor=supervisor.Supervisor(loop, log, Settings(status_file="/dev/null"), []))
_Restoration._ended_early(it, Result("restored", "settle", refusal={str(path)!r}), 3, 0.5)
"""
    assert said(code) == f"restored engine ended early {path if is_remembered else ''}".strip()
    assert path.exists() == is_remembered
