"""Restore until the engine answers, against plain `criu restore`, untar + criu, and the copying alone.

With --from s3 or oci the archive is in Ceph's gateway or Docker's registry on loopback, and the peer `download` is
what people do there: fetch a tar of the images (rclone, oras), untar it, `criu restore`.
"""

import contextlib

import container
import stores

#: What the launcher is measured against: CRIU with page-cached images; the same from a tar; faulting in and
#: copying as many bytes. Also there: podman, whose `container restore --import` needs a privileged container.
SIDES = "launcher,criu,untar,memcpy"


def main():
    made = container.parser(__doc__, SIDES)
    made.add_argument(
        "--from",
        dest="store",
        choices=("pvc", *stores.STORES),
        default="pvc",
        help="the archive's store (pvc)",
    )
    options = made.parse_args()
    if options.store == "pvc":
        found = container.run("restore", options)
        base = "criu"
    else:
        options.sides = "launcher,download" if options.sides == SIDES else options.sides
        with contextlib.closing(stores.STORES[options.store](options.size)) as store:
            found = container.run("restore", options, *store.arguments())
        base = "download"
    container.table(found, base)
    phases = [run["phases"] for run in found["runs"]["launcher"]]
    middle = sorted(found["runs"]["launcher"], key=lambda run: run["seconds"])[len(phases) // 2]
    print("phases of the median run:", ", ".join(f"{name} {s:.3f}" for name, s in middle["phases"].items()))
    print(f"archive {found['archive_bytes'] >> 20} MiB, worker's peak {found['worker_peak_mib']}")


main()
