"""Files on volumes that belong to every pod: projected ones, those that everybody writes to, locks, and models."""

import os
import shutil

import pytest
from containers import CREATE, RESTORE
from launcher import create, published, restored

from engines import Engine

FIRST, SECOND = "..2026_11_28_10_00_00.111", "..2026_11_28_11_00_00.222"


def projected(directory, dated, text="layers: 4\n"):
    """A configMap as a kubelet puts it into a volume."""
    (directory / dated).mkdir(parents=True)
    (directory / dated / "model.yaml").write_text(text)
    (directory / "..data").symlink_to(dated)
    (directory / "model.yaml").symlink_to("..data/model.yaml")
    return ("-v", f"{directory}:/etc/cfg:ro")


HOLDS = {
    "open": 'f = open("/etc/cfg/model.yaml")',
    "mapped": 'import mmap; f = open("/etc/cfg/model.yaml", "rb"); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()',
    "directory": 'f = os.open("/etc/cfg/..data", os.O_RDONLY)',
    "cwd": 'os.chdir("/etc/cfg/..data")',
    "watch": """
import ctypes
libc = ctypes.CDLL(None)
assert libc.inotify_add_watch(libc.inotify_init1(0), b"/etc/cfg/..data", 0xfff) > 0
""",
    "watch_of_a_file": """
import ctypes
libc = ctypes.CDLL(None)
assert libc.inotify_add_watch(libc.inotify_init1(0), b"/etc/cfg/model.yaml", 0xfff) > 0
""",
}
READ = '\nwait()\nif "f" in globals() and hasattr(f, "seek") and not f.closed: f.seek(0); print(f.read())\ndone(open("/etc/cfg/model.yaml").read().strip(), os.getcwd())'


@pytest.mark.parametrize("hold", HOLDS)
def test_what_a_config_map_holds_is_found_in_the_new_pods(containers, tmp_path, hold):
    engine = Engine(containers, HOLDS[hold] + READ)
    engine.created(options=(*CREATE, *projected(tmp_path / "a", FIRST)))
    container = engine.restored(options=(*RESTORE, *projected(tmp_path / "b", SECOND)))
    assert "after layers: 4" in container.stdout, container.output()
    if hold == "cwd":
        assert SECOND in container.stdout


def test_a_config_map_with_other_content_is_refused_by_name(containers, tmp_path):
    engine = Engine(containers, HOLDS["open"] + READ)
    engine.created(options=(*CREATE, *projected(tmp_path / "a", FIRST)))
    event = engine.refused(options=(*RESTORE, *projected(tmp_path / "b", SECOND, "layers: 40\n")))
    assert event["reason"] == "VolumeDiffers" and "model.yaml" in event["message"]


@pytest.mark.parametrize("hold", ["open", "mapped", "cwd"])
def test_what_was_deleted_on_a_read_only_volume_is_refused_before_the_freeze(containers, tmp_path, hold):
    """A configMap that was updated while the engine started."""
    wait = '\nprint("held", flush=True)\nwhile os.path.exists("/etc/cfg/..2026_11_28_10_00_00.111"): time.sleep(.1)'
    engine = Engine(containers, HOLDS[hold] + wait + READ)
    options = (*CREATE, *projected(tmp_path / "a", FIRST))
    creator = create(containers, command=engine.command, options=options)
    creator.wait_for_text("held")
    shutil.rmtree(tmp_path / "a" / FIRST)
    event = creator.wait_for_event("Checkpoint not created")
    assert event["reason"] == "DeletedReadOnly" and "/etc/cfg/" in event["message"], creator.output()


WRITERS = {
    "append_and_read": """
f = open("/volume/state.log", "a+")
def write(text): f.write(text + "\\n"); f.flush(); f.seek(0); return f.read().split()
""",
    "append_beside_a_reader": """
f, r = open("/volume/state.log", "a"), open("/volume/state.log")
def write(text): f.write(text + "\\n"); f.flush(); r.seek(0); return r.read().split()
""",
    "read_and_write": """
pathlib.Path("/volume/state.log").touch(); f = open("/volume/state.log", "r+")
def write(text): f.seek(0, 2); f.write(text + "\\n"); f.flush(); f.seek(0); return f.read().split()
""",
    "sqlite": """
import sqlite3
db = sqlite3.connect("/volume/db.sqlite", isolation_level=None)
db.execute("create table if not exists t (x text)")
def write(text):
    db.execute("insert into t values (?)", (text + " " * 9000,))
    assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    return [row[0].strip() for row in db.execute("select x from t")]
""",
}
WRITES = '\nwrite("cold")\nwait()\ndone(*write(os.environ["WHO"] + "-goes-on"))'


@pytest.mark.parametrize("kind", ["append_and_read", "append_beside_a_reader"])
def test_a_log_that_everybody_appends_to_is_no_obstacle(containers, tmp_path, kind):
    engine = Engine(containers, WRITERS[kind] + WRITES)
    options = ("-v", f"{tmp_path}:/volume", "-e", "WHO=engine")
    creator = engine.created(options=(*CREATE, *options))
    assert not creator.event("restores will need these files unchanged")
    for count in (1, 2):
        container = engine.restored(options=(*RESTORE, *options))
        assert (
            container.stdout.split("after ")[1].split("DONE")[0].split()
            == ["cold"] + ["engine-goes-on"] * count
        )


@pytest.mark.parametrize("kind", ["read_and_write", "sqlite"])
def test_what_binds_restores_is_named_and_can_be_reopened(containers, tmp_path, kind):
    engine = Engine(containers, WRITERS[kind] + WRITES)
    options = ("-v", f"{tmp_path}:/volume", "-e", "WHO=engine")
    creator = engine.created(options=(*CREATE, *options))
    event = creator.event("restores will need these files unchanged")
    assert event and all(path.startswith("/volume/") for path in event["paths"]), creator.output()
    engine.restored(options=(*RESTORE, *options)).kill()
    assert engine.refused(options=(*RESTORE, *options))["reason"] == "VolumeDiffers"
    container = engine.restored(options=(*RESTORE, *options), settings={"REOPEN_PATHS": "/volume"})
    assert container.stdout.count("engine-goes-on") == 2, container.output()


CLOSED = """
import sqlite3
db = sqlite3.connect("/volume/db.sqlite", isolation_level=None)
db.execute("pragma journal_mode=wal")
db.execute("create table if not exists t (x text)")
def write(text):
    db.execute("insert into t values (?)", (text + " " * 9000,))
    assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    return [row[0].strip() for row in db.execute("select x from t")]
write("cold")
wait()
rows = write("goes-on")
db.close()
done(*rows)
"""


def test_a_database_whose_log_sqlite_has_removed_is_opened_again(containers, tmp_path):
    """The last connection that ends removes the log and its index, which every restored engine has open and mapped."""
    engine = Engine(containers, CLOSED)
    options = ("-v", f"{tmp_path}:/volume")
    engine.created(options=(*CREATE, *options))
    reopened = {"REOPEN_PATHS": "/volume"}
    for count in (1, 2, 3):
        container = engine.restored(options=(*RESTORE, *options), settings=reopened)
        rows = container.stdout.split("after ")[1].split("DONE")[0].split()
        assert rows == ["cold"] + ["goes-on"] * count, container.output()
        assert not (tmp_path / "db.sqlite-shm").exists()
    assert engine.refused(options=(*RESTORE, *options))["reason"] in ("VolumeMissing", "VolumeDiffers")
    (tmp_path / "db.sqlite").unlink()
    assert engine.refused(options=(*RESTORE, *options), settings=reopened)["reason"] == "VolumeMissing"


NUMBERED = """
import sqlite3
db = sqlite3.connect("/srv/db.sqlite")
db.execute("pragma journal_mode={mode}")
with db:
    db.execute("create table t (x text)")
wait()
said = []
for connection in (db, sqlite3.connect("/srv/db.sqlite")):
    try:
        with connection:
            connection.execute("insert into t values ('new')")
        said.append("written")
    except sqlite3.OperationalError as error:
        said.append(str(error).split()[-2])
done(*said)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_of_the_container_is_read_only_without_a_write_ahead_log(containers, mode):
    """SQLite knows the file by its number, and makes no journal for another one. New connections can write."""
    engine = Engine(containers, NUMBERED.format(mode=mode))
    creator = engine.created()
    named = creator.event("databases will be read-only for their present connections")
    assert (named and named["paths"]) == (["/srv/db.sqlite"] if mode == "delete" else None)
    first = "readonly" if mode == "delete" else "written"
    assert f"after {first} written DONE" in engine.restored().stdout


TO_ITS_END = """
import mmap
file = open("/volume/data", "w+b")
file.truncate(3 * mmap.PAGESIZE)
mapped = mmap.mmap(file.fileno(), 0)
wait()
done(mapped[-1])
"""


def test_a_mapped_file_that_is_shorter_here_is_refused_where_files_are_reopened(containers, tmp_path):
    """The engine would end as soon as it reads what is not there."""
    engine = Engine(containers, TO_ITS_END)
    options = ("-v", f"{tmp_path}:/volume")
    engine.created(options=(*CREATE, *options))
    reopened = {"REOPEN_PATHS": "/volume"}
    engine.restored(options=(*RESTORE, *options), settings=reopened).kill()
    (tmp_path / "data").write_bytes(b"short")
    assert engine.refused(options=(*RESTORE, *options), settings=reopened)["reason"] == "VolumeDiffers"


LOCKS = {
    "flock": "import fcntl; f = open('/volume/lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX)",
    "posix": "import fcntl; f = open('/volume/lock', 'w'); fcntl.lockf(f, fcntl.LOCK_EX)",
    "open_file_description": """
import fcntl, struct
f = open('/volume/lock', 'w'); fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
""",
}


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_that_another_replica_holds_is_refused_by_name(containers, tmp_path, kind):
    """CRIU would wait for it as long as the other one lives."""
    engine = Engine(containers, LOCKS[kind] + "\nwait()\ndone()")
    options = ("-v", f"{tmp_path}:/volume")
    creator = engine.created(options=(*CREATE, *options))
    assert creator.event("restores will need these files unchanged")["paths"] == ["/volume/lock"]
    first = engine.restored(options=(*RESTORE, *options))
    event = engine.refused(options=(*RESTORE, *options))
    assert event["reason"] == "LockTaken" and "/volume/lock" in event["message"]
    first.kill()
    engine.restored(options=(*RESTORE, *options))


MAPPED = """
import mmap
f = open("/volume/model", "rb"); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()
wait()
done(m[:4], m[-4:])
"""


@pytest.mark.parametrize("size", [1 << 16, 16 << 20])
def test_a_model_of_the_same_size_and_other_content_is_refused_by_name(containers, tmp_path, size):
    """A copy of the same, with another time, is a line in the log where it is large."""
    engine = Engine(containers, MAPPED)
    places = {name: tmp_path / name for name in ("made", "copied", "other")}
    for name, content in (("made", b"weights "), ("copied", b"weights "), ("other", b"biases  ")):
        places[name].mkdir()
        (places[name] / "model").write_bytes(content * (size // 8))
        os.utime(places[name] / "model", (len(name), len(name)))
    engine.created(options=(*CREATE, "-v", f"{places['made']}:/volume"))
    container = engine.restored(options=(*RESTORE, "-v", f"{places['copied']}:/volume"))
    assert container.event("volume file has another time")["path"] == "/volume/model"
    event = engine.refused(options=(*RESTORE, "-v", f"{places['other']}:/volume"))
    assert event["reason"] == "VolumeDiffers" and "/volume/model" in event["message"]


#: What CRIU makes anew on the volume, and what must be there by then.
MADE = {
    "deleted": 'f = open("/volume/data", "w+"); f.write("x"); f.flush(); os.unlink("/volume/data")',
    "socket": 's = socket.socket(socket.AF_UNIX); s.bind("/volume/sub/rpc.sock"); s.listen()',
    "fifo": 'os.mkfifo("/volume/fifo"); f = os.open("/volume/fifo", os.O_RDWR)',
}


@pytest.mark.parametrize(
    ("thing", "mode", "reason"),
    [("deleted", ":ro", "VolumeReadOnly"), ("socket", ":ro", "VolumeReadOnly"), ("socket", "", "VolumeMissing"),
     ("fifo", "", "VolumeMissing")],
)  # fmt: skip
def test_what_is_made_anew_on_a_volume_has_a_place_there(containers, tmp_path, thing, mode, reason):
    """Told before the first data byte, and not by CRIU's words."""
    engine = Engine(containers, f"import socket\n{MADE[thing]}\nwait()\ndone()")
    places = [tmp_path / name for name in ("created", "restored")]
    for place in places:
        place.mkdir()
        if place is places[0] or mode:
            (place / "sub").mkdir()
    engine.created(options=(*CREATE, "-v", f"{places[0]}:/volume"))
    event = engine.refused(options=(*RESTORE, "-v", f"{places[1]}:/volume{mode}"))
    assert event["reason"] == reason and "/volume" in event["message"]
    engine.restored(options=(*RESTORE, "-v", f"{places[0]}:/volume"))


def test_a_directory_of_a_volume_travels_and_a_scratch_directory_stays(containers, tmp_path):
    """As they are written, with a slash at the end; the directory is the engine's own, and the volume is not."""
    made = "mkdir -p /data/sub && echo made | tee /data/sub/file /data/other /dev/shm/file /tmp/file"
    command = ("sh", "-c", f"{made} && exec python3 /tiny.py")

    def options(base, name):
        (tmp_path / name).mkdir()
        return (*base, "-v", f"{tmp_path / name}:/data")

    paths = {"CAPTURE_PATHS": "/data/sub/", "EXCLUDE_PATHS": "/dev/shm/"}
    published(containers, command=command, options=options(CREATE, "created"), settings=paths)
    container = restored(containers, command=command, options=options(RESTORE, "restored"))
    found = container.run_inside(
        "sh", "-c", "cd / && ls -d data/sub/file data/other dev/shm/file tmp/file 2>&1 || :"
    )
    assert {line for line in found.split("\n") if "ls:" not in line} == {"data/sub/file", "tmp/file", ""}


@pytest.mark.parametrize(
    ("name", "place"),
    [("WORK_DIR", "/run"), ("WORK_DIR", "/srv/app"), ("STATE_DIR", "/tmp"), ("STATE_DIR", "/srv")],
)
def test_the_launchers_directories_claim_nothing_of_the_engines(containers, name, place):
    """They may be put where an engine has files, too."""
    command = ("sh", "-c", f"mkdir -p {place} && echo made >{place}/file && exec python3 /tiny.py")
    published(containers, command=command, settings={name: place})
    container = restored(containers, command=command, settings={name: place})
    assert container.run_inside("sh", "-c", f"cat {place}/file || :") == "made\n"


def test_an_engine_that_writes_a_termination_message(containers, tmp_path):
    """Kubernetes mounts an empty file of its own into every container, in /dev."""
    engine = Engine(
        containers,
        """
        log = open("/dev/termination-log", "w", buffering=1)
        log.write("warming up\\n")
        wait()
        done(log.write("serving"))
        """,
    )
    for name, options, start in (("a", CREATE, engine.created), ("b", RESTORE, engine.restored)):
        (tmp_path / name).touch()
        container = start(options=(*options, "-v", f"{tmp_path / name}:/dev/termination-log"))
    assert "after 7" in container.stdout, container.output()
