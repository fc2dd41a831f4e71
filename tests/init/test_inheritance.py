"""The engine gets what the launcher was given: the very same, clean, and nothing more."""

import os
import resource
import socket

import pytest


def status_of(run):
    assert run.exit_code() == 0, run.output
    return {name: value.strip() for name, _, value in (line.partition(":") for line in run.lines)}


def test_default_dispositions_and_an_empty_mask(start, probe):
    """Although Python ignores SIGPIPE and SIGXFSZ, and although the launcher itself inherited worse."""
    engine = status_of(start("cat", "/proc/self/status", prefix=(probe, "dirty")))
    for field in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(engine[field], 16) == 0, (field, engine[field])


def test_sigpipe_ends_a_pipeline_as_it_should(start):
    run = start("sh", "-c", "yes | head -n 1; kill -l $(($? + 0)) 2>/dev/null; yes | true")
    assert run.exit_code() == 0
    assert "Broken pipe" not in run.output


def test_the_environment_byte_for_byte(start, probe):
    """Order, duplicates, bytes that are no text, entries without a name or without a value."""
    run = start("cat", "/proc/self/environ", prefix=(probe, "oddenv"))
    assert run.exit_code() == 0
    *entries, path = bytes(run.raw).split(b"\0")[:-1]
    odd = [b"B=\xff\xfe", b"A=1", b"A=2", b"NOVALUE", b"=x", b"EMPTY=", b"PATH=/usr/bin:/bin"]
    assert entries == odd
    assert path.startswith(b"PYTHONPATH=")


@pytest.mark.parametrize(
    "locale", [{}, {"LC_CTYPE": "C"}, {"LC_CTYPE": "POSIX"}, {"LC_ALL": "C"}, {"LANG": "C"}]
)
def test_what_python_sets_in_the_c_locale_is_not_passed_on(start, locale):
    run = start("cat", "/proc/self/environ", env={"LANG": "", **locale})
    assert run.exit_code() == 0
    given = {"LANG": ""} | locale
    passed = dict(entry.split("=", 1) for entry in run.output.split("\0")[:-1])
    assert {name: value for name, value in passed.items() if name.startswith("L")} == given


def test_the_launchers_own_variables_are_withheld(start):
    run = start("env", settings={"STOP_GRACE": "1", "DROP_ENV": "SECRET"}, env={"SECRET": "x", "KEPT": "y"})
    assert run.exit_code() == 0
    names = {line.partition("=")[0] for line in run.lines}
    assert "KEPT" in names
    assert not {name for name in names if name.startswith("DYNAMO_CHECKPOINT_") or name == "SECRET"}


def test_working_directory_umask_and_limits(start, tmp_path):
    def narrow():
        os.umask(0o027)
        resource.setrlimit(resource.RLIMIT_NOFILE, (123, 456))
        resource.setrlimit(resource.RLIMIT_CORE, (7, 7))

    script = "pwd; umask; ulimit -Sn; ulimit -Hn; ulimit -c; nice"
    run = start("bash", "-c", script, preexec_fn=narrow)
    assert run.exit_code() == 0
    assert run.lines == [str(tmp_path), "0027", "123", "456", "0", "0"]


def test_a_working_directory_that_is_gone(start, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    run = start("sh", "-c", "exit 3", cwd=gone, prefix=("sh", "-c", f'rmdir {gone}; exec "$@"', "sh"))
    assert run.exit_code() == 3, run.output


def test_a_working_directory_full_of_python_files_means_nothing(start, tmp_path):
    """`python -m` looks there first; what it imports before the launcher runs only `python -I -m` protects."""
    for name in ("__future__", "select", "errno", "ctypes", "enum", "typing", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the working directory')\n")
    run = start("sh", "-c", "exit 3")
    assert run.exit_code() == 3, run.output


def descriptors(run):
    """number → what it is, as the engine's ``ls -l /proc/self/fd`` shows it."""
    assert run.exit_code() == 0, run.output
    rows = [line.split() for line in run.lines if " -> " in line]
    return {int(row[-3]): row[-1] for row in rows if not row[-1].endswith("/fd")}


def test_the_same_files_as_stdin_stdout_and_stderr(start, tmp_path):
    """The same open files, not copies: position and flags are shared, and the launcher changes neither."""
    source = tmp_path / "in"
    source.write_text("0123456789")
    with source.open("rb", buffering=0) as stdin, (tmp_path / "out").open("ab", buffering=0) as stdout:
        stdin.seek(4)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            run = start(
                "sh", "-c", "ls -l /proc/self/fd; head -c 2", stdin=stdin, stdout=stdout, stderr=theirs
            )
            assert run.exit_code() == 0
            socket_name = os.readlink(f"/proc/self/fd/{theirs.fileno()}")
        assert os.lseek(stdin.fileno(), 0, os.SEEK_CUR) > 4
    written = (tmp_path / "out").read_text()
    for expected in (f"0 -> {source}", f"1 -> {tmp_path}/out", f"2 -> {socket_name}"):
        assert expected in written
    assert written.endswith("45")


def test_blocking_files_stay_blocking(start):
    reader, writer = os.pipe()
    run = start("sh", "-c", "exit 0", stdin=reader)
    assert run.exit_code() == 0
    assert os.get_blocking(reader)
    os.close(reader)
    os.close(writer)


def test_no_other_descriptor(start):
    """Neither the launcher's own nor what leaked into it."""
    reader, writer = os.pipe()
    run = start("ls", "-l", "/proc/self/fd", pass_fds=(reader, writer))
    assert sorted(descriptors(run)) == [0, 1, 2]
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_what_was_closed_is_closed_for_the_engine(start, tmp_path, closed):
    redirections = " ".join(f"{number}>&-" for number in closed)
    look = "open=; for n in 0 1 2; do [ ! -e /proc/$$/fd/$n ] || open=$open$n; done"
    run = start(
        "sh", "-c", f"{look}; echo $open >{tmp_path}/open; exit 3",
        prefix=("sh", "-c", f'exec "$@" {redirections}', "sh"), settings={"NONESUCH": "a line to be logged"},
    )  # fmt: skip
    assert run.exit_code() == 3, run.output
    assert set((tmp_path / "open").read_text().strip()) == set("012") - {str(number) for number in closed}


def test_its_own_session_without_a_terminal(start):
    """A process group that signals can be sent to, in which the launcher itself is not."""
    run = start("sh", "-c", "cut -d ' ' -f 1,5,6,7 /proc/$$/stat")
    assert run.exit_code() == 0
    pid, group, session, terminal = run.output.split()
    assert (group, session, terminal) == (pid, pid, "0")
