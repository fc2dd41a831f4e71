"""A certificate authority for 127.0.0.1, localhost and whom else a test needs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """Paths of PEM files."""

    ca: Path
    certificate: Path
    key: Path


def issue(directory: Path, *names: str) -> Certificate:
    """A fresh CA and a server certificate signed by it, for further names (IP:… or DNS:…), too."""
    files = Certificate(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    request, extensions, ca_key = (directory / name for name in ("server.csr", "extensions", "ca.key"))
    every = ",".join(("IP:127.0.0.1", "DNS:localhost", *names))
    extensions.write_text(f"subjectAltName={every}\nbasicConstraints=CA:FALSE\n")
    openssl = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        [*openssl, "-x509", "-days", "30", "-subj", "/CN=test CA", "-keyout", ca_key, "-out", files.ca],
        [*openssl, "-subj", "/CN=localhost", "-keyout", files.key, "-out", request],
        ["openssl", "x509", "-req", "-in", request, "-CA", files.ca, "-CAkey", ca_key, "-CAcreateserial",
         "-days", "30", "-extfile", extensions, "-out", files.certificate],
    ):  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
    return files
