"""Fixtures: registries, and a repository of one's own in them."""

import json
import os
import shutil
import uuid
from pathlib import Path

import pytest
from servers.registry import Registry

from dynamo_entry.archive import ArchiveWriter, Compression, Head
from dynamo_entry.storage import Retry, open_store

RETRY = Retry(limit_s=8, stall_s=2)


@pytest.fixture(scope="session")
def registries(tmp_path_factory):
    """A registry for each way to log in, started on first use."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs Docker's registry: tests/support/servers/install")
    started = {}

    def get(kind):
        if kind not in started:
            started[kind] = Registry(tmp_path_factory.mktemp(f"registry-{kind}"), tokens=kind == "token")
        return started[kind]

    yield get
    for server in started.values():
        server.stop()


@pytest.fixture(params=["password", "token"])
def any_registry(request, registries, monkeypatch, tmp_path):
    return logged_in(registries(request.param), monkeypatch, tmp_path)


@pytest.fixture
def registry(registries, monkeypatch, tmp_path):
    return logged_in(registries("password"), monkeypatch, tmp_path)


def logged_in(server, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate.ca))
    monkeypatch.setenv("DOCKER_CONFIG", str(server.docker_config(tmp_path / "docker")))
    return server


def log_in_also_at(name, server):
    """The test user's login, filed for another way to the same registry."""
    path = Path(os.environ["DOCKER_CONFIG"], "config.json")
    config = json.loads(path.read_text())
    config["auths"][name] = config["auths"][server.name]
    path.write_text(json.dumps(config))


def new_location(server, tag="d936422b4f953f99"):
    return f"oci://{server.name}/test/{uuid.uuid4().hex[:12]}:{tag}"


def archived(location):
    """A real archive at the location, as a creation makes it."""
    with open_store(location, RETRY) as store:
        sink = store.open_writer()
        archive = ArchiveWriter(sink, compression=Compression.parse("none"), threads=2)
        stream = archive.stream("criu/pages-1.img")
        stream.write(os.urandom(40 << 20))
        stream.close()
        finished = archive.finish(Head(hash="d936422b4f953f99", created_at="2026-01-02T03:04:05Z"))
        sink.describe(finished.document, {"io.dynamo-entry.checkpoint.hash": "d936422b4f953f99"})
        sink.commit()
    return finished
