"""What an OCI registry, or somebody in its place, answers a restore."""

import hashlib
import json
import os

from answers import Answers
from archive_store import build, noise, text

from dynamo_entry.archive import Archive, Head
from dynamo_entry.errors import ArchiveError, StorageError
from dynamo_entry.storage import Retry, open_store
from dynamo_entry.storage.oci import artifact

REFUSALS = (ArchiveError, StorageError)

_ARCHIVE = build({"criu/pages-1.img": noise(9000), "criu/core-1.img": text(300)}, head=Head(hash="abc"))
_DIGEST = f"sha256:{hashlib.sha256(_ARCHIVE).hexdigest()}"
_MANIFEST = artifact.encoded(
    artifact.manifest(
        [artifact.Layer(_DIGEST, len(_ARCHIVE))], None, {artifact.CREATED: "2024-01-01T00:00:00Z"}
    )
)


def _seed(**answers):
    document = {"/manifests/": [200, {}, "manifest.json"], "/blobs/": [206, {}, "layer"]} | answers
    return {"answers.json": json.dumps(document).encode(), "manifest.json": _MANIFEST, "layer": _ARCHIVE}


_SERVER = Answers()
os.environ["DOCKER_CONFIG"] = "/nonexistent"

SEEDS = [
    _seed(),
    _seed(**{"/blobs/": [200, {}, "layer"]}),
    _seed(**{"/manifests/": [307, {"Location": f"http://127.0.0.1:{_SERVER.port}/moved"}, ""], "/moved": [200, {}, "manifest.json"]}),
    _seed(**{"/tags/list": [200, {"Link": '</v2/ck/tags/list?n=1&last=a>; rel="next"'}, "tags.json"]}) | {"tags.json": b'{"tags": ["a"]}'},
]  # fmt: skip


def feed(case, _place):
    """Opened, read, and looked for its neighbours."""
    _SERVER.case = case
    with open_store(f"oci+http://127.0.0.1:{_SERVER.port}/ck:tag", Retry(limit_s=0.01, stall_s=2)) as store:
        with Archive.open(store, threads=1) as archive:
            archive.verify()
        if "tags.json" in case:
            for _ in store.archives():
                pass
