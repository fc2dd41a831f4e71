"""The keys of a pod, read from files: secrets that seal and open archives, and keys that sign and verify them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dynamo_entry.errors import Incompatible, SettingsError
from dynamo_entry.scratch import read_given
from dynamo_entry.value import NamedTuple

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: A shorter key can be guessed, and so can one with fewer different bytes (32 random bytes have some 30).
_KEY_BYTES, _KEY_VARIETY = 32, 12

#: Put before what is signed, so that no signature made with these keys for another purpose is valid for an archive.
_SIGNED = b"dynamo-entry manifest\n"

_HINT = "create one with: head -c 32 /dev/urandom >FILE, and mount it from a secret"
_SIGN_HINT = "create one with: openssl genpkey -algorithm ed25519 -out FILE"
_VERIFY_HINT = "get it from the private key with: openssl pkey -in PRIVATE -pubout -out FILE"


class Signer(NamedTuple):
    """A private key, and the short name of its public key."""

    key: Ed25519PrivateKey
    number: str

    def sign(self, manifest: bytes) -> bytes:
        """Ed25519 (RFC 8032), 64 bytes."""
        return self.key.sign(_SIGNED + manifest)


class Keys(NamedTuple):
    """The first of ``secrets`` seals; all of them open. If there are ``verifiers``, one must have signed an archive."""

    secrets: tuple[bytes, ...] = ()
    signer: Signer | None = None
    verifiers: dict[str, Ed25519PublicKey] = {}  # noqa: RUF012 - never changed

    @classmethod
    def of(cls, key: Keys | bytes | None) -> Keys:
        """Keys that have only secrets, or none."""
        if isinstance(key, Keys):
            return key
        return cls((key,)) if key else cls()

    def verify(self, manifest: bytes, number: str, signature: bytes) -> None:
        """Raises Incompatible if none of ``verifiers`` made the signature."""
        if not self.verifiers:
            return
        if not signature:
            raise Incompatible(
                "the archive is not signed, and DYNAMO_CHECKPOINT_VERIFY_KEY_FILE is set",
                hint="create it again with DYNAMO_CHECKPOINT_SIGN_KEY_FILE", reason="NotSigned",
            )  # fmt: skip
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - OpenSSL: only signed archives pay

        try:
            if number in self.verifiers:
                self.verifiers[number].verify(signature, _SIGNED + manifest)
                return
        except InvalidSignature:
            pass
        raise Incompatible(
            f"the archive was signed with another key ({number}), or forged; the known keys are {', '.join(self.verifiers)}",
            hint="add the creator's public key to DYNAMO_CHECKPOINT_VERIFY_KEY_FILE", reason="SignatureMismatch",
        )  # fmt: skip


def read_keys(key_file: str, sign_key_file: str = "", verify_key_file: str = "") -> Keys:
    """Read the keys from files, or from directories of files. An empty path: no keys. Raises SettingsError.

    A pod that signs, and has no public keys, trusts what it signed itself.
    """
    secrets = tuple(_checked(path, data) for path, data in _files(key_file, "key", _HINT))
    signer = None
    for path, data in _files(sign_key_file, "signing key", _SIGN_HINT)[:1]:
        signer = _signer(path, data)
    verifiers: dict[str, Ed25519PublicKey] = {}
    for path, data in _files(verify_key_file, "verification key", _VERIFY_HINT):
        public = _public(path, data)
        verifiers[_number(public)] = public
    if signer and not verifiers:
        verifiers = {signer.number: signer.key.public_key()}
    return Keys(secrets, signer, verifiers)


def _files(path: str, what: str, hint: str) -> list[tuple[str, bytes]]:
    """The content of a file, or of all files in a directory, by name; hidden ones (Kubernetes' links) are left out."""
    if not path:
        return []
    try:
        paths = [path]
        if os.path.isdir(path):
            paths = [f"{path}/{name}" for name in sorted(os.listdir(path)) if not name.startswith(".")]
        found = [(one, read_given(one)) for one in paths if not os.path.isdir(one)]
    except OSError as error:
        raise SettingsError(
            f"{what} file {path}: {error.strerror}", hint=hint, reason="KeyFileInvalid"
        ) from None
    if not found:
        raise SettingsError(f"{what} directory {path} is empty", hint=hint, reason="KeyFileInvalid")
    return found


def _checked(path: str, key: bytes) -> bytes:
    if len(key) < _KEY_BYTES:
        problem = f"holds {len(key)} bytes, at least {_KEY_BYTES} are needed"
    elif len({*key}) < _KEY_VARIETY:
        problem = f"holds {len({*key})} different bytes: it can be guessed"
    else:
        return key
    raise SettingsError(f"key file {path} {problem}", hint=_HINT, reason="KeyFileInvalid")


def _signer(path: str, data: bytes) -> Signer:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        _check_single(data)
        key = load_pem_private_key(data, None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("it is no Ed25519 key")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable("signing", path, error, _SIGN_HINT) from None
    return Signer(key, _number(key.public_key()))


def _public(path: str, data: bytes) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        _check_single(data)
        key = load_pem_public_key(data)
        if not isinstance(key, Ed25519PublicKey):
            raise TypeError("it is no Ed25519 key")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable("verification", path, error, _VERIFY_HINT) from None
    return key


def _check_single(data: bytes) -> None:
    """Raises ValueError if a file holds several keys: only the first one would be read."""
    if (count := data.count(b"-----BEGIN ")) > 1:
        raise ValueError(f"it holds {count} keys: give each a file of its own, in a directory")


def _unusable(what: str, path: str, error: Exception, hint: str) -> SettingsError:
    return SettingsError(f"{what} key file {path}: {error}", hint=hint, reason="KeyFileInvalid")


def _number(key: Ed25519PublicKey) -> str:
    """A short name of a public key."""
    from blake3 import blake3  # noqa: PLC0415 - as above

    return blake3(key.public_bytes_raw()).hexdigest(length=8)
