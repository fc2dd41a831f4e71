"""Names of an archive's streams, as a creation writes and a restore reads them."""

#: Before the name of every CRIU image.
CRIU = "criu/"

#: What the container's own filesystems hold beyond the image, and what they hold no more.
DELTA_TAR = "rootfs/delta.tar"
DELTA_INDEX = "rootfs/index.json"

#: CRIU's log of the dump, for people.
DUMP_LOG = "dump.log"

#: CRIU's log of a restore, in the scratch directory.
RESTORE_LOG = "restore.log"
