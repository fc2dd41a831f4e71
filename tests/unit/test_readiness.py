"""READY_URL in an archive: the engine beside the launcher, and nobody else."""

import pytest

from dynamo_entry.engine import readiness
from dynamo_entry.errors import Corrupt

BESIDE = ["http://127.0.0.1:8000/health", "http://localhost/", "https://[::1]:8443/x", "http://127.9.9.9:1/"]
ELSEWHERE = [
    "http://10.0.0.1/", "http://metadata.internal/", "http://127.0.0.1.example.com/", "http://localhost@example.com/",
    "http://[", "file:///etc/passwd", "http:///x", 5, ["http://127.0.0.1/"], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("url", BESIDE)
def test_the_engine_beside_us_is_asked(url):
    assert readiness.recordable(url) == url
    assert readiness.recorded({"ready_url": url}) == url


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("http://0.0.0.0:8000/health", "http://127.0.0.1:8000/health"),
        ("https://[::]/", "https://127.0.0.1/"),
        ("http://0.0.0.0.example.com/", ""),
    ],
)
def test_all_addresses_are_loopback_to_who_asks(url, recorded):
    assert readiness.recordable(url) == recorded


@pytest.mark.parametrize("url", ELSEWHERE)
def test_an_archive_does_not_choose_whom_a_pod_asks(url):
    with pytest.raises(Corrupt, match="not the engine in this pod") as caught:
        readiness.recorded({"ready_url": url})
    assert caught.value.reason == "ManifestInvalid"


@pytest.mark.parametrize("url", [one for one in ELSEWHERE if isinstance(one, str)])
def test_a_creation_that_asks_elsewhere_leaves_it_to_each_restore(url):
    assert readiness.recordable(url) == ""


@pytest.mark.parametrize("facts", [{}, {"ready_url": ""}])
def test_an_archive_may_have_none(facts):
    assert readiness.recorded(facts) == ""
