"""The main job: an engine checkpointed in one container answers as before in another."""

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from containers import CREATE, RESTORE, WORKER
from launcher import ARCHIVE, COMMAND, SETTINGS, SIGNAL, create, published, restore, restored


def oom_score(pid):
    return Path(f"/proc/{pid}/oom_score_adj").read_text()


def test_an_engine_is_created_here_and_restored_there(containers):
    """Same memory, same pids, same files; its lines go to the new container's log, its exit code is the container's."""
    env = {
        "BALLAST_MIB": "48",
        "CHILDREN": "2",
        "FILES": "/var/lib/engine/notes:/tmp/t:/dev/shm/s",
        "REMOVE": "/etc/issue",
    }
    creator = published(containers, env=env)
    assert "tiny: listening" in creator.stdout
    assert sorted(path.name for path in containers.checkpoints.iterdir()) == ["d936422b4f953f99.tar"]

    container = restored(containers, env=env)
    state = container.json("/state?digest=1")
    assert state["pid"] >= 1000
    assert state["nonce"] in creator.stderr
    assert state["removed"] == ["/etc/issue"]
    assert all(state["nonce"] in text for text in state["files"].values())
    assert container.json("/count")["count"] == 1
    container.wait(
        lambda: min(container.json("/state")["ticks"]) > max(state["ticks"]), "children that go on counting"
    )
    container.get("/print?text=hello&stream=stdout")
    container.get("/print?text=oops&stream=stderr")
    container.wait_for_text("hello")
    container.wait_for_text("oops")
    assert "hello" in container.stdout
    assert "oops" in container.stderr
    assert "tiny: listening" not in container.stdout
    assert len({oom_score(pid) for pid in container.processes()}) == 1
    try:
        container.get("/exit?code=7")
    except AssertionError:
        pass
    assert container.exit_code() == 7


def test_a_copy_is_read_instead_of_the_archive_unless_it_is_damaged(containers):
    """Beside an archive on a volume, too, which may be slow."""
    published(containers)
    archive = containers.checkpoints / Path(ARCHIVE).name
    copy = containers.checkpoints / "copy.tar"
    archive.rename(copy)
    settings = {"PATH": "/checkpoints/copy.tar"}
    assert restored(containers, settings=settings).json("/count")["count"] == 1
    archive.write_bytes(copy.read_bytes())
    copy.write_bytes(b"damaged" * 1000)
    container = restored(containers, settings=settings)
    assert container.event("archive not usable")["source"] == "/checkpoints/copy.tar"
    assert container.json("/count")["count"] == 1


def test_two_restores_of_one_archive_are_the_same_engine(containers):
    published(containers, env={"BALLAST_MIB": "8"})
    digests = []
    for _ in range(2):
        container = restored(containers)
        digests.append(container.json("/state?digest=1")["sha256"])
        container.signal(signal.SIGTERM)
        assert container.exit_code() == 0
        assert "tiny: terminated" in container.stdout
    assert digests[0] == digests[1]


def test_after_dump_continue_serves_on(containers):
    """The engine that was frozen answers again, and the archive is there as well."""
    container = create(containers, settings={"AFTER_DUMP": "continue"}, env={"BALLAST_MIB": "8"})
    container.wait_for_event("Checkpoint published")
    first = container.json("/state?digest=1")
    container.wait_for_text(first["nonce"])
    assert b"0" in container.get("/env?name=UV_USE_IO_URING"), "libuv would use what cannot be dumped"
    own, engines = (container.run_inside("grep", "Max locked", f"/proc/{pid}/limits") for pid in (1, 1000))
    assert own == engines, "it may lock memory again"
    container.signal(signal.SIGTERM)
    assert container.exit_code() == 0
    second = restored(containers).json("/state?digest=1")
    assert second["sha256"] == first["sha256"]


def test_an_archive_that_is_there_is_not_made_again(containers):
    published(containers)
    before = (containers.checkpoints / "d936422b4f953f99.tar").stat().st_ino
    again = create(containers)
    assert again.exit_code() == 0
    assert again.event("Checkpoint exists already")
    assert "tiny: listening" not in again.stdout
    assert (containers.checkpoints / "d936422b4f953f99.tar").stat().st_ino == before


def test_a_forced_creation_is_of_a_new_engine(containers):
    """Where an archive is there nothing is restored from it in order to be frozen again."""
    first = published(containers)
    second = published(containers, settings={"FORCE": "1"})
    assert "tiny: listening" in second.stdout
    assert second.event("Restored") is None
    nonce = restored(containers, settings={"MODE": "restore", **SIGNAL}).json("/state")["nonce"]
    assert nonce in second.stderr
    assert nonce not in first.stderr


def test_ready_url_stands_in_for_the_signal_file(containers):
    creator = containers.start(
        *COMMAND,
        options=CREATE,
        settings={**SETTINGS, "MODE": "create", "READY_URL": "http://127.0.0.1:8000/health"},
        env={"READY_DELAY": "0.5"},
    )
    assert creator.exit_code() == 0, creator.output()
    assert restored(containers).json("/state")["nonce"] in creator.stderr


def test_args_as_one_string(containers):
    """Kubernetes users write `args: ["python3 -m …"]`."""
    published(containers, command=("python3 /tiny.py",))
    container = restored(containers, command=("python3 /tiny.py",))
    assert container.json("/health") == {"status": "ok"}


def test_without_any_capability_beyond_the_two(containers):
    """drop: ALL plus the two, no_new_privs or not."""
    env = {"BALLAST_MIB": "8", "CHILDREN": "1"}
    creator = published(containers, env=env, options=("--cap-drop", "ALL", *CREATE))
    container = restored(containers, env=env, options=("--cap-drop", "ALL", *RESTORE))
    assert container.json("/state")["nonce"] in creator.stderr


def test_the_archive_is_a_tar_and_extracts_to_plain_criu_images(containers):
    published(containers, env={"BALLAST_MIB": "16"})
    path = containers.checkpoints / "d936422b4f953f99.tar"
    listing = subprocess.run(["tar", "tvf", path], capture_output=True, text=True, check=True).stdout
    assert "dynamo/format.json" in listing
    assert listing.strip().endswith("dynamo/trailer.json")
    script = """
        set -e
        /opt/dynamo_entry/bin/dynamo-entryctl verify /checkpoints/d936422b4f953f99.tar
        /opt/dynamo_entry/bin/dynamo-entryctl inspect --json /checkpoints/d936422b4f953f99.tar > /checkpoints/inspect.json
        /opt/dynamo_entry/bin/dynamo-entryctl extract /checkpoints/d936422b4f953f99.tar /tmp/x
        tar -C / -xf /tmp/x/rootfs/delta.tar
        crit show /tmp/x/criu/pstree.img > /checkpoints/pstree.json
        criu restore -D /tmp/x/criu -W /tmp --unprivileged --tcp-close --file-locks --ext-unix-sk --link-remap \
            --shell-job -d -o restore.log || { cat /tmp/restore.log; exit 1; }
        python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8000/health").read().decode())'
    """
    container = containers.start("-c", script, options=("--entrypoint", "sh", *CREATE), image=WORKER)
    assert container.exit_code() == 0, container.output()
    assert '{"status": "ok"}' in container.stdout
    facts = json.loads((containers.checkpoints / "inspect.json").read_text())
    assert facts["hash"] == "d936422b4f953f99"
    assert "criu/pages-1.img" in facts["streams"]
    assert "entries" in json.loads((containers.checkpoints / "pstree.json").read_text())


def test_the_result_object_says_what_happened(containers):
    answer = "status"
    creator = published(containers, settings={"STATUS_FILE": f"/checkpoints/{answer}"})
    result = json.loads((containers.checkpoints / answer).read_text())
    assert result["result"] == "published"
    assert result["location"] == ARCHIVE
    assert result["size_bytes"] == (containers.checkpoints / "d936422b4f953f99.tar").stat().st_size
    assert {"freeze", "dump", "delta", "publish"} <= set(result["seconds"])
    assert creator.event("Checkpoint published")["digest"] == result["digest"]
    restored(containers, settings={"STATUS_FILE": f"/checkpoints/{answer}"})
    result = json.loads((containers.checkpoints / answer).read_text())
    assert result["result"] == "restored"
    assert {"open", "check", "delta", "restore", "settle"} <= set(result["seconds"])


def test_nothing_is_lost_under_concurrent_requests(containers):
    """Once "Restored" is logged, every request is answered."""
    published(containers, env={"BALLAST_MIB": "8"})
    container = restored(containers)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: container.get("/count"), range(64)))
    assert container.json("/state")["count"] == 64


def test_a_sealed_archive_restores_with_its_key_only(containers):
    """Another key: refused by name, and a cold start."""
    keys = {name: containers.checkpoints / name for name in ("key", "other")}
    for path in keys.values():
        path.write_bytes(os.urandom(32))
    creator = published(containers, settings={"KEY_FILE": "/checkpoints/key"}, env={"BALLAST_MIB": "8"})
    container = restored(containers, settings={"KEY_FILE": "/checkpoints/key"})
    assert container.json("/state")["nonce"] in creator.stderr
    for settings, reason in (({}, "KeyMissing"), ({"KEY_FILE": "/checkpoints/other"}, "SealMismatch")):
        refused = restore(containers, settings=settings)
        assert refused.json("/health") == {"status": "ok"}
        assert refused.event("Falling back to cold start")["reason"] == reason
