"""The security contexts that images/ ships are enough, and no more than that."""

import errno
import json

from containers import CREATE, LEAST, ROOT
from launcher import COMMAND, doctor, published, restore, restored

PROFILE = ROOT / "images" / "seccomp" / "restore.json"
DROPPED = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")
UNDER_PROFILE = (*DROPPED, *LEAST, "--security-opt", f"seccomp={PROFILE}")


def test_a_restore_works_under_the_profile_with_two_capabilities(containers):
    published(containers, options=(*DROPPED, *CREATE), env={"BALLAST_MIB": "8", "CHILDREN": "1"})
    container = restored(containers, options=UNDER_PROFILE)
    assert container.json("/count")["count"] == 1
    status = container.run_inside("grep", "Seccomp:", "/proc/1/status")
    assert status.split()[1] == "2"


#: Writes the error number of io_uring_setup(2) to a file, and becomes the engine.
_ASK = (
    "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
    "libc.syscall(425, 4, ctypes.create_string_buffer(120)); print(ctypes.get_errno())"
)
TRIES_IO_URING = ("sh", "-c", f"python3 -c '{_ASK}' > /tmp/tried; exec {' '.join(COMMAND)}")


def test_where_a_filter_can_be_suspended_the_engine_is_kept_off_io_uring_for_its_creation(containers):
    """With SYS_ADMIN; a restore needs no more than ever, since the filter does not come back."""
    published(containers, command=TRIES_IO_URING, options=(*CREATE, "--cap-add", "SYS_ADMIN"))
    container = restored(containers, command=TRIES_IO_URING)
    assert container.run_inside("cat", "/tmp/tried").strip() == str(errno.ENOSYS)
    filters = container.run_inside("grep", "-h", "^Seccomp", "/proc/1/status", "/proc/1000/status").split(
        "\n"
    )
    assert filters[: len(filters) // 2] == filters[len(filters) // 2 : -1]


def test_without_a_filter_the_engine_gets_no_io_uring_for_want_of_memory_to_lock(containers):
    """The restored engine may lock as much as one that started cold."""
    limits = ("grep", "Max locked memory", "/proc/1000/limits")
    creator = published(containers, command=TRIES_IO_URING)
    assert not creator.event("io_uring not withheld")
    container = restored(containers, command=TRIES_IO_URING)
    assert container.run_inside("cat", "/tmp/tried").strip() in (str(errno.ENOMEM), str(errno.ENOSYS))
    own = container.run_inside("grep", "Max locked memory", "/proc/1/limits")
    assert container.run_inside(*limits) == own


#: A process that asks for a ring until it has one: one that is not ready yet when the engine says that it is.
_ASKS_ON = (
    "import ctypes, time; ask = ctypes.CDLL(None).syscall\n"
    "while ask(425, 4, ctypes.create_string_buffer(120)) < 0: time.sleep(0.001)\n"
    "time.sleep(1000)"
)


def test_a_process_that_still_starts_gets_no_io_uring_before_it_is_frozen(containers):
    command = ("sh", "-c", f"python3 -c '{_ASKS_ON}' & exec {' '.join(COMMAND)}")
    published(containers, command=command)
    container = restored(containers, command=command)
    assert container.json("/count")["count"] == 1


def test_a_profile_without_clone3_is_named_before_anything_is_tried(containers, tmp_path):
    """As Docker's and containerd's default are."""
    profile = json.loads(PROFILE.read_text())
    profile["syscalls"][0]["names"].remove("clone3")
    file = tmp_path / "docker.json"
    file.write_text(json.dumps(profile))
    options = (*DROPPED, *LEAST, "--security-opt", f"seccomp={file}")
    code, _, rows = doctor("--for", "restore", options=options)
    assert code == 1
    assert "restore.json" in rows["choice of pids"]["remedy"]
    published(containers)
    event = restore(containers, options=options).wait_for_event("Falling back to cold start")
    assert (event["reason"], event["phase"]) == ("NoChoiceOfPids", "open")
    assert "restore.json" in event["message"]
