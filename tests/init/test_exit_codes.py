"""The exit code is the engine's, or says why there is none."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from launchers import LAUNCHER

#: End a process by default (signal(7)); the rest stop it or do nothing.
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
STOPS = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
DEADLY = sorted(signal.valid_signals() - HARMLESS - STOPS)


def exit_codes(start, commands):
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda command: start(*command).exit_code(), commands))


def test_every_exit_code_passes_through(start, mode):
    codes = range(256) if mode == "child" else [0, 1, 2, 3, 125, 126, 127, 128, 129, 137, 143, 254, 255]
    assert exit_codes(start, [("sh", "-c", f"exit {code}") for code in codes]) == list(codes)


def test_death_by_a_signal_is_128_more_than_its_number(start, probe):
    assert exit_codes(start, [(probe, "die", str(number)) for number in DEADLY]) == [128 + n for n in DEADLY]


def test_a_command_that_is_not_there_is_127_and_one_line(start, tmp_path):
    for command in ("nonesuch", "./nonesuch", "/nonesuch/x", f"{tmp_path}/nonesuch", ""):
        run = start(command)
        assert run.exit_code() == 127, command
        assert len(run.lines) == 1, run.output
        assert command in run.output, run.output


def test_a_command_that_is_not_executable_is_126_and_one_line(start, tmp_path):
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    for command in ("./plain", str(tmp_path), f"{tmp_path}/plain"):
        run = start(command)
        assert run.exit_code() == 126, command
        assert len(run.lines) == 1, run.output
        assert command in run.output


def test_a_missing_interpreter_is_named_as_the_reason(start, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/nonesuch/python\n")
    script.chmod(0o755)
    run = start("./script")
    assert run.exit_code() == 127
    assert "interpreter" in run.output


def test_a_script_without_an_interpreter_is_run_by_the_shell(start, tmp_path):
    """As execvp(3) and every shell do."""
    script = tmp_path / "script"
    script.write_text('echo "$0 $1"; exit 3\n')
    script.chmod(0o755)
    run = start("./script", "argument")
    assert run.exit_code() == 3
    assert run.output == "./script argument\n"
    run = start("script", "argument", env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert run.exit_code() == 3, run.output


def test_the_path_is_searched_as_execvp_does(start, tmp_path):
    """Entry by entry; an empty one is the working directory; what may not be executed is passed over."""
    for directory in ("first", "second"):
        (tmp_path / directory).mkdir()
        command = tmp_path / directory / "command"
        command.write_text(f"#!/bin/sh\necho {directory}\n")
        command.chmod(0o644 if directory == "first" else 0o755)
    run = start("command", env={"PATH": f"/nonesuch:/etc/passwd:{tmp_path}/first:{tmp_path}/second:/bin"})
    assert (run.exit_code(), run.output) == (0, "second\n")
    assert start("command", env={"PATH": f"{tmp_path}/first:/bin"}).exit_code() == 126
    run = start("command", cwd=tmp_path / "second", env={"PATH": "/nonesuch::/bin"})
    assert (run.exit_code(), run.output) == (0, "second\n")


def test_no_command_is_2_and_usage(start):
    run = start()
    assert run.exit_code() == 2
    assert "no command" in run.output
    assert "usage:" in run.output


@pytest.fixture
def answer(installed):
    """Runs the launcher with options of its own instead of a command."""

    def run(*arguments, env={}, **options):  # noqa: B006
        return subprocess.run(
            (*LAUNCHER.group[:-1], *arguments), env={**os.environ, "PYTHONPATH": str(installed), **env},
            check=False, **{"text": True, "timeout": 30, "capture_output": True, **options},
        )  # fmt: skip

    return run


def test_an_unknown_option_is_2_and_usage(answer):
    done = answer("--nonesuch")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--nonesuch" in done.stderr
    assert "usage:" in done.stderr


def test_help_and_version_are_0(answer):
    assert answer("--version").returncode == 0
    done = answer("--help")
    assert done.returncode == 0
    assert "DYNAMO_CHECKPOINT_STOP_GRACE" in done.stdout


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_on_a_full_disk_are_one_line(answer, option):
    with Path("/dev/full").open("w") as full:
        done = answer(option, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "dynamo-entry: cannot write: No space left on device\n")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_for_a_reader_that_has_left_say_nothing(answer, option):
    reader, writer = os.pipe()
    os.close(reader)
    done = answer(option, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_help_can_be_printed_in_any_locale(answer):
    done = answer("--help", env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
