"""Whom a TLS connection trusts, and what of the system's authorities is read for that."""

import os
import shutil
import ssl
import subprocess

import pytest
from servers import tls
from servers.answering import Answering

from dynamo_entry.errors import StorageDenied
from dynamo_entry.storage import trust
from dynamo_entry.storage.http import Connections
from dynamo_entry.storage.trust import Trust, authorities


def test_private_authorities_are_not_refused_for_a_missing_extension(monkeypatch):
    """Python 3.13 and later are strict unless told otherwise, and every store asks this for its context."""
    default = ssl.create_default_context

    def strict(**arguments):
        context = default(**arguments)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    context = authorities("")
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.fixture
def issued(tmp_path):
    """An authority, and a certificate for 127.0.0.1."""
    return tls.issue(tmp_path)


class Empty(Answering):
    def answer(self, _request, _body):
        return 200, b"", ()


@pytest.fixture
def server(issued):
    made = Empty(issued)
    yield made
    made.stop()


@pytest.fixture
def system(tmp_path, issued, monkeypatch):
    """The system's authorities: a directory in which only the names are missing, and a bundle that ``has`` the authority."""
    directory = tmp_path / "certs"
    directory.mkdir()
    bundle = tmp_path / "bundle.pem"
    read = []
    default = ssl.SSLContext.load_default_certs

    def load(context, purpose=ssl.Purpose.SERVER_AUTH):
        read.append(purpose)
        default(context, purpose)

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    monkeypatch.setattr(trust, "_directory", lambda: str(directory))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("SSL_CERT_DIR", str(directory))
    return directory, bundle, read


def put(directory, certificate):
    found = subprocess.run(
        ["openssl", "x509", "-noout", "-subject_hash", "-in", certificate],
        check=True,
        capture_output=True,
        text=True,
    )
    shutil.copy(certificate, directory / f"{found.stdout.strip()}.0")


def ask(server, ca_file="", times=1):
    pool = Connections(stall_s=10, ca_file=ca_file)
    try:
        for _ in range(times):
            with pool.exchange("test", "GET", f"https://127.0.0.1:{server.port}/", {}) as response:
                response.read()
            pool.close()  # so that the next one connects again
    finally:
        pool.close()


def test_the_bundle_is_not_read_for_whom_the_directory_knows(server, issued, system):
    """It takes longer than the rest of the first request."""
    directory, _, read = system
    put(directory, issued.ca)
    ask(server)
    assert (server.accepted, read) == (1, [])


def test_whom_only_the_bundle_knows_is_trusted_too(server, issued, system):
    """As where a pod mounts its own bundle over the system's. It is read once, and used from then on."""
    directory, bundle, read = system
    (directory / "00000000.0").write_bytes(issued.ca.read_bytes())
    shutil.copy(issued.ca, bundle)
    ask(server, times=3)
    assert (server.accepted, len(read)) == (4, 1)


def test_whom_neither_knows_is_not_trusted(server, system):
    with pytest.raises(StorageDenied) as caught:
        ask(server)
    assert caught.value.reason == "CertificateNotTrusted"
    assert server.accepted == 2


def test_a_file_that_is_named_is_all_that_is_trusted(server, issued, system, tmp_path):
    directory, bundle, read = system
    put(directory, issued.ca)
    shutil.copy(issued.ca, bundle)
    (tmp_path / "other").mkdir()
    with pytest.raises(StorageDenied):
        ask(server, ca_file=str(tls.issue(tmp_path / "other").ca))
    assert (server.accepted, read) == (1, [])
    ask(server, ca_file=str(issued.ca))


def test_another_thread_may_have_read_the_bundle(system):
    made = Trust("")
    first = made.context()
    assert made.widen(first)
    assert made.widen(first)
    assert not made.widen(made.context())


@pytest.mark.parametrize(
    ("variable", "names", "is_used"),
    [
        ("", ["5ed36f99.0", "some.pem"], True),
        (
            "",
            ["some.pem", "5ed36f99.r0"],
            False,
        ),  # nothing that OpenSSL would find: Red Hat's, Alpine's smallest
        ("", [], False),
        ("SSL_CERT_FILE", ["5ed36f99.0"], False),  # the user says what to read
    ],
)
def test_which_directory_is_used(tmp_path, monkeypatch, variable, names, is_used):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    if variable:
        monkeypatch.setenv(variable, os.devnull)
    assert trust._directory() == (str(tmp_path) if is_used else "")


def test_all_servers_of_a_store_share_a_context(monkeypatch):
    """A registry, its server of tokens and its store of blobs."""
    read = []
    made = Trust("")
    monkeypatch.setattr(trust, "authorities", lambda *given: read.append(given) or authorities(*given))
    assert made.context() is made.context()
    assert len(read) == 1
