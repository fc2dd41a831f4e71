"""The seal of an archive: without the key nobody can read it, or make another one that a restore would run.

From the content of a key file and the archive's own random salt HKDF-SHA256 (RFC 5869) derives two keys: one
encrypts the chunks (AES-256-GCM, NIST SP 800-38D), one authenticates the manifest (HMAC-SHA256, RFC 2104),
which holds the digests of all chunks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dynamo_entry.errors import Corrupt, Incompatible
from dynamo_entry.storage.base import Bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SALT_BYTES = 16

#: Bytes that encryption adds to a chunk: the nonce before it, and the tag after it.
NONCE_BYTES, TAG_BYTES = 12, 16

#: The place of a chunk that several streams may refer to: the manifest says where it belongs.
ANYWHERE = "", 0
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES


def number(key: bytes) -> str:
    """A short name of a secret, which reveals nothing about it."""
    return _hmac(key, b"dynamo-entry key number")[:8].hex()


class Seal:
    """The keys of one archive. Thread-safe."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self.salt = salt
        self._manifest_key = _derive(key, salt, b"manifest")
        self._cipher = _cipher(_derive(key, salt, b"chunks"))

    @classmethod
    def new(cls, key: bytes) -> Seal:
        """The seal of a new archive."""
        return cls(key, os.urandom(SALT_BYTES))

    def mac(self, manifest: bytes) -> bytes:
        """HMAC-SHA256 of the manifest's JSON, 32 bytes."""
        return _hmac(self._manifest_key, manifest)

    @classmethod
    def opened(cls, secrets: tuple[bytes, ...], salt: bytes, manifest: bytes, mac: bytes) -> Seal:
        """The seal of an archive that was sealed with one of ``secrets``. Raises Incompatible."""
        from hmac import compare_digest  # noqa: PLC0415 - as below

        for secret in secrets:
            seal = cls(secret, salt)
            if compare_digest(seal.mac(manifest), mac):
                return seal
        raise Incompatible(
            f"the archive was sealed with another key, or forged; the known keys are {', '.join(map(number, secrets))}",
            hint="give the creating and the restoring pods the same DYNAMO_CHECKPOINT_KEY_FILE",
            reason="SealMismatch",
        )

    def encrypt(self, stored: Bytes, stream: str, index: int) -> bytes:
        """Nonce, ciphertext and tag of a chunk, bound to its place."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, stored, _place(stream, index))

    def decrypt(self, sealed: Bytes, stream: str, index: int) -> bytes:
        """The reverse of ``encrypt``. Raises Corrupt if key or place are not those of the chunk."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as below

        view = memoryview(sealed)
        try:
            return self._cipher.decrypt(view[:NONCE_BYTES], view[NONCE_BYTES:], _place(stream, index))
        except (InvalidTag, ValueError):
            raise Corrupt("the chunk cannot be decrypted", reason="SealBroken") from None


def _place(stream: str, index: int) -> bytes:
    return f"{stream}/{index}".encode()


def _derive(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes, which is one round of its second step."""
    secret = _hmac(salt, key)
    return _hmac(secret, b"dynamo-entry " + purpose + b"\x01")


def _hmac(key: bytes, message: bytes) -> bytes:
    from hmac import digest  # noqa: PLC0415 - OpenSSL: only sealed archives pay for it

    return digest(key, message, "sha256")


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - as above

    return AESGCM(key)
