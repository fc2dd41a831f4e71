"""Every case of restore and create that the README speaks of: JSON a case, one table, one chart.

A case that was measured already is not measured again; remove its file for that.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import environment

HERE = Path(__file__).parent

WITH_ZSTD = ("--sides", "launcher,criu+tar,criu+tar+sync,criu+zstd")

#: Name → part, its options.
CASES = {
    "private 64 MiB": ("restore", "--size", "64"),
    "private 1 GiB": ("restore", "--size", "1024", "--sides", "launcher,criu,untar,podman,memcpy"),
    "private 4 GiB": ("restore", "--size", "4096", "--sides", "launcher,criu,untar,podman,memcpy"),
    "private 8 GiB, cold": ("restore", "--size", "8192", "--cold", "--sides", "launcher,criu"),
    "shared 1 GiB": ("restore", "--size", "1024", "--memory", "shared"),
    "shared 4 GiB": ("restore", "--size", "4096", "--memory", "shared"),
    "memfd 1 GiB": ("restore", "--size", "1024", "--memory", "memfd"),
    "memfd 4 GiB": ("restore", "--size", "4096", "--memory", "memfd"),
    "half-compressible 1 GiB": ("restore", "--size", "1024", "--content", "half"),
    "8 processes 1 GiB": ("restore", "--size", "1024", "--processes", "8"),
    "8 processes 4 GiB": ("restore", "--size", "4096", "--processes", "8"),
    "parent and 8 children 512 MiB": ("restore", "--size", "512", "--children", "8"),
    "5 processes, 3000 mappings, 4000 files": (
        *("restore", "--size", "512", "--processes", "5"),
        *("--mappings", "600", "--files", "4000", "--sides", "launcher"),
    ),
    "from S3 1 GiB": ("restore", "--size", "1024", "--from", "s3"),
    "from OCI 1 GiB": ("restore", "--size", "1024", "--from", "oci"),
    "create 64 MiB": ("create", "--size", "64"),
    "create 1 GiB": ("create", "--size", "1024"),
    "create 4 GiB": ("create", "--size", "4096"),
    "create half-compressible 1 GiB": ("create", "--size", "1024", "--content", "half", *WITH_ZSTD),
    "create 8 processes 1 GiB": ("create", "--size", "1024", "--processes", "8"),
    "create parent and 8 children 512 MiB": ("create", "--size", "512", "--children", "8"),
}


def main():
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument(
        "--directory", type=Path, default=Path(".build/results"), help="results (.build/results)"
    )
    made.add_argument("--only", default="", metavar="WORD", help="cases whose name has this in it")
    made.add_argument(
        "--baseline", default="", metavar="REF", help="a side more: the launcher of that commit"
    )
    options = made.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, case in CASES.items():
        file = options.directory / f"{name.replace(' ', '-')}.json"
        if not file.exists() and options.only in name:
            print(f"== {name}", file=sys.stderr)
            subprocess.run(
                [sys.executable, HERE / f"{case[0]}.py", *case[1:], "--rounds", str(options.rounds),
                 "--baseline", options.baseline, "--json", file],
                check=True, stdout=sys.stderr,
            )  # fmt: skip
        if file.exists():
            found[name] = json.loads(file.read_text())
    print(table(found))
    environment.provide()
    subprocess.run([environment.PYTHON, HERE / "drawing/bars.py", options.directory / "report.png"],
                   input=json.dumps(found), text=True, check=True)  # fmt: skip


def ratio(result, side, of):
    """The ratio of the medians, and its smallest and largest within one round."""
    runs = result["runs"]
    rounds = [mine["seconds"] / other["seconds"] for mine, other in zip(runs[side], runs[of], strict=True)]
    middle = result["summary"][side]["median_s"] / result["summary"][of]["median_s"]
    return f"{middle:.2f} ({min(rounds):.2f}-{max(rounds):.2f})"


def table(found):
    """Markdown."""
    lines = [
        "| case | side | seconds | CPU s per GiB | read, disk (MiB) | launcher : side (spread within rounds) |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        for side, row in result["summary"].items():
            per_gib = row["cpu_s"] / (result["options"]["size"] / 1024)
            cells = (
                "" if side != "launcher" else name,
                side,
                f"{row['median_s']:.2f}",
                f"{per_gib:.2f}" if per_gib else "",
                f"{row['read_mib']}, {row['disk_mib']}",
                "" if side == "launcher" else ratio(result, "launcher", side),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


main()
