"""What an S3 server, or somebody in its place, answers a restore, ``list`` and ``prune``."""

import json
import os

from answers import Answers
from archive_store import build, noise, text

from dynamo_entry.archive import Archive, Head
from dynamo_entry.errors import ArchiveError, StorageError
from dynamo_entry.storage import Retry, open_store

REFUSALS = (ArchiveError, StorageError)

_ARCHIVE = build({"criu/pages-1.img": noise(9000), "criu/core-1.img": text(300)}, head=Head(hash="abc"))
_TIME = "2024-01-01T00:00:00.000Z"
_LISTED = (
    "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/a.tar</Key><Size>5</Size>"
    f"<LastModified>{_TIME}</LastModified></Contents></ListBucketResult>"
)
_UPLOADS = (
    "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><Upload><Key>p/a.tar</Key><UploadId>1</UploadId>"
    f"<Initiated>{_TIME}</Initiated></Upload></ListMultipartUploadsResult>"
)
_PARTS = f"<ListPartsResult><IsTruncated>false</IsTruncated><Part><Size>5</Size><LastModified>{_TIME}</LastModified></Part></ListPartsResult>"
_ERROR = "<Error><Code>SlowDown</Code><Message>later</Message><RequestId>7</RequestId></Error>"

_SERVER = Answers()
os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}


def _seed(parts, **answers):
    return {"answers.json": json.dumps(answers).encode()} | parts


_OBJECT = {"GET": [206, {"ETag": '"1"'}, "object"]}
_LISTS = {
    "list-type": [200, {"Date": "Mon, 01 Jan 2024 00:00:01 GMT"}, "list"], "uploads=": [200, {}, "uploads"],
    "uploadId": [200, {}, "parts"],
}  # fmt: skip

SEEDS = [
    _seed({"object": _ARCHIVE}, **_OBJECT),
    _seed({"list": _LISTED.encode(), "uploads": _UPLOADS.encode(), "parts": _PARTS.encode()}, **_LISTS),
    _seed(
        {"object": _ARCHIVE, "error": _ERROR.encode()},
        **_OBJECT | {"GET": [416, {"Retry-After": "1"}, "error"]},
    ),
    _seed({"error": _ERROR.encode()}, GET=[403, {"x-amz-bucket-region": "x"}, "error"]),
]


def feed(case, _place):
    """Opened and read; or looked for its neighbours and for what killed writers left."""
    _SERVER.case = case
    with open_store(
        f"s3+http://127.0.0.1:{_SERVER.port}/bucket/p/a.tar", Retry(limit_s=0.01, stall_s=2)
    ) as store:
        if "list" in case:
            for _ in (*store.archives(), *store.leftovers()):
                pass
            return
        with Archive.open(store, threads=1) as archive:
            archive.verify()
