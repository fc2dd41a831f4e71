"""Restore until the engine answers, against plain `criu restore`, untar + criu, and the copying alone."""

import container

#: What the launcher is measured against: CRIU with page-cached images; the same from a tar; faulting in and
#: copying as many bytes. Also there: podman, whose `container restore --import` needs a privileged container.
SIDES = "launcher,criu,untar,memcpy"


def main():
    options = container.parser(__doc__, SIDES).parse_args()
    found = container.run("restore", options)
    container.table(found, "criu")
    phases = [run["phases"] for run in found["runs"]["launcher"]]
    middle = sorted(found["runs"]["launcher"], key=lambda run: run["seconds"])[len(phases) // 2]
    print("phases of the median run:", ", ".join(f"{name} {s:.3f}" for name, s in middle["phases"].items()))
    print(f"archive {found['archive_bytes'] >> 20} MiB, worker's peak {found['worker_peak_mib']}")


main()
