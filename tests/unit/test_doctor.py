"""What doctor concludes, from containers that are made up."""

import archive_store
import pytest

from dynamo_entry.archive import Head
from dynamo_entry.checks.privileges import Privileges
from dynamo_entry.criu import options
from dynamo_entry.ctl import checks, surroundings
from dynamo_entry.ctl.surroundings import Answer, Stored, Surroundings, Target
from dynamo_entry.linux.cgroup import Room
from dynamo_entry.settings import from_environment

ALL = frozenset(range(41))
HOST = {
    "image": "",
    "arch": "x86_64",
    "page_bytes": 4096,
    "kernel": "6.1",
    "cpu_hints": [],
    "cpu_flags": ["avx2"],
    "cpu_model": "a CPU",
    "criu": "4.2",
    "uid": 0,
    "gid": 0,
}
GOOD = Surroundings(
    python="3.13.0", privileges=Privileges(ALL, ALL, has_seccomp=False), has_clone3=True, may_choose_pids=True,
    has_time_namespaces=True, may_set_clocks=True, criu=Answer("4.2"), pycriu=Answer(), scratch=Answer("/run/x"),
    status_file="/dev/termination-log", status_is_writable=True, shm_bytes=1 << 30, room=Room(1 << 30, None),
    lacking={}, host=HOST,
)  # fmt: skip


def ruled_out(here):
    return {verb for finding in checks.examine(here) for verb in finding.rules_out}


def test_a_container_with_everything_is_all_ok():
    assert {finding.level for finding in checks.examine(GOOD)} == {"ok"}


def test_pids_can_be_chosen_in_two_ways_and_one_is_enough():
    assert not ruled_out(GOOD._replace(has_clone3=False))
    assert not ruled_out(GOOD._replace(may_choose_pids=False))
    assert ruled_out(GOOD._replace(has_clone3=False, may_choose_pids=False)) == {"restore"}


def test_both_need_criu_its_package_and_a_scratch_directory():
    for name in ("criu", "pycriu", "scratch"):
        assert ruled_out(GOOD._replace(**{name: Answer(error="no")})) == {"create", "restore"}


def test_both_need_the_capabilities():
    assert options.missing_capabilities(frozenset())
    assert ruled_out(GOOD._replace(privileges=Privileges(frozenset(), frozenset(), False))) == {
        "create", "restore",
    }  # fmt: skip


def test_what_would_be_better_is_a_note_and_rules_nothing_out():
    here = GOOD._replace(may_set_clocks=False, shm_bytes=64 << 20, status_is_writable=False)
    assert not ruled_out(here)
    assert sorted(f.name for f in checks.examine(here) if f.level == "note") == [
        "/dev/shm", "status file", "time namespace",
    ]  # fmt: skip


@pytest.mark.parametrize(("mib", "level"), [(64, "note"), (159, "note"), (160, "ok")])
def test_what_vllm_needs_of_shared_memory_is_said(mib, level):
    """Before it has loaded its model for minutes."""
    (found,) = (f for f in checks.examine(GOOD._replace(shm_bytes=mib << 20)) if f.name == "/dev/shm")
    assert found.level == level
    assert ("vLLM" in found.value) == (level == "note")


def test_a_node_cache_is_looked_at_where_one_is_wanted():
    """A restore goes on without it, and nobody notices for months."""
    rows = {f.name: f for f in checks.examine(GOOD._replace(node_cache=Answer("3 archives")))}
    assert rows["node cache"].level == "ok"
    without = GOOD._replace(node_cache=Answer(error="Permission denied"))
    (found,) = (f for f in checks.examine(without) if f.name == "node cache")
    assert (found.level, ruled_out(without)) == ("note", set())
    assert "hostPath" in found.remedy
    assert "node cache" not in {f.name for f in checks.examine(GOOD)}


def test_an_archive_that_needs_more_memory_than_there_is_cannot_be_restored():
    stored = Stored("/a.tar", "d", 1, {"memory_bytes": 2 << 30}, HOST)
    assert checks.compare(GOOD, stored)[-1].rules_out == ("restore",)
    assert not checks.compare(GOOD, stored._replace(needs={}))[-1].rules_out


def test_a_kernel_that_cannot_list_sockets_rules_out_creation_where_every_engine_has_such():
    assert ruled_out(GOOD._replace(lacking={"tcp": "tcp_diag"})) == {"create"}
    assert ruled_out(GOOD._replace(lacking={"raw": "raw_diag"})) == set()


def test_what_refuses_a_restore_is_named_by_its_reason():
    refused = Stored(
        "/a.tar", host=HOST, admission=Answer(error="it is noexec (mount it)", reason="MountNoexec")
    )
    finding = checks.compare(GOOD, refused)[-1]
    assert (finding.value, finding.rules_out, finding.level) == ("MountNoexec", ("restore",), "missing")
    assert checks.compare(GOOD, Stored("/a.tar", host=HOST))[-1].value == "passed"


def test_it_says_with_whom_a_restore_speaks_and_what_that_takes():
    told = Stored("/a.tar", host=HOST, handshake=Answer("vllm snapshot server, files in /c; mount the model"))
    finding = next(one for one in checks.compare(GOOD, told) if one.name == "handshake")
    assert (finding.value, finding.level) == (told.handshake.value, "ok")
    invalid = checks.compare(GOOD, Stored("/a.tar", host=HOST, handshake=Answer(error="it names /..")))[-1]
    assert (invalid.name, invalid.rules_out) == ("handshake", ("restore",))


def test_what_keeps_a_creation_from_publishing_rules_it_out():
    refused = Answer(error="no such bucket (make it)", reason="NoSuchBucket")
    (found,) = checks.publish(Target("s3://b/a.tar", refused))
    assert (found.value, found.rules_out, found.remedy) == ("NoSuchBucket", ("create",), refused.error)
    (found,) = checks.publish(Target("s3://b/a.tar", Answer("can be written")))
    assert (found.value, found.level) == ("s3://b/a.tar: can be written", "ok")
    (found,) = checks.publish(Target("", signal_file="/a", signal_is_writable=False))
    assert (found.level, found.rules_out) == ("note", ())


@pytest.mark.parametrize("verb", ["create", "restore"])
def test_a_setting_that_cannot_be_used_rules_out_what_the_container_is_for(verb):
    found = checks.intended(verb, Answer(error="it is no URL", reason="SettingsInvalid"))
    assert (found.value, found.rules_out) == ("SettingsInvalid", (verb,))
    assert checks.intended(verb, Answer("valid")).level == "ok"


def test_gpus_that_do_not_fit_rule_out_the_restore():
    refused = Stored("/a.tar", host=HOST, gpus=Answer(error="another model", reason="GpuModelDiffers"))
    finding = checks.compare(GOOD, refused)[-1]
    assert (finding.name, finding.value, finding.rules_out) == ("GPUs fit", "GpuModelDiffers", ("restore",))
    moved = Stored("/a.tar", host=HOST, gpus=Answer("GPU moved"))
    assert ("GPUs fit", "ok") in [(one.name, one.level) for one in checks.compare(GOOD, moved)]


@pytest.mark.parametrize(
    "damage",
    [{"host": {**HOST, "cpu_flags": 5}}, {"needs": {"memory_bytes": "much"}}, {"volume_files": [{"mount": 1}]}, {"gpu": {"way": 1}}],
)  # fmt: skip
def test_a_manifest_that_no_creator_writes_is_told_of_and_no_defect(tmp_path, damage):
    archive = tmp_path / "a.tar"
    head = Head(**{"host": HOST, **damage})
    archive.write_bytes(archive_store.build({"x": b"x"}, head=head))
    found = surroundings.open_archive(str(archive), from_environment({}), "4.2")
    last = checks.compare(GOOD, found)[-1]
    assert (last.name != "checks of a restore", last.rules_out) == (True, ("restore",))
