"""Draws what report.py found, read as JSON from standard input, into a PNG: FILE."""

import json
import sys

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt


def draw(found, path):
    """Seconds of every side, a group of bars a case."""
    sides = list(dict.fromkeys(side for result in found.values() for side in result["summary"]))
    figure, axes = plt.subplots(figsize=(10, 0.6 * len(found) + 1.5), layout="constrained")
    height = 0.8 / max(len(result["summary"]) for result in found.values())
    for side in sides:
        places, rows = [], []
        for place, result in enumerate(found.values()):
            if side in result["summary"]:
                among = list(result["summary"])
                places.append(place + (among.index(side) - (len(among) - 1) / 2) * height)
                rows.append(result["summary"][side])
        medians = [row["median_s"] for row in rows]
        spread = [
            [row["median_s"] - row["min_s"] for row in rows],
            [row["max_s"] - row["median_s"] for row in rows],
        ]
        axes.barh(places, medians, height, xerr=spread, label=side, error_kw={"lw": 0.8})
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("seconds; median, least and most")
    axes.legend()
    figure.savefig(path, dpi=110)
    print(f"chart: {path}", file=sys.stderr)


draw(json.load(sys.stdin), sys.argv[1])
