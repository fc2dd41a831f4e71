"""One engine, restored in places that differ from the one it was created in, in one respect each."""

import contextlib
import re
import shutil

import pytest
from containers import CREATE, RESTORE, Containers, network
from elsewhere import Pair, check, rewritten, volume
from launcher import NAME, published, restore, restored

HELD = (
    "mapped_file_of_a_volume", "log_on_a_volume", "shared_anonymous", "posix_shm", "unlinked_while_open",
    "created", "forked_worker",
)  # fmt: skip
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"
OWN_FILES = ("/etc/hosts", "/etc/resolv.conf", "/etc/hostname")

#: The engine's start writes to what belongs to the pod, as scripts do; none of it may travel.
COMMAND = (
    f"for file in {' '.join(OWN_FILES)}; do echo written-at-creation >> $file; done; exec python3 /messy",
)
READ_ONLY = ("--read-only", "--tmpfs", "/run", "--tmpfs", "/tmp")
USER_NAMESPACE = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")


class Made:
    """An archive made once, and what a restore of it is given."""

    def __init__(self, directory, containers):
        self.directory = directory
        self.pair = Pair(containers)
        self.archive = containers.checkpoints / NAME
        self.made = directory / "made.tar"
        self.pair.published(
            *HELD, volumes=self.volumes("first"), command=COMMAND, options=(*CREATE, "--hostname", "first"),
            network="private",
        )  # fmt: skip
        shutil.copy(self.archive, self.made)

    def volumes(self, name, mode="rw"):
        """A pod's own volume and secrets."""
        secrets = self.directory / f"{name}-secrets"
        secrets.mkdir()
        (secrets / "token").write_text(f"token of {name}")
        (secrets / "settings").write_text(f"settings of {name}")
        return (
            f"{volume(self.directory / name)}:/volume:{mode}",
            f"{secrets}/token:{TOKEN}:ro",
            f"{secrets}/settings:/etc/engine/settings:ro",
        )

    def says(self, **facts):
        """Let the archive's manifest say something else of the place it was made in."""
        shutil.copy(self.made, self.archive)
        rewritten(self.archive, **facts)

    def restore(self, *options, volumes, **how):
        return self.pair.restore(
            *HELD, volumes=volumes, command=COMMAND, options=(*RESTORE, "--hostname", "second", *options),
            network="private", **how,
        )  # fmt: skip

    def restored(self, *options, **how):
        container = self.restore(*options, **how)
        container.wait(
            lambda: container.event("Restored") or container.event("Falling back to cold start"), "end"
        )
        assert container.event("Restored"), container.output()
        check(container, *HELD)
        return container

    def refused(self, *options, **how):
        """Why, before the first data byte."""
        container = self.restore(*options, **how)
        event = container.wait_for_event("Falling back to cold start")
        assert event["phase"] == "check", container.output()
        container.kill()
        return event


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("places")
    with contextlib.closing(Containers(directory)) as containers:
        yield Made(directory, containers)


@pytest.fixture(autouse=True)
def the_archive_as_it_was_made(made):
    yield
    shutil.copy(made.made, made.archive)


@pytest.fixture
def place(made, tmp_path):
    return made.volumes(tmp_path.name)


def test_what_belongs_to_the_pod_is_neither_captured_nor_overwritten(made, place):
    """Secrets, config maps, service account tokens, hosts, resolv.conf, hostname."""
    container = made.restored(volumes=place)
    for path in OWN_FILES:
        assert "written-at-creation" not in container.run_inside("cat", path)
    assert container.run_inside("cat", "/etc/hostname").strip() == "second"
    assert container.run_inside("cat", TOKEN).startswith("token of test_")
    assert container.run_inside("cat", "/etc/engine/settings").startswith("settings of test_")


@pytest.mark.parametrize(
    ("model", "mode", "reason"),
    [(None, "rw", "VolumeMissing"), (b"another", "rw", "VolumeDiffers"), (b"", "ro", "VolumeReadOnly")],
    ids=["without the model", "with another model", "read-only under a log"],
)
def test_a_volume_that_does_not_fit_is_refused_by_name(made, tmp_path, model, mode, reason):
    volumes = made.volumes(tmp_path.name, mode)
    path = made.directory / tmp_path.name / "model"
    if model is None:
        path.unlink()
    elif model:
        path.write_bytes(model)
    event = made.refused(volumes=volumes)
    assert (event["reason"], "/volume" in event["message"]) == (reason, True), event


def test_a_root_that_is_read_only_here_alone(containers):
    """An engine that wrote to scratch directories only is restored; of another one a file is named."""
    published(containers, env={"FILES": "/tmp/scratch"})
    assert restored(containers, options=(*RESTORE, *READ_ONLY)).json("/state")["files"]
    published(containers, env={"FILES": "/var/lib/engine/notes"}, settings={"FORCE": "1"})
    event = restore(containers, options=(*RESTORE, *READ_ONLY)).wait_for_event("Falling back to cold start")
    assert (event["reason"], event["phase"]) == ("RootReadOnly", "check")
    assert "/var/lib/engine" in event["message"]


def test_less_memory_than_the_engine_needs_is_refused_by_name(containers):
    """By the limit of the container's cgroup; it need not be much more than the engine takes."""
    published(containers, env={"BALLAST_MIB": "128"})
    event = restore(containers, options=(*RESTORE, "-m", "96m")).wait_for_event("Falling back to cold start")
    assert (event["reason"], event["phase"]) == ("NotEnoughMemory", "check")
    assert re.search(r"takes 1[34]\d MiB of memory, [789]\d MiB are left here", event["message"])
    assert "the container's memory limit" in event["message"]
    restored(containers, options=(*RESTORE, "-m", "224m")).json("/health")


def test_fewer_tasks_than_the_engine_has_are_refused_by_name(containers):
    pair = Pair(containers)
    pair.published("many_threads")
    event = pair.restore("forked_worker", options=(*RESTORE, "--pids-limit", "60")).wait_for_event(
        "Falling back to cold start"
    )
    assert (event["reason"], event["phase"]) == ("PidsLimit", "check")


def test_too_little_room_for_the_engines_files_is_refused_by_name(containers):
    """A pod without the emptyDir that makes /dev/shm large."""
    published(containers, env={"SHM_MIB": "32"}, options=(*CREATE, "--shm-size", "64m"))
    container = restore(containers, options=(*RESTORE, "--shm-size", "16m"), settings={"ON_FAILURE": "fail"})
    assert container.exit_code() == 181
    event = container.event("Restore failed")
    assert (event["reason"], event["phase"]) == ("NotEnoughSpace", "check")
    assert "/dev/shm take 32.0 MiB, 16.0 MiB are free here" in event["message"]


def test_a_volume_that_is_not_mounted_is_refused_by_name(made, place):
    assert made.refused(volumes=place[1:])["reason"] == "VolumeMissing"


@pytest.mark.parametrize(
    ("facts", "reason", "words"),
    [
        ({"host": {"arch": "riscv64"}}, "ArchDiffers", "riscv64"),
        ({"host": {"page_bytes": 65536}}, "PageSizeDiffers", "65536"),
        ({"host": {"cpu_flags": ["avx512_of_another"]}}, "CpuLacksFeature", "avx512_of_another"),
        ({"host": {"criu": "99.1"}}, "CriuOlder", "99.1"),
        ({"host": {"uid": 4711}}, "UserDiffers", "4711"),
        ({"needs": {"memory_bytes": 1 << 50}}, "NotEnoughMemory", "1073741824 MiB"),
    ],
)
def test_a_machine_that_cannot_run_it_is_refused_by_name(made, place, facts, reason, words):
    made.says(**facts)
    event = made.refused(volumes=place)
    assert (event["reason"], words in event["message"]) == (reason, True), event


def test_a_machine_that_differs_in_what_does_not_matter_is_a_line_in_the_log(made, place):
    made.says(host={"kernel": "3.10.0", "criu": "4.2", "cpu_hints": ["another"], "cpu_model": "Another"})
    container = made.restored(volumes=place)
    notes = [event["difference"] for event in container.events() if event["event"] == "host differs"]
    assert [note.partition(":")[0] for note in notes] == ["kernel", "criu", "CPU hints"]


def test_a_processor_without_what_the_engine_may_be_using(made, place):
    """As /proc/cpuinfo has it here."""
    cpuinfo = made.directory / "cpuinfo"
    with open("/proc/cpuinfo") as file:
        cpuinfo.write_text(file.read().replace(" sse2", "").replace(" asimd", ""))
    event = made.refused("-v", f"{cpuinfo}:/proc/cpuinfo:ro", volumes=place)
    assert event["reason"] == "CpuLacksFeature"
    assert any(flag in event["message"] for flag in ("sse2", "asimd"))


@pytest.mark.parametrize(
    "options",
    [
        ("--cpuset-cpus", "0"),
        ("--cpus", "0.5"),
        ("--tmpfs", "/tmp:noexec"),
        ("--shm-size", "8m"),
        ("--ipc", "host"),
    ],
    ids=["fewer processors", "a quota", "noexec tmp", "a smaller shm", "the host's IPC"],
)
def test_it_is_restored_all_the_same(made, place, options):
    made.restored(*options, volumes=place)


def test_an_engine_in_a_user_namespace(containers):
    """Root of the container is nobody of the host, as with hostUsers: false."""
    containers.checkpoints.chmod(0o777)
    published(containers, options=(*CREATE, *USER_NAMESPACE), env={"CHILDREN": "2"})
    container = restored(containers, options=(*RESTORE, *USER_NAMESPACE))
    assert container.run_inside("cat", "/proc/self/uid_map").split() == ["0", "100000", "65536"]
    assert container.json("/count")["count"] == 1


@pytest.mark.parametrize(
    ("thing", "reason"),
    [("listening_on_the_pods_address", "AddressMissing"), ("listening_on_an_interface", "InterfaceMissing")],
)
def test_a_pod_without_the_engines_network_is_refused_by_name(containers, thing, reason):
    """A socket that is bound to the pod's own address, or tied to its interface, has nothing to move to."""
    pair = Pair(containers)
    with network() as bridge:
        pair.published(thing, network=bridge)
    event = pair.restore("listening_on_loopback", network="none").wait_for_event("Falling back to cold start")
    assert (event["reason"], event["phase"]) == (reason, "check")
