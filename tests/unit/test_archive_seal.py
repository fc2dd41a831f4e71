"""A sealed archive: unreadable, unchangeable and unmakeable without the key."""

import json
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from archive_store import CHUNK, build, forge, manifest_of, noise, open_bytes, text

from dynamo_entry.archive import Head, Keys, manifest, read_keys, seal
from dynamo_entry.errors import ArchiveError, SettingsError

KEY = b"k" * 32
SECRET = b"a secret that must not be found " * 40
STREAMS = {"criu/pages-1.img": noise(CHUNK) + SECRET + bytes(2 * CHUNK), "small": b"x"}
PLAIN = build(STREAMS, compression="none")
SEALED = build(STREAMS, compression="none", key=KEY)


def reason(data, key):
    with pytest.raises(ArchiveError) as caught:
        open_bytes(data, key=key).verify()
    return caught.value.reason


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_key_opens_it(compression):
    streams = {**STREAMS, "text": text(3 * CHUNK + 5)}
    with open_bytes(build(streams, compression=compression, key=KEY), key=KEY) as archive:
        assert {name: archive.read(name) for name in archive.names()} == streams
        archive.verify()


def test_the_content_is_not_in_it():
    assert SECRET in PLAIN
    assert SECRET[:32] not in SEALED


def test_two_archives_of_the_same_content_have_nothing_in_common():
    """Each has keys of its own, so that chunks cannot be moved between them."""
    chunks = []
    for data in (SEALED, build(STREAMS, compression="none", key=KEY)):
        with tarfile.open(fileobj=BytesIO(data)) as tar:
            chunks.append(
                {tar.extractfile(member).read() for member in tar if member.name.startswith("streams/")}
            )
    assert not chunks[0] & chunks[1]


def test_without_the_key_it_is_refused():
    assert reason(SEALED, None) == "KeyMissing"
    assert reason(SEALED, b"another key of thirty-two bytes!") == "SealMismatch"


def test_with_a_key_an_archive_without_a_seal_is_refused():
    """Who sets a key trusts nothing else."""
    assert reason(PLAIN, KEY) == "NotSealed"


def test_a_forged_manifest_is_refused():
    """Right in every digest, but not signed."""
    assert reason(forge(SEALED), KEY) == "NotSealed"
    place = manifest.find_manifest(SEALED[-manifest.TRAILER_BYTES :], len(SEALED))
    forged = bytearray(forge(SEALED, lambda document: document["head"].update(argv=["evil"])))
    end = manifest.find_manifest(bytes(forged[-manifest.TRAILER_BYTES :]), len(forged))
    body = manifest.trailer_json(manifest.Location(end.offset, end.length, end.digest, place.seal))
    start = len(forged) - manifest.TRAILER_BYTES + 512
    forged[start : start + len(body)] = body
    assert reason(bytes(forged), KEY) == "SealMismatch"


def test_a_swapped_chunk_is_refused_even_if_its_digest_were_right():
    """The place is part of what is authenticated."""
    with open_bytes(SEALED, key=KEY) as archive:
        sealed = archive._seal.encrypt(b"data", "a", 0)
        assert archive._seal.decrypt(sealed, "a", 0) == b"data"
        with pytest.raises(ArchiveError, match="decrypted"):
            archive._seal.decrypt(sealed, "a", 1)


def test_it_is_a_tar_that_openssl_could_open(tmp_path):
    """As the format document says: nonce, ciphertext, tag; keys by HKDF."""
    (tmp_path / "archive.tar").write_bytes(SEALED)
    names = subprocess.run(
        ["tar", "tf", tmp_path / "archive.tar"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "streams/small/00000000.aes" in names
    trailer = json.loads(SEALED[-manifest.TRAILER_BYTES + 512 : -1024])
    from base64 import b64decode

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    salt = b64decode(trailer["manifest"]["seal"]["salt"])
    key = HKDF(SHA256(), 32, salt, b"dynamo-entry chunks").derive(KEY)
    with tarfile.open(tmp_path / "archive.tar") as tar:
        stored = tar.extractfile("streams/small/00000000.aes").read()
    assert AESGCM(key).decrypt(stored[:12], stored[12:], b"small/0") == b"x"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"short", "5 bytes"),
        (None, "No such file"),
        (b"e" * 32, "can be guessed"),
        (b"abc123" * 8, "can be guessed"),
    ],
)
def test_a_bad_key_file_is_named(tmp_path, content, says):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=says) as caught:
        read_keys(str(path))
    assert caught.value.reason == "KeyFileInvalid"


def test_no_key_file_is_no_key():
    assert read_keys("") == Keys()


def test_a_sealed_archive_shows_nothing_of_the_engine():
    """Arguments and the canary's answer may be secrets; which checkpoint it is and when it was made are none."""
    secret = Head(
        hash="abc", created_at="2026-01-01T00:00:00Z", argv=["serve", "--api-key", "sk-SECRET"], root_pid=7,
        canary={"text": "the answer is SECRET"}, host={"addresses": [["eth0", "SECRET"]]},
    )  # fmt: skip
    data = build(STREAMS, head=secret, key=KEY)
    assert b"SECRET" not in data
    shown = manifest_of(data)["head"]
    assert {name for name, value in shown.items() if value} == {"hash", "created_at"}
    with open_bytes(data, key=KEY, expected_hash="abc") as archive:
        assert archive.manifest.head == secret


def test_a_sealed_archive_of_before_opens():
    """Its head was shown, and its trailer named no key (written by the version before)."""
    data = (Path(__file__).parent / "data" / "sealed-v1.tar").read_bytes()
    with open_bytes(data, key=KEY, expected_hash="abc") as archive:
        assert archive.manifest.head.argv == ["serve"]
        assert archive.read("small") == b"x"


def test_keys_are_exchanged_while_both_are_known(tmp_path):
    """The first seals, all open: creators get the new one in front, and the old one goes when it is used no more."""
    (tmp_path / "1-new").write_bytes(bytes(range(32)))
    (tmp_path / "2-old").write_bytes(bytes(range(100, 132)))
    (tmp_path / "..data").mkdir()
    both, old = read_keys(str(tmp_path)), read_keys(str(tmp_path / "2-old"))
    for made in (build(STREAMS, key=old), build(STREAMS, key=both)):
        with open_bytes(made, key=both) as archive:
            assert archive.read("small") == b"x"
    with pytest.raises(ArchiveError) as caught:
        open_bytes(build(STREAMS, key=both), key=old)
    assert caught.value.reason == "SealMismatch"
    trailer = json.loads(build(STREAMS, key=both)[-manifest.TRAILER_BYTES + 512 : -1024])
    assert trailer["manifest"]["seal"]["key"] == seal.number(both.secrets[0])


def test_an_empty_directory_of_keys_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="empty"):
        read_keys(str(tmp_path))
