"""Signatures and pins: a restoring pod takes what its creators made, and no other, and can make none itself."""

import subprocess
from pathlib import Path

import pytest
from archive_store import MemoryStore, build, forge, noise, open_bytes

from dynamo_entry.archive import Archive, Keys, manifest, read_keys
from dynamo_entry.errors import Corrupt, Incompatible, SettingsError
from dynamo_entry.settings import from_environment
from dynamo_entry.storage import open_store

STREAMS = {"small": b"x"}
SECRET = bytes(range(32))
MIB = 1 << 20


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A private and a public key, made as the documentation says."""
    directory = tmp_path_factory.mktemp("keys")
    private, public = directory / "private.pem", directory / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return str(private), str(public)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    directory = tmp_path_factory.mktemp("other")
    private, public = directory / "private.pem", directory / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return str(private), str(public)


def reason(data, keys, **expected):
    with pytest.raises(Incompatible) as caught:
        open_bytes(data, key=keys, **expected)
    return caught.value.reason


@pytest.mark.parametrize("is_sealed", [True, False])
def test_who_has_the_public_key_takes_what_was_signed(pair, other, tmp_path, is_sealed):
    secrets = (SECRET,) if is_sealed else ()
    data = build(STREAMS, key=read_keys("", pair[0])._replace(secrets=secrets))
    verifying = read_keys("", verify_key_file=pair[1])._replace(secrets=secrets)
    with open_bytes(data, key=verifying) as archive:
        assert archive.read("small") == b"x"
    assert (
        reason(data, read_keys("", verify_key_file=other[1])._replace(secrets=secrets)) == "SignatureMismatch"
    )
    for number, public in enumerate((pair[1], other[1])):
        (tmp_path / str(number)).write_bytes(Path(public).read_bytes())
    with open_bytes(
        data, key=read_keys("", verify_key_file=str(tmp_path))._replace(secrets=secrets)
    ) as archive:
        archive.verify()
    with open_bytes(data, key=Keys(secrets)) as archive:  # who verifies nothing needs no public key
        archive.verify()


def test_who_can_open_and_verify_cannot_make_one_that_others_take(pair):
    """A restoring pod has the secret that opens archives, and public keys."""
    verifying = read_keys("", verify_key_file=pair[1])._replace(secrets=(SECRET,))
    assert reason(build(STREAMS, key=Keys((SECRET,))), verifying) == "NotSigned"


def test_a_signature_is_of_one_manifest(pair):
    verifying = read_keys("", verify_key_file=pair[1])
    data = build(STREAMS, key=read_keys("", pair[0]))
    signature = manifest.find_manifest(data[-manifest.TRAILER_BYTES :], len(data)).signature
    forged = bytearray(forge(data, lambda document: document["head"].update(argv=["evil"])))
    place = manifest.find_manifest(bytes(forged[-manifest.TRAILER_BYTES :]), len(forged))
    body = manifest.trailer_json(manifest.Location(place.offset, place.length, place.digest, None, signature))
    start = len(forged) - manifest.TRAILER_BYTES + 512
    forged[start : start + len(body)] = body
    assert reason(bytes(forged), verifying) == "SignatureMismatch"


def test_a_signer_trusts_itself_alone(pair, other):
    assert list(read_keys("", pair[0]).verifiers) == [read_keys("", pair[0]).signer.number]
    assert reason(build(STREAMS, key=read_keys("", other[0])), read_keys("", pair[0])) == "SignatureMismatch"


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_files_that_hold_no_key_are_named(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    for files in ({"sign_key_file": str(tmp_path / "key")}, {"verify_key_file": str(tmp_path / "key")}):
        with pytest.raises(SettingsError, match=str(tmp_path)) as caught:
            read_keys("", **files)
        assert caught.value.reason == "KeyFileInvalid"


def test_a_file_of_several_keys_is_refused_and_not_read_by_half(pair, other, tmp_path):
    for number, read in enumerate(
        (lambda path: read_keys("", path), lambda path: read_keys("", verify_key_file=path))
    ):
        both = tmp_path / str(number)
        both.write_bytes(Path(pair[number]).read_bytes() + Path(other[number]).read_bytes())
        with pytest.raises(SettingsError, match="2 keys"):
            read(str(both))


def test_a_key_of_another_kind_is_refused(tmp_path):
    subprocess.run(["openssl", "genpkey", "-algorithm", "x25519", "-out", tmp_path / "key"], check=True)
    with pytest.raises(SettingsError, match="no Ed25519 key"):
        read_keys("", str(tmp_path / "key"))


def test_the_trailer_has_room_for_all_of_it(pair):
    keys = read_keys("", pair[0])._replace(secrets=(SECRET,))
    data = build(STREAMS, key=keys)
    place = manifest.find_manifest(data[-manifest.TRAILER_BYTES :], len(data))
    largest = manifest.Location(1 << 50, 64 << 20, place.digest, place.seal, place.signature)
    assert len(manifest.trailer_json(largest, 2)) == 512


def test_an_archive_that_was_put_back_is_refused_by_its_digest():
    """Rollback: older, valid, of the same hash and the same key."""
    old, new = build(STREAMS), build({"small": b"y"})
    with open_bytes(new) as archive:
        digest = archive.digest
    open_bytes(new, expected_digest=digest).close()
    assert reason(old, None, expected_digest=digest) == "DigestMismatch"
    store = MemoryStore(old)
    with pytest.raises(Incompatible):
        Archive.open(store, expected_digest=digest)
    assert len(store.reads) == 1


KEYS = {"DYNAMO_CHECKPOINT_LOCATION": "s3://b/x.tar"}
DIGEST = "blake3:" + "0" * 64


@pytest.mark.parametrize("name", ["KEY_FILE", "VERIFY_KEY_FILE"])
def test_a_key_alone_does_not_say_which_archive(name):
    given = {**KEYS, f"DYNAMO_CHECKPOINT_{name}": "/key"}
    with pytest.raises(SettingsError, match=r"needs DYNAMO_CHECKPOINT_HASH or DYNAMO_CHECKPOINT_DIGEST"):
        from_environment(given)
    for more in ({"HASH": "abc"}, {"DIGEST": DIGEST}, {"SIGNAL_FILE": "/tmp/ready"}, {"MODE": "cold"}):
        from_environment({**given, **{f"DYNAMO_CHECKPOINT_{key}": value for key, value in more.items()}})


@pytest.mark.parametrize("digest", ["abc", "blake3:abc", "sha256:" + "0" * 64, "blake3:" + "g" * 64])
def test_a_digest_is_written_as_it_is_shown(digest):
    with pytest.raises(SettingsError, match="64 hexadecimal"):
        from_environment({**KEYS, "DYNAMO_CHECKPOINT_DIGEST": digest})


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.usefixtures("short_tail")
def test_what_is_verified_is_what_is_used(pair, tmp_path, compression):
    """Who can write to the volume and cannot sign is too late once a chunk was verified."""
    raw = noise(MIB) if compression == "none" else noise(MIB // 2) + bytes(MIB // 2)
    keys = read_keys("", pair[0])
    path = tmp_path / "a.tar"
    path.write_bytes(build({"s": raw}, chunk_size=MIB, compression=compression, key=keys))
    with Archive.open(open_store(str(path)), key=read_keys("", verify_key_file=pair[1])) as archive:
        chunk = archive.chunk("s", 0)
        with path.open("r+b") as file:
            file.seek(archive.place_of("s", 0))
            file.write(b"forged")
        assert bytes(chunk) == raw
        with pytest.raises(Corrupt):
            archive.chunk("s", 0)
