"""From the freeze to the published archive, against `criu dump` to files + tar (or tar with zstd -1)."""

import container

#: What the launcher has published is on the disk; what tar has written may be in memory only, until it is synced.
#: Also there: criu+zstd.
SIDES = "launcher,criu+tar,criu+tar+sync"


def main():
    options = container.parser(__doc__, SIDES).parse_args()
    found = container.run("create", options)
    container.table(found, "criu+tar")
    runs = sorted(found["runs"]["launcher"], key=lambda run: run["seconds"])
    middle = runs[len(runs) // 2]
    print("phases of the median run:", ", ".join(f"{name} {s:.3f}" for name, s in middle["phases"].items()))
    print(f"archive {middle['stored_bytes'] >> 20} MiB")


main()
