"""The seccomp profile for restoring pods gives what a default profile gives, and clone3; nothing that reaches beyond the pod."""

import json
from pathlib import Path

PROFILE = Path(__file__).resolve().parents[2] / "images" / "seccomp" / "restore.json"

#: Runtimes' default profiles have these for containers with the capability alone, or for none: namespaces and mounts, the kernel's
#: modules, log, keys, clock and counters, other machines' files by handle, io_uring.
WITHHELD = """
    acct add_key bpf chroot clock_settime clock_settime64 create_module delete_module fanotify_init finit_module fsconfig fsmount
    fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kexec_file_load kexec_load keyctl
    lookup_dcookie migrate_pages mount mount_setattr move_mount move_pages open_by_handle_at open_tree perf_event_open pivot_root
    query_module quotactl quotactl_fd reboot request_key setdomainname sethostname setns settimeofday stime swapoff swapon syslog
    umount umount2 unshare uselib userfaultfd vhangup vm86 vm86old
"""


def test_it_gives_clone3_and_nothing_that_reaches_beyond_the_pod():
    """No capability is asked for here, as a default profile asks, and no restore needs these."""
    profile = json.loads(PROFILE.read_text())
    allowed = {
        name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    }
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "clone3" in allowed
    assert allowed & {*WITHHELD.split()} == set()
