"""The plan: which of the three things the launcher does, as one table."""

import os

import pytest

from dynamo_entry.plan import Cold, Create, Restore, decide, engine_command, environment_changes, kind
from dynamo_entry.settings import PREFIX, Settings, from_environment, read

S3 = "s3://bucket/a.tar"
COPY = "/cache/a.tar"


@pytest.mark.parametrize(
    ("variables", "there", "expected"),
    [
        ({}, (), Cold()),
        ({"MODE": "cold", "PATH": "/c/a.tar"}, ("/c/a.tar",), Cold()),
        ({"SIGNAL_FILE": "/tmp/ready", "PATH": "/c/a.tar"}, ("/c/a.tar",), Create("/c/a.tar")),
        ({"SIGNAL_FILE": "/tmp/ready", "PATH": COPY, "LOCATION": "/c/a.tar"}, (COPY,), Create("/c/a.tar")),
        ({"SIGNAL_FILE": "/tmp/ready", "LOCATION": S3}, (), Create(S3)),
        ({"MODE": "create", "READY_URL": "http://localhost/health", "LOCATION": S3}, (), Create(S3)),
        (
            {"MODE": "restore", "SIGNAL_FILE": "/tmp/ready", "PATH": "/c/a.tar"},
            ("/c/a.tar",),
            Restore(("/c/a.tar",)),
        ),
        ({"PATH": "/c/a.tar"}, ("/c/a.tar",), Restore(("/c/a.tar",))),
        ({"PATH": "/c/a.tar"}, (), Cold("NotFound", "no archive at /c/a.tar")),
        ({"PATH": "/c/a.tar", "WAIT": "30"}, (), Restore(("/c/a.tar",))),
        ({"LOCATION": S3}, (), Restore((S3,))),
        ({"LOCATION": S3, "PATH": COPY}, (), Restore((S3,))),
        ({"LOCATION": S3, "PATH": COPY}, (COPY,), Restore((COPY, S3))),
        ({"LOCATION": "/c/a.tar", "PATH": COPY}, (COPY, "/c/a.tar"), Restore((COPY, "/c/a.tar"))),
        ({"LOCATION": "/c/a.tar", "PATH": COPY}, ("/c/a.tar",), Restore(("/c/a.tar",))),
        ({"LOCATION": "/c/a.tar", "PATH": COPY}, (COPY,), Restore((COPY,))),
        ({"LOCATION": "/c/a.tar", "PATH": COPY}, (), Cold("NotFound", "no archive at /c/a.tar")),
        ({"LOCATION": "/c/a.tar", "PATH": COPY, "WAIT": "30"}, (), Restore(("/c/a.tar",))),
    ],
)
def test_the_environment_decides(variables, there, expected):
    settings = from_environment({PREFIX + name: value for name, value in variables.items()})
    assert decide(settings, there=there) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SIGNAL_FILE": "/tmp/ready", "PATH": "/c/a.tar"}, "create"),
        ({"SIGNAL_FILE": "ready", "PATH": "/c/a.tar"}, "create"),
        ({"SIGNAL_FILE": "", "PATH": "/c/a.tar"}, "restore"),
        ({"SIGNAL_FILE": "/tmp/ready", "MODE": "restore", "PATH": "/c/a.tar"}, "restore"),
        ({"SIGNAL_FILE": "ready", "MODE": "cold"}, "cold"),
        ({"MODE": "create", "LOCATION": S3}, "create"),
        ({"MODE": "Create", "LOCATION": S3}, ""),
        ({"LOCATION": S3}, "restore"),
        ({}, "cold"),
    ],
)
def test_what_is_asked_for_is_known_although_another_variable_is_wrong(variables, expected):
    given = {PREFIX + name: value for name, value in {"COMPRESSION": "gzip", **variables}.items()}
    reading = read(given)
    assert any("COMPRESSION" in mistake for mistake in reading.mistakes)
    assert kind(reading.settings, reading.invalid) == expected


def test_one_mistake_costs_no_other_setting():
    given = {
        "COMPRESSION": "gzip",
        "DROP_ENV": "TOKEN",
        "STOP_GRACE": "3",
        "STATUS_FILE": "/s",
        "MIN_UPTIME": "x",
    }
    reading = read({PREFIX + name: value for name, value in given.items()})
    assert reading.invalid == {"COMPRESSION", "MIN_UPTIME"}
    assert reading.settings == Settings(drop_env=("TOKEN",), stop_grace=3, status_file="/s")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["python3", "-m", "vllm serve"], ["python3", "-m", "vllm serve"]),
        (["engine"], ["engine"]),
        (["python3 -m dynamo.vllm --model X"], ["/bin/sh", "-c", "exec python3 -m dynamo.vllm --model X"]),
        (["exec python3 serve"], ["/bin/sh", "-c", "exec python3 serve"]),
        (["eval serve now"], ["/bin/sh", "-c", "eval serve now"]),
        (["source start.sh now"], ["/bin/sh", "-c", "source start.sh now"]),
        (["time serve now"], ["/bin/sh", "-c", "time serve now"]),
        (["! serve now"], ["/bin/sh", "-c", "! serve now"]),
        (["executor --port 1"], ["/bin/sh", "-c", "exec executor --port 1"]),
        (["a; b"], ["/bin/sh", "-c", "a; b"]),
        (["cd /models && exec serve"], ["/bin/sh", "-c", "cd /models && exec serve"]),
        (["HF_HUB_OFFLINE=1 serve now"], ["/bin/sh", "-c", "HF_HUB_OFFLINE=1 serve now"]),
    ],
)
def test_one_string_with_blanks_is_a_shell_command(argv, expected):
    assert engine_command(argv) == expected


def test_the_engine_does_not_see_the_launchers_variables():
    names = [b"HOME", b"DYNAMO_CHECKPOINT_LOCATION", b"AWS_SECRET_ACCESS_KEY"]
    changes = environment_changes(
        names,
        Settings(drop_env=("AWS_SECRET_ACCESS_KEY", "ABSENT")),
        additions={},
        is_create=False,
        forced={},
    )
    assert changes == {b"AWS_SECRET_ACCESS_KEY": None, b"DYNAMO_CHECKPOINT_LOCATION": None}


def test_a_launcher_told_to_be_an_init_passes_the_signal_file_on():
    names = [b"DYNAMO_CHECKPOINT_SIGNAL_FILE", b"DYNAMO_CHECKPOINT_MODE"]
    changes = environment_changes(names, Settings(mode="cold"), additions={}, is_create=False, forced={})
    assert changes == {b"DYNAMO_CHECKPOINT_MODE": None}


def test_creation_adds_where_unset_and_keeps_the_signal_file_from_another_launcher():
    names = [b"DYNAMO_CHECKPOINT_SIGNAL_FILE", b"UV_USE_IO_URING"]
    additions = {"UV_USE_IO_URING": "0", "A": "b"}
    changes = environment_changes(names, Settings(), additions=additions, is_create=True, forced={})
    assert changes == {b"A": b"b", b"DYNAMO_CHECKPOINT_MODE": b"cold"}


def test_what_is_not_utf8_is_passed_on_byte_for_byte():
    path = os.fsdecode(b"/c\xff")
    changes = environment_changes([], Settings(), additions={"A": path}, is_create=False, forced={"B": path})
    assert changes == {b"A": b"/c\xff", b"B": b"/c\xff"}


def test_what_a_protocol_needs_is_set_or_withheld_whatever_is_there():
    names = [b"DYN_SNAPSHOT_CONTROL_DIR", b"SNAPSHOT_RESTORE_STANDBY"]
    forced = {"DYN_SNAPSHOT_CONTROL_DIR": "/c", "SNAPSHOT_RESTORE_STANDBY": None, "ABSENT": None}
    changes = environment_changes(names, Settings(), additions={}, is_create=False, forced=forced)
    assert changes == {b"DYN_SNAPSHOT_CONTROL_DIR": b"/c", b"SNAPSHOT_RESTORE_STANDBY": None}
