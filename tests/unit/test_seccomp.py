"""The filter that keeps an engine off io_uring."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dynamo_entry.linux import seccomp

#: no_new_privs lets everybody have a filter. Calls 424 and 428 are pidfd_send_signal and open_tree.
SCRIPT = """
import ctypes, json
from dynamo_entry.linux import seccomp
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
seccomp.keep_off()
def answer(number):
    ctypes.set_errno(0)
    libc.syscall(number, -1, None, 0, 0)
    return ctypes.get_errno()
print(json.dumps({number: answer(number) for number in range(424, 429)}))
"""


def test_the_three_calls_are_missing_and_no_other():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found = {int(number): answer for number, answer in json.loads(done.stdout).items()}
    assert {number for number, answer in found.items() if answer == errno.ENOSYS} == {425, 426, 427}


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_filter_is_one_that_criu_can_be_told_by(machine):
    assert len(seccomp.rules(machine)) == 7 * 8


def test_another_machine_is_left_alone(monkeypatch):
    monkeypatch.setattr(seccomp, "MACHINES", {})
    assert not seccomp.may_be_kept_off()


def test_the_profile_for_restores_gives_no_kernel_log_and_no_reboot():
    """No capability is asked for them there, as the kernel asks, and nobody needs them."""
    profile = json.loads((Path(__file__).resolve().parents[2] / "images/seccomp/restore.json").read_text())
    allowed = {
        name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    }
    assert "clone3" in allowed
    assert not allowed & {"syslog", "reboot", "kexec_load", "init_module", "bpf", "mount", "unshare", "setns"}
