"""doctor: what a container can do, what it lacks, and the line of a pod spec that gives it."""

import pytest
from containers import CREATE, LEAST, RESTORE, ROOT
from launcher import ARCHIVE, HASH, NAME, doctor, published


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


def test_it_asks_what_a_restore_asks_before_the_start(containers):
    """Here: a mount without a right that the engine needs; the reason is a restore's own."""
    engine = ROOT / "tests" / "container" / "forgotten.py"
    published(
        containers, command=("python3", "/forgotten.py", "library_in_tmp"), volumes=(f"{engine}:/forgotten.py:ro",),
        options=(*CREATE, "--tmpfs", "/tmp:exec"),
    )  # fmt: skip
    volumes = (f"{containers.checkpoints}:/checkpoints", f"{engine}:/forgotten.py:ro")
    code, report, rows = doctor(ARCHIVE, options=(*RESTORE, "--tmpfs", "/tmp:noexec"), volumes=volumes)
    assert (code, report["restore"]) == (1, False)
    assert rows["checks of a restore"]["value"] == "MountNoexec"
    code, report, rows = doctor(ARCHIVE, options=(*RESTORE, "--tmpfs", "/tmp:exec"), volumes=volumes)
    assert (code, rows["checks of a restore"]["level"]) == (0, "ok"), rows


def test_what_keeps_a_creation_from_publishing_is_found_before_the_engine_is_started(containers, tmp_path):
    """The reasons are a creation's own, and nothing is left at the location."""

    def asked(location, *options, **settings):
        given = {"LOCATION": location, "HASH": HASH, "SIGNAL_FILE": "/tmp/ready", **settings}
        variables = [
            part for name, value in given.items() for part in ("-e", f"DYNAMO_CHECKPOINT_{name}={value}")
        ]
        volumes = (f"{containers.checkpoints}:/checkpoints", f"{tmp_path}:/read-only:ro")
        code, report, rows = doctor(
            "--for", "create", options=(*CREATE, *variables, *options), volumes=volumes
        )
        assert (code == 0) == report["create"]
        return rows

    rows = asked(ARCHIVE)
    assert (rows["location"]["level"], rows["settings"]["level"]) == ("ok", "ok"), rows
    assert list(containers.checkpoints.iterdir()) == []
    assert asked("/read-only/a.tar")["location"]["value"] == "ReadOnly"
    assert asked("s3+http://127.0.0.1:9/bucket/a.tar", STALL_TIMEOUT="1")["location"]["level"] == "missing"
    assert "CanaryInvalid" in asked(ARCHIVE, CANARY="/none.json")["settings"]["value"]
    assert "KeyFileInvalid" in asked(ARCHIVE, KEY_FILE="/none")["settings"]["value"]
    assert asked(ARCHIVE, SIGNAL_FILE="/read-only/ready")["signal file"]["level"] == "note"
    (containers.checkpoints / NAME).write_text("something else")
    assert asked(ARCHIVE)["location"]["value"] == "LocationTaken"
    (containers.checkpoints / NAME).unlink()
    published(containers)
    assert "exists already" in asked(ARCHIVE)["location"]["value"]


def test_a_setting_of_a_restore_that_cannot_be_used_is_found(containers):
    published(containers)
    wrong = ("-e", "DYNAMO_CHECKPOINT_POST_RESTORE=http://")
    volumes = (f"{containers.checkpoints}:/checkpoints",)
    code, report, rows = doctor(ARCHIVE, options=(*RESTORE, *wrong), volumes=volumes)
    assert (code, report["restore"]) == (1, False)
    assert rows["settings"]["value"] == "SettingsInvalid"
