"""Whom a TLS connection trusts: the authorities in a file, or the system's.

A system keeps its authorities twice: in a bundle, which OpenSSL takes 30 ms to read, and in a directory, of whose
files it reads only the one that a handshake needs. The directory comes first, and the bundle after a refusal.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
from contextlib import suppress

from dynamo_entry.errors import StorageDenied

#: The name by which OpenSSL finds an authority in a directory: the hash of its subject (openssl-rehash(1)).
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


class Trust:
    """The context of all connections of a store. Thread-safe."""

    def __init__(self, ca_file: str) -> None:
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._is_whole = False

    def context(self) -> ssl.SSLContext:
        """Return the context to connect with. Raises StorageDenied for a file that cannot be read."""
        with self._lock:
            if self._context is None:
                directory = "" if self._ca_file else _directory()
                self._context = authorities(self._ca_file, directory)
                self._is_whole = not directory
            return self._context

    def widen(self, used: ssl.SSLContext) -> bool:
        """Trust the bundle, too, since ``used`` refused a server; returns False if that was all there is."""
        with self._lock:
            if self._context is not used:
                return True  # another thread was faster
            if self._is_whole:
                return False
            self._context = authorities("")
            self._is_whole = True
            return True


def authorities(ca_file: str, directory: str = "") -> ssl.SSLContext:
    """Return a context that trusts the authorities in a file or in a directory, or all of the system's.

    Raises StorageDenied for a file that cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None, capath=directory or None)
    except OSError as error:  # ssl.SSLError is one
        raise StorageDenied(
            f"the certificate authorities in {ca_file} cannot be read: {error.strerror or error}",
            hint="mount a file with the PEM certificates of the authorities that signed the storage server's certificate",
            reason="CertificateNotTrusted",
        ) from None
    # Since 3.13 Python refuses private authorities that lack an extension of RFC 5280; other programs accept them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _directory() -> str:
    """Return the system's directory of authorities; empty if SSL_CERT_FILE names a bundle, or it has no hashed names."""
    paths = ssl.get_default_verify_paths()
    if paths.capath and paths.openssl_cafile_env not in os.environ:
        with suppress(OSError), os.scandir(paths.capath) as entries:
            if any(_HASHED.fullmatch(entry.name) for entry in entries):
                return paths.capath
    return ""
