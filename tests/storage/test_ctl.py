"""dynamo-entryctl reaches a store with what the launcher is given: by option, or by the same variables."""

import json
import os
import subprocess
import sys

import pytest
from registries import archived, new_location, registries, registry  # noqa: F401
from servers.s3 import ACCESS_KEY, SECRET_KEY

SETTINGS = ("DOCKER_CONFIG", "SSL_CERT_FILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def ctl(*arguments, **variables):
    """A run in an environment that has no login and trusts no private authority."""
    environ = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, "-c", "from dynamo_entry.ctl import main; main()", *map(str, arguments)],
        env=environ | variables, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture
def secret(registry, tmp_path):
    """The login as a pod has it mounted: a Secret of type kubernetes.io/dockerconfigjson."""
    config = (registry.docker_config(tmp_path / "docker") / "config.json").read_text()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / ".dockerconfigjson").write_text(config)
    return tmp_path / "secret"


def test_an_archive_in_a_registry_is_looked_at_and_taken_out(registry, secret, tmp_path):
    """Every verb that reads one, with the launcher's variables."""
    location = new_location(registry)
    finished = archived(location)
    given = {
        "DYNAMO_CHECKPOINT_CREDENTIALS_DIR": str(secret),
        "DYNAMO_CHECKPOINT_CA_FILE": str(registry.certificate.ca),
    }
    shown = ctl("inspect", location, "--json", **given)
    assert json.loads(shown.stdout)["digest"] == finished.digest, shown.stderr
    for verb, *more in (("verify",), ("extract", tmp_path / "taken"), ("prune",)):
        done = ctl(verb, location, *more, **given)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "taken" / "criu" / "pages-1.img").exists()
    said = json.loads(ctl("doctor", location, "--for", "restore", "--json", **given).stdout)
    (about,) = (one for one in said["findings"] if one["name"] == "archive")
    assert finished.digest in about["value"], about


def test_by_option(registry, secret):
    location = new_location(registry)
    archived(location)
    done = ctl("verify", location, "--credentials-dir", secret, "--ca-file", registry.certificate.ca)
    assert "intact" in done.stdout, done.stderr


def test_keys_for_a_bucket(bucket, tmp_path):
    """Files named after the variables, as a mounted Secret has them."""
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text(ACCESS_KEY)
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text(f"{SECRET_KEY}\n")
    done = ctl("prune", f"s3+http://{bucket}/a.tar", "--credentials-dir", tmp_path)
    assert done.stdout == "0 leftovers, 0 bytes\n", done.stderr


def test_a_secret_that_is_not_mounted_is_told(registry, tmp_path):
    """In one line, with the exit code of a store that refuses."""
    done = ctl("inspect", new_location(registry), DYNAMO_CHECKPOINT_CREDENTIALS_DIR=str(tmp_path / "none"))
    assert done.returncode == 176
    assert done.stderr.startswith(f"dynamo-entryctl: no credentials can be read from {tmp_path}/none")
    assert done.stderr.count("\n") == 1


def test_help_names_the_variables():
    for verb in ("inspect", "verify", "extract", "prune"):
        said = ctl(verb, "--help", COLUMNS="200").stdout
        for name in ("CREDENTIALS_DIR", "CA_FILE"):
            assert f"DYNAMO_CHECKPOINT_{name}" in said, verb
