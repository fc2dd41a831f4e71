"""The agent's settings, from the file it shares with the operator."""

import pytest
import yaml

from dynamo_entry.errors import SettingsError
from dynamo_entry.kube import config
from dynamo_entry.kube.agent import settings as agent
from dynamo_entry.kube.config import seconds, size, size_or_share

POD = {"NODE_NAME": "node-1", "POD_NAMESPACE": "system"}


def from_config(sections, environ):
    return agent.from_config(config.parse(yaml.safe_dump(sections)), environ)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), (5, 5), ("1k", 1000), ("200Gi", 200 << 30), ("1.5Mi", 3 << 19), ("10P", 10**16)],
)
def test_quantities(text, expected):
    """As Kubernetes writes them."""
    assert size(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("10%", 0.1), ("1Gi", 1 << 30), ("0%", 0)])
def test_shares(text, expected):
    """Of a file system, or bytes."""
    assert size_or_share(text) == expected


@pytest.mark.parametrize(("text", "expected"), [(90, 90), ("15m", 900), ("24h", 86400), ("7d", 604800)])
def test_durations(text, expected):
    """One number and one unit."""
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("kind", "uri", "shares", "expected"),
    [
        ("s3", "s3://bucket/prefix/", False, "s3://bucket/prefix/team/any.tar"),
        ("oci", "oci://registry:5000/repository", False, "oci://registry:5000/repository/team:any"),
        ("s3", "s3://bucket/prefix", True, "s3://bucket/prefix/any.tar"),
        ("gcs", "gs://bucket/prefix", False, "gs://bucket/prefix/team/any.tar"),
        ("fsspec", "sftp://host/dir/", True, "sftp://host/dir/any.tar"),
    ],
)
def test_a_namespaces_part_of_the_storage(kind, uri, shares, expected):
    """It is swept like the whole."""
    storage = {"type": kind, kind: {"uri": uri}, "isolateNamespaces": not shares}
    assert agent.place(from_config({"storage": storage}, POD), "team") == expected


def test_the_agents_keys():
    """It opens and verifies archives; it seals and signs none."""
    settings = from_config({"agent": {"keyFile": "/k", "verifyKeyFile": "/v"}}, POD)
    assert (settings.key_file, settings.verify_key_file) == ("/k", "/v")


def test_defaults():
    """An empty file is a claim at /checkpoints, and no copies of it."""
    settings = from_config({}, POD)
    assert (settings.storage, settings.is_claim, settings.cache_directory) == (
        "/checkpoints/any.tar",
        True,
        "",
    )


@pytest.mark.parametrize(
    ("kind", "uri", "storage"),
    [
        ("s3", "s3://bucket/prefix/", "s3://bucket/prefix/any.tar"),
        ("oci", "oci://registry/repository", "oci://registry/repository:any"),
    ],
)
def test_object_storage_is_cached(kind, uri, storage):
    """Unless it is switched off."""
    sections = {"storage": {"type": kind, kind: {"uri": uri}}, "agent": {"cache": {"sizeLimit": "1Gi"}}}
    settings = from_config(sections, POD)
    assert (settings.storage, settings.cache_directory) == (storage, "/var/cache/dynamo-checkpoint")
    assert settings.cache_limit == 1 << 30
    sections["agent"]["cache"]["enabled"] = False
    assert from_config(sections, POD).cache_directory == ""


def test_all_mistakes_at_once():
    """Each with the place where it is."""
    sections = {
        "agent": {
            "cache": {"sizeLimit": "lots", "minFree": "120%"},
            "sweepInterval": "0s",
            "verifyInterval": 0,
        },
        "gc": {"grace": "soon"},
    }
    with pytest.raises(SettingsError) as caught:
        from_config(sections, {})
    for part in (
        "agent.cache.sizeLimit", "agent.cache.minFree", "agent.sweepInterval", "agent.verifyInterval", "gc.grace",
        "NODE_NAME", "POD_NAMESPACE",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_what_the_chart_leaves_empty_is_the_default():
    """`rateLimit: ""` in the values is rendered as it is."""
    sections = {
        "agent": {"rateLimit": "", "sweepInterval": "", "cache": {"sizeLimit": ""}},
        "gc": {"grace": ""},
    }
    settings = from_config(sections, POD)
    assert (settings.rate_limit, settings.sweep_every_s) == (0, 600)
    assert (settings.cache_limit, settings.grace_s) == (200 << 30, 86400)
