"""Restores of one archive on one node at once, from S3 on loopback, with and without NODE_CACHE_DIR.

Pods are containers, started beforehand, that wait for each other. Seconds are from then until the last engine is restored;
bytes are what the server says that it sent, as a multiple of the archive. The server, Ceph's gateway, runs on the same
cores as the pods.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import container
import stores
from containers import CREATE, RESTORE, Containers

from dynamo_entry.storage import open_store

#: No port: all pods are in one network.
ENGINE = (
    "python3",
    "-c",
    "import os, time; held = os.urandom({} << 20); open('/tmp/ready', 'w'); time.sleep(9999)",
)

#: The archive on a volume, for a side that has no store.
LOCAL = "engine.tar"
PIECE = 4 << 20

#: Without a process of its own meanwhile: pids from 1000 on are the engine's.
LAUNCHER = (
    "/opt/dynamo_entry/bin/python",
    "-c",
    """
import os, sys, time
while not os.path.exists("/node/go"):
    time.sleep(0.01)
os.execv(sys.executable, [sys.executable, "-I", "-m", "dynamo_entry", "--", *sys.argv[1:]])
""",
)


class Node:
    """A bucket with an archive in it, and a directory of the node, all of it in memory."""

    def __init__(self, options):
        self.store = stores.S3(options.size)
        self.engine = (*ENGINE[:-1], ENGINE[-1].format(options.size))
        self.directory = self.store.directory / "node"
        self.directory.mkdir()
        self.pods = Containers(self.directory)

    def close(self):
        self.pods.close()
        self.store.close()

    def start(self, command, options, **settings):
        variables = {name: str(value) for name, value in self.store.variables.items()}
        return self.pods.start(
            *command, image=container.IMAGE, network="host", options=options, env=variables,
            settings={"LOCATION": variables["ARCHIVE_URL"], "LOG_FORMAT": "json", **settings},
            volumes=(f"{self.directory}:/node",),
        )  # fmt: skip

    def create(self):
        """Onto the node, and from there into the bucket; returns the size of the archive."""
        creator = self.start(
            self.engine, CREATE, LOCATION=f"/node/{LOCAL}", SIGNAL_FILE="/tmp/ready", COMPRESSION="none"
        )
        if creator.exit_code(200):
            raise SystemExit(creator.output())
        with (
            open_store(self.store.variables["ARCHIVE_URL"]) as store,
            (self.directory / LOCAL).open("rb") as file,
        ):
            sink = store.open_writer()
            while piece := file.read(PIECE):
                sink.append(piece)
            return sink.commit().size

    def restore(self, count, **settings):
        """``count`` pods at once: seconds until the last one is restored, and bytes that the store sent."""
        options = (*RESTORE, "--entrypoint", LAUNCHER[0])
        pods = [self.start((*LAUNCHER[1:], *self.engine), options, **settings) for _ in range(count)]
        for pod in pods:
            _ = pod.pid
        time.sleep(1)
        before, began = self.store.server.sent_bytes(), time.monotonic()
        (self.directory / "go").touch()
        for pod in pods:
            pod.wait_for_event("Restored", 120)
        seconds = time.monotonic() - began
        row = {"seconds": round(seconds, 3), "sent_bytes": self.store.server.sent_bytes() - before}
        (self.directory / "go").unlink()
        for pod in pods:
            pod.kill()
        return row

    def forget(self):
        shutil.rmtree(self.directory / "cache", ignore_errors=True)


def sides(node, count):
    """What is measured, in turn. ``later`` finds what those before it have kept; a volume is what no store can be faster than."""
    shared = {"NODE_CACHE_DIR": "/node/cache"}
    return {
        "one": lambda: node.restore(1),
        f"{count} apart": lambda: node.restore(count),
        f"{count} shared": lambda: node.restore(count, **shared),
        f"{count} later": lambda: node.restore(count, **shared),
        f"{count} of a volume": lambda: node.restore(count, LOCATION=f"/node/{LOCAL}"),
    }


def main():
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--size", type=int, default=1024, metavar="MIB", help="memory of the engine (1024)")
    made.add_argument("--pods", type=int, default=8, help="so many restores at once (8)")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = made.parse_args()
    subprocess.run([container.ROOT / "scripts/image", "worker"], check=True, stdout=sys.stderr)
    runs = {}
    with contextlib.closing(Node(options)) as node:
        size = node.create()
        for number in range(options.rounds):
            node.forget()
            for name, act in sides(node, options.pods).items():
                row = act()
                runs.setdefault(name, []).append(row)
                print(
                    f"# {number + 1}/{options.rounds} {name}: {json.dumps(row)}", file=sys.stderr, flush=True
                )
    table(runs, size)
    if options.json:
        asked = {"size": options.size, "pods": options.pods, "rounds": options.rounds}
        options.json.write_text(
            json.dumps({"part": "together", "options": asked, "archive_bytes": size, "runs": runs}, indent=1)
            + "\n"
        )


def table(runs, size):
    """A line a side: seconds, and what the store sent, one restore = 1."""
    one = statistics.median(row["seconds"] for row in runs["one"])
    print(f"{'':14}{'median s':>9}{'min':>8}{'max':>8}{'one = 1':>9}{'archives that the store sent':>30}")
    for name, rows in runs.items():
        seconds = [row["seconds"] for row in rows]
        middle = statistics.median(seconds)
        sent = statistics.median(row["sent_bytes"] for row in rows) / size
        print(f"{name:14}{middle:9.3f}{min(seconds):8.3f}{max(seconds):8.3f}{middle / one:9.2f}{sent:30.2f}")


main()
