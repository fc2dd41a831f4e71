"""Reading an archive from a volume that answers late, as file systems of servers do: NFS, EFS, Filestore, CephFS.

The volume is a FUSE file system that waits before every answer, and gives any number of them at once; nothing of it
is in the page cache. Peers: mappings that are faulted in by as many threads, and read(2) from front to back.
Wants root, for the mount, which nobody else sees.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dynamo_entry.archive import ArchiveWriter, Compression, Head
from dynamo_entry.storage import open_store

PARTS = Path(__file__).parent / "slow"
SIDES = ("launcher", "mapped", "read")
PIECE = 4 << 20

#: Set in the mount namespace of its own that all of this runs in.
INSIDE = "BENCH_HAS_MOUNTS_OF_ITS_OWN"


def write_archive(path, size):
    with open_store(path) as store:
        sink = store.open_writer()
        archive = ArchiveWriter(sink, compression=Compression(None), threads=2)
        stream = archive.stream("criu/pages-1.img")
        for _ in range(0, size, PIECE):
            stream.write(os.urandom(PIECE))
        stream.close()
        archive.finish(Head())
        sink.commit()


def measure(options, directory):
    """{side: [seconds]}"""
    archive, mount = directory / "archive.tar", directory / "mount"
    mount.mkdir()
    write_archive(str(archive), options.size << 20)
    argv = [sys.executable, PARTS / "mount.py", archive, mount, str(options.latency)]
    found = {side: [] for side in SIDES}
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            if server.stdout.readline() != b"mounted\n":
                raise SystemExit("no file system can be mounted here")
            for number in range(options.rounds):
                for side in SIDES:
                    argv = [sys.executable, PARTS / "read.py", side, mount / "file", str(options.threads)]
                    seconds = float(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
                    found[side].append(seconds)
                    print(f"# {number + 1}/{options.rounds} {side}: {seconds:.3f}", file=sys.stderr)
        finally:
            subprocess.run(["umount", mount], check=False)
            server.wait(10)
    return found


def main():
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--size", type=int, default=512, metavar="MIB", help="the archive (512)")
    made.add_argument("--latency", type=float, default=2, metavar="MS", help="of every answer (2)")
    made.add_argument("--threads", type=int, default=2, help="as many as a restore had cores (2)")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--directory", default="/var/tmp", help="where the archive goes")
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = made.parse_args()
    if INSIDE not in os.environ:
        os.execvpe(
            "unshare", ["unshare", "--mount", sys.executable, *sys.argv], {**os.environ, INSIDE: "yes"}
        )
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        found = measure(options, Path(directory))
    print(f"{'':10}{'median':>9}{'min':>8}{'max':>8}{'MB/s':>8}   launcher : side")
    for side, seconds in found.items():
        middle = statistics.median(seconds)
        ratio = "" if side == "launcher" else f"{statistics.median(found['launcher']) / middle:.2f}"
        print(
            f"{side:10}{middle:9.3f}{min(seconds):8.3f}{max(seconds):8.3f}{(options.size << 20) / middle / 1e6:8.0f}"
            f"   {ratio}"
        )
    if options.json:
        asked = {name: value for name, value in vars(options).items() if name not in ("json", "directory")}
        options.json.write_text(
            json.dumps({"part": "volume", "options": asked, "runs": found}, indent=1) + "\n"
        )


main()
