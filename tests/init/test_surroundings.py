"""Where something usual is missing the launcher works all the same, or says in one line what it lacks."""

import json
import os
import signal
import time

import pytest
from launchers import LAUNCHER
from processes import state

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def mounted(command):
    """A prefix that changes mounts: the launcher has a mount namespace of its own."""
    return ("sh", "-e", "-c", f'{command}; exec "$@"', "sh")


def works(run):
    """Forwards, and passes the exit code on."""
    run.wait_for_line("ready")
    run.signal(signal.SIGUSR1)
    assert run.exit_code() == 42, run.output


ENGINE = ("sh", "-c", "trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done")


def test_without_root(start):
    works(start(*ENGINE, prefix=NOBODY))


def test_without_any_capability(start):
    works(
        start(*ENGINE, prefix=("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"))
    )


@pytest.mark.parametrize("prefix", [(), NOBODY])
def test_with_other_processes_hidden_in_proc(start, prefix, probe):
    works(start(*ENGINE, prefix=(*mounted("mount -o remount,hidepid=2 /proc"), *prefix)))


@pytest.mark.parametrize("prefix", [(), NOBODY])
def test_what_is_left_is_found_with_other_processes_hidden(start, prefix, probe):
    run = start(probe, "leave", "polite", prefix=(*mounted("mount -o remount,hidepid=2 /proc"), *prefix))
    assert run.exit_code() == 7
    assert "got 15" in run.lines


def test_without_proc(start):
    run = start(*ENGINE, prefix=mounted("mount -t tmpfs none /proc"), env={"LANG": "C"})
    works(run)


def test_without_a_writable_place(start, tmp_path):
    read_only = "for place in /tmp /run /dev/shm; do mount --bind $place $place; mount -o remount,bind,ro $place; done"
    works(start(*ENGINE, prefix=mounted(read_only), cwd="/"))


def test_without_dev(start):
    run = start(*ENGINE, prefix=("sh", "-c", 'mount -t tmpfs none /dev; exec "$@" 0<&-', "sh"))
    works(run)


def test_a_launcher_inside_a_launcher(start):
    run = start(*LAUNCHER.group, *LAUNCHER.group, *ENGINE)
    works(run)


@pytest.mark.skipif(not LAUNCHER.python, reason="other inits restore nothing")
@pytest.mark.parametrize(
    "settings",
    [{}, {"MODE": "create", "AFTER_DUMP": "continue"}],
    ids=["restore", "creation"],
)
def test_what_a_script_left_beside_it_goes_on(start, tmp_path, settings):
    """A restore or a creation that fails ends what it has made itself, and does not wait for anything else."""
    archive = tmp_path / "a.tar"
    archive.write_text("none")
    beside = ("sh", "-c", 'sleep 60 & echo $! >beside; exec "$@"', "sh")
    began = time.monotonic()
    run = start(
        "sh", "-c", "kill -0 $(cat beside) && exit 7", prefix=beside,
        settings={"LOCATION": str(archive), "PATH": str(archive), "HASH": "a", **settings},
    )  # fmt: skip
    assert run.exit_code() == 7, run.output
    assert time.monotonic() - began < 6, run.output


def test_nobody_reads_standard_output_or_error(start):
    """Two full pipes: the launcher has lines to write, and must not wait."""
    pipes = [os.pipe() for _ in range(2)]
    for _, writer in pipes:
        os.set_blocking(writer, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
    run = start(
        "sh",
        "-c",
        "exit 3",
        stdout=pipes[0][1],
        stderr=pipes[1][1],
        settings={"NONESUCH": "a line to be logged"},
    )
    run.process.stdout = None
    assert run.exit_code() == 3
    for pipe in pipes:
        for descriptor in pipe:
            os.close(descriptor)


def test_readers_of_standard_error_that_went_away(start):
    reader, writer = os.pipe()
    os.close(reader)
    run = start("nonesuch", stderr=writer, settings={"NONESUCH": "a line to be logged"})
    assert run.exit_code() == 127
    os.close(writer)


def test_no_more_processes_allowed(start):
    """Nothing can be forked: one line, no traceback."""
    limited = ("prlimit", "--nproc=1", *NOBODY)
    run = start("true", prefix=limited)
    assert run.exit_code() == 126
    assert run.output.count("\n") == 1, run.output
    assert "Resource temporarily unavailable" in run.output


@pytest.mark.parametrize("settings", [{}, {"PATH": "/etc/passwd"}])
def test_no_more_descriptors_allowed(start, settings):
    """Nothing can be opened: one line says so, no traceback, also where a restore was wanted first."""
    run = start("true", prefix=("prlimit", "--nofile=6"), settings=settings)
    assert run.exit_code() == 126
    assert run.lines[-1] == "dynamo-entry: cannot execute 'true': Too many open files"
    assert "Traceback" not in run.output


#: Each at the length or in the form that the parser of its kind gives up at.
MISTAKES = {
    "STORAGE_OPTIONS": "[" * 60_000, "CONCURRENCY": "9" * 5_000, "DROP_ENV": "A\udcff", "LOCATION": "/" + "a" * 100_000,
    "HASH": "../../etc", "STALL_TIMEOUT": "1e999", "READY_URL": "\udcff",
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_value_that_cannot_be_used_is_no_obstacle(start, name):
    run = start("sh", "-c", "exit 3", settings={"PATH": "/nonesuch.tar", name: MISTAKES[name]})
    assert run.exit_code() == 3, run.output
    assert len(run.lines) == 1
    told = json.loads(run.output)
    assert (told["event"], told["reason"]) == ("Falling back to cold start", "SettingsInvalid")
    assert f"DYNAMO_CHECKPOINT_{name}" in told["message"]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"MODE": "Create", "LOCATION": "/a.tar"}, 170),
        ({"MODE": "create", "LOCATION": "/a.tar", "COMPRESSION": "gzip"}, 170),
        ({"SIGNAL_FILE": "ready", "LOCATION": "/a.tar"}, 170),
        ({"SIGNAL_FILE": "ready", "LOCATION": "/a.tar", "AFTER_DUMP": "continue"}, 3),
        ({"SIGNAL_FILE": "/ready", "LOCATION": "/a.tar", "MODE": "restore", "COMPRESSION": "gzip"}, 3),
        ({"LOCATION": "/a.tar", "COMPRESSION": "gzip", "ON_FAILURE": "fail"}, 170),
    ],
)
def test_a_mistake_ends_a_creation_and_no_pod_that_is_to_serve(start, settings, code):
    """Nor one whose MODE nobody understands: a Job would serve for ever."""
    run = start("sh", "-c", "exit 3", settings=settings)
    assert run.exit_code() == code, run.output
    assert json.loads(run.lines[0])["reason"] == "SettingsInvalid"


def test_a_mistake_is_no_obstacle_to_a_cold_start_that_was_asked_for(start):
    """It is one warning; nothing of a restore is mentioned, and nothing is withheld from the engine."""
    settings = {"MODE": "cold", "COMPRESSION": "gzip", "ON_FAILURE": "fail", "PATH": "/none.tar"}
    run = start("sh", "-c", "echo $DYN_SNAPSHOT_CONTROL_DIR; exit 3", settings=settings,
                env={"DYN_SNAPSHOT_CONTROL_DIR": "/control"})  # fmt: skip
    assert run.exit_code() == 3, run.output
    warning, engine = run.lines
    assert json.loads(warning)["event"] == "invalid settings ignored"
    assert "DYNAMO_CHECKPOINT_COMPRESSION='gzip'" in json.loads(warning)["message"]
    assert engine == "/control"


def test_a_mistake_leaves_the_other_settings_alone(start):
    settings = {"PATH": "/none.tar", "COMPRESSION": "gzip", "DROP_ENV": "TOKEN", "LOG_FORMAT": "console"}
    run = start("sh", "-c", 'echo "token: $TOKEN"; exit 3', settings=settings, env={"TOKEN": "secret"})
    assert run.exit_code() == 3, run.output
    assert "token: " in run.lines
    assert not run.lines[0].startswith("{")


def test_an_engine_of_another_user_that_may_not_be_signalled(start):
    """As root without CAP_KILL: said once a signal, and the launcher goes on."""
    engine = ("setpriv", "--reuid", "65534", "--clear-groups", *ENGINE)
    run = start(*engine, prefix=("setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill"))
    run.wait_for_line("ready")
    run.signal(signal.SIGUSR1)
    run.wait_for("signal not delivered")
    assert "SIGUSR1" in run.output
    assert state(run.pid) == "S"


def test_the_exit_of_another_child_is_not_taken_for_the_engines(start):
    """An orphan that ends with another code first."""
    run = start("sh", "-c", "(sleep 0.1; exit 9) & exec sh -c 'sleep 0.3; exit 5'")
    assert run.exit_code() == 5


def test_a_settings_mistake_is_one_line_and_no_obstacle(start):
    run = start("sh", "-c", "exit 3", settings={"STOP_GRACE": "soon"})
    assert run.exit_code() == 3
    assert len(run.lines) == 1
    assert "STOP_GRACE" in run.output
    assert "Falling back to cold start" in run.output


def test_status_file_of_a_plain_cold_start(start, tmp_path):
    run = start("true", settings={"STATUS_FILE": f"{tmp_path}/status"})
    assert run.exit_code() == 0
    assert '"result": "cold"' in (tmp_path / "status").read_text()
