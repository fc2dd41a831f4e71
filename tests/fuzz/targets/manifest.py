"""A manifest that somebody wrote: every digest is right."""

import json

from archive_store import build, manifest_of, noise, open_bytes, text, with_body

from dynamo_entry.archive import Head
from dynamo_entry.archive.streams import DELTA_INDEX
from dynamo_entry.errors import ArchiveError
from dynamo_entry.fill.served import Images
from dynamo_entry.rootfs import index

REFUSALS = (ArchiveError,)

_INTACT = build(
    {"criu/pages-1.img": noise(9000) + bytes(8192), "criu/core-1.img": text(300), DELTA_INDEX: b'{"paths": [], "directories": {}}'},
    head=Head(hash="abc", argv=["engine"], host={"arch": "x86_64", "addresses": [["eth0", "10.0.0.1"]]}),
)  # fmt: skip

SEEDS = [{"manifest.json": json.dumps(manifest_of(_INTACT)).encode()}]


def feed(case, _place):
    """Opened, and read as a restore does."""
    with open_bytes(with_body(_INTACT, case["manifest.json"]), threads=1) as archive:
        index.parse(archive.read(DELTA_INDEX, most=index.INDEX_BYTES))
        images = Images(archive)
        for name in images.decoded.names:
            if not name.startswith("pages-"):
                images.read(name)
        archive.verify()
