"""Restores of one engine, by the launcher and by what people do without it. Prints one JSON object."""

import ctypes
import json
import mmap
import os
import sys
import threading
import time
from pathlib import Path

import baseline
import nested
from trial import WORK, Launcher, end_everything, footprints, measure, run, summary, wait_until_answering

from dynamo_entry import storage
from dynamo_entry.archive import Archive

ARCHIVE, BASELINE_ARCHIVE = f"{WORK}/engine.tar", f"{WORK}/baseline.tar"
IMAGES, TAR, UNTARRED = f"{WORK}/images", f"{WORK}/images.tar", f"{WORK}/untarred"
CHUNK = 4 << 20

#: Where the engine's files are (WRITTEN), and a directory that it does not touch.
FILES, ASIDE = "/root/.cache/tiny", "/var"

#: Where the launcher takes the archive from; the peers that have no store take the images from the directory.
SOURCE = os.environ.get("ARCHIVE_URL", ARCHIVE)
DOWNLOADED = f"{WORK}/downloaded"


def create():
    """The archive, the plain images, and a tar of them."""
    settings = {"LOCATION": ARCHIVE, "SIGNAL_FILE": "/tmp/ready", "COMPRESSION": os.environ["COMPRESSION"]}
    Launcher(**settings).wait_for("Checkpoint published")
    end_everything()
    if "baseline" in SIDES:
        baseline.install()
        settings["LOCATION"] = BASELINE_ARCHIVE
        Launcher(baseline.PYTHON, **settings).wait_for("Checkpoint published")
        end_everything()
    run([os.path.join(os.path.dirname(sys.executable), "dynamo-entryctl"), "extract", ARCHIVE, IMAGES])
    if {"untar", "download"} & set(SIDES):
        run(["tar", "-C", f"{IMAGES}/criu", "-cf", TAR, "."])
    if SOURCE != ARCHIVE:
        upload(ARCHIVE, SOURCE)
    if "download" in SIDES:
        upload(TAR, os.environ["IMAGES_URL"])
    if "podman" in SIDES:
        nested.create()
        end_everything()


def upload(path, location):
    with storage.open_store(location) as store, open(path, "rb") as file:
        sink = store.open_writer()
        while piece := file.read(CHUNK):
            sink.append(piece)
        sink.commit()


def ours(_context):
    """Until the engine answers."""
    return restored(sys.executable, SOURCE)


def theirs(_context):
    """The same by the baseline, of an archive that it has made itself, or of ours in a store."""
    return restored(baseline.PYTHON, BASELINE_ARCHIVE if SOURCE == ARCHIVE else SOURCE)


def restored(python, source):
    began = time.monotonic()
    started = Launcher(python, LOCATION=source)
    wait_until_answering()
    return {"seconds": time.monotonic() - began, "phases": started.wait_for("Restored")["seconds"]}


def criu(directory):
    with Archive.open(storage.open_store(ARCHIVE)) as archive:
        pipes = {
            link
            for number, link in archive.manifest.head.stdio.items()
            if number != "0" and link[:5] == "pipe:"
        }
    devnull = os.open("/dev/null", os.O_WRONLY)
    os.set_inheritable(devnull, True)
    inherit = [word for link in pipes for word in ("--inherit-fd", f"fd[{devnull}]:{link}")]
    began = time.monotonic()
    run(
        ["criu", "restore", "-D", directory, "-W", "/tmp", "-o", "raw.log", "-v1", "--unprivileged", "--tcp-close",
         "--file-locks", "--ext-unix-sk", "--link-remap", "--shell-job", "-d", *inherit], pass_fds=[devnull],
    )  # fmt: skip
    wait_until_answering()
    os.close(devnull)
    return {"seconds": time.monotonic() - began}


def raw(_context):
    return criu(f"{IMAGES}/criu")


def untar(_context):
    began = time.monotonic()
    os.makedirs(UNTARRED)
    run(["tar", "-C", UNTARRED, "-xf", TAR])
    criu(UNTARRED)
    return {"seconds": time.monotonic() - began}


def download(_context):
    """The tar of the images from the store, with the store's own tool."""
    began = time.monotonic()
    os.makedirs(UNTARRED)
    if "RCLONE" in os.environ:
        run(
            [os.environ["RCLONE"], "--config", "/dev/null", "copyto", os.environ["RCLONE_SOURCE"], DOWNLOADED]
        )
        run(["tar", "-C", UNTARRED, "-xf", DOWNLOADED])
    else:
        run([sys.executable, "/bench/oras_pull.py", os.environ["ORAS_SOURCE"], DOWNLOADED])
        run(["sh", "-c", f"cat {DOWNLOADED}/* | tar -C {UNTARRED} -xf -"])
    criu(UNTARRED)
    return {"seconds": time.monotonic() - began}


def floor(_context):
    """Fault in and copy as many bytes as the engine has, from the archive in the page cache, with as many threads."""
    size = int(os.environ["SIZE_MIB"]) << 20
    with open(ARCHIVE, "rb") as file:
        source = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    into = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = [ctypes.addressof(ctypes.c_char.from_buffer(view)) for view in (into, source)]
    offsets, available = iter(range(0, size // CHUNK * CHUNK, CHUNK)), len(source) // CHUNK * CHUNK
    lock = threading.Lock()

    def copy():
        while True:
            with lock:
                offset = next(offsets, None)
            if offset is None:
                return
            ctypes.memmove(address[0] + offset, address[1] + offset % available, CHUNK)

    began = time.monotonic()
    threads = [threading.Thread(target=copy) for _ in range(len(os.sched_getaffinity(0)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.monotonic() - began}


def nothing():
    return None


def as_in_a_new_container():
    """Without the files of the delta. They are not removed: ext4 would search long for inodes that were not just freed."""
    if os.path.exists(FILES):
        os.rename(FILES, f"{ASIDE}/files-{time.monotonic_ns()}")


def remove_untarred():
    for path in (UNTARRED, DOWNLOADED):
        run(["rm", "-rf", path])


SIDES = {
    "launcher": (as_in_a_new_container, ours),
    "baseline": (as_in_a_new_container, theirs),
    "criu": (nothing, raw),
    "untar": (remove_untarred, untar),
    "download": (remove_untarred, download),
    "memcpy": (nothing, floor),
    "podman": (nothing, nested.restore),
}


def worker_status():
    """/proc/PID/status of the launcher's worker, while there is one."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if b"dynamo_entry.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return dict(
                    line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                )
        except OSError:
            continue
    return None


def worker_peak_mib():
    """Over one restore that is not timed: resident bytes, and those that are no page cache."""
    started = Launcher(LOCATION=SOURCE)
    peak = dict.fromkeys(("VmHWM", "RssAnon"), 0)
    while not any(event["event"] == "Restored" for event in started.events):
        status = worker_status() or {}
        for name, before in peak.items():
            peak[name] = max(before, int(status.get(name, "0").split()[0]) >> 10)
        time.sleep(0.005)
    end_everything()
    return peak


def main():
    for name in set(SIDES) - set(os.environ["SIDES"].split(",")):
        del SIDES[name]
    create()
    size = int(os.environ["SIZE_MIB"]) << 20
    inputs = [
        path for path in (ARCHIVE, BASELINE_ARCHIVE, IMAGES, TAR, nested.EXPORTED) if os.path.exists(path)
    ]
    found = measure(SIDES, rounds=int(os.environ["ROUNDS"]), size=size, inputs=inputs)
    taken = footprints(SIDES, inputs)
    print(
        json.dumps(
            {
                "summary": {name: summary(rows) | taken[name] for name, rows in found.items()},
                "runs": found,
                "archive_bytes": os.path.getsize(ARCHIVE),
                "worker_peak_mib": worker_peak_mib(),
            }
        )
    )


main()
