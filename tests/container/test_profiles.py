"""The security contexts that images/ ships are enough, and no more than that."""

import json

import pytest
from harness import CREATE, LEAST, ROOT
from test_doctor import doctor
from test_spine import published, restore, restored

PROFILE = ROOT / "images" / "seccomp" / "restore.json"
DROPPED = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")
UNDER_PROFILE = (*DROPPED, *LEAST, "--security-opt", f"seccomp={PROFILE}")


def test_a_restore_works_under_the_profile_with_two_capabilities(containers):
    published(containers, options=(*DROPPED, *CREATE), env={"BALLAST_MIB": "8", "CHILDREN": "1"})
    container = restored(containers, options=UNDER_PROFILE)
    assert container.json("/count")["count"] == 1
    status = container.run_inside("grep", "Seccomp:", "/proc/1/status")
    assert status.split()[1] == "2"


@pytest.mark.parametrize("call", ["io_uring_setup", "mount", "unshare", "setns", "bpf", "init_module"])
def test_the_profile_allows_no_more_than_a_default_one(call):
    allowed = {
        name
        for rule in json.loads(PROFILE.read_text())["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW"
        for name in rule["names"]
    }
    assert "clone3" in allowed
    assert call not in allowed


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
