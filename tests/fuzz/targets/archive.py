"""A whole archive, plain and sealed, as anybody may have put it at the location."""

from archive_store import build, noise, open_bytes, text

from dynamo_entry.archive import Head
from dynamo_entry.errors import ArchiveError

KEY = b"k" * 31 + b"!"
REFUSALS = (ArchiveError,)

_STREAMS = {
    "criu/pages-1.img": noise(9000) + bytes(8192) + text(5000),
    "criu/core-1.img": text(300),
    "empty": b"",
}
_HEAD = Head(hash="abc", argv=["engine"])

SEEDS = [
    {"plain.tar": build(_STREAMS, head=_HEAD)},
    {"sealed.tar": build(_STREAMS, head=_HEAD, key=KEY)},
]


def feed(case, _place):
    """What is read from a sealed one is what was sealed."""
    for name, data in case.items():
        with open_bytes(data, key=KEY if name == "sealed.tar" else None, threads=1) as archive:
            found = {stream: archive.read(stream) for stream in archive.names()}
            archive.verify()
        assert found == _STREAMS, "other content was accepted, although the digests of all of it are right"
