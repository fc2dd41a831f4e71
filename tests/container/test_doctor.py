"""doctor: what a container can do, what it lacks, and the line of a pod spec that gives it."""

import pytest
from containers import CREATE, LEAST, RESTORE
from launcher import ARCHIVE, doctor, published


@pytest.mark.parametrize(("purpose", "options"), [("create", CREATE), ("restore", RESTORE)])
def test_what_the_readme_asks_for_is_enough(purpose, options):
    code, report, _ = doctor("--for", purpose, options=options)
    assert code == 0, report
    assert report[purpose]


def test_a_profile_rules_out_creation_alone():
    code, report, rows = doctor("--for", "create", options=LEAST)
    assert (code, report["create"]) == (1, False)
    assert rows["seccomp"]["remedy"] == "securityContext.seccompProfile.type: Unconfined"


def test_missing_capabilities_are_named():
    code, report, rows = doctor("--for", "restore", options=("--cap-add", "SYS_PTRACE"))
    assert (code, report["create"], report["restore"]) == (1, False, False)
    assert rows["capabilities"]["remedy"] == "securityContext.capabilities.add: [CHECKPOINT_RESTORE]"


def test_an_archive_is_compared_with_what_is_here(containers):
    published(containers, env={"BALLAST_MIB": "64"})
    volumes = (f"{containers.checkpoints}:/checkpoints",)
    code, _, rows = doctor(ARCHIVE, options=RESTORE, volumes=volumes)
    assert code == 0
    assert "needs" in rows["archive fits"]["value"]
    code, _, rows = doctor("/checkpoints/none.tar", options=RESTORE, volumes=volumes)
    assert code == 1
    assert "NotFound" in rows["archive"]["remedy"]
