"""Credentials from a mounted secret, and secrets that would travel with an engine."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dynamo_entry.archive import Keys
from dynamo_entry.checks import secrets
from dynamo_entry.engine import hooks
from dynamo_entry.errors import StorageDenied
from dynamo_entry.settings import PREFIX, Settings
from dynamo_entry.storage import Access
from dynamo_entry.storage.oci import login
from dynamo_entry.storage.s3 import S3Store
from dynamo_entry.stores import open_store, open_with, read_credentials
from dynamo_entry.worker import freeze


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """A directory as a kubelet mounts a secret, which it replaces by exchanging one link."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DOCKER_CONFIG", "CA"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "")

    def mount(**files):
        held = tmp_path / f"..{len(list(tmp_path.iterdir()))}"
        held.mkdir()
        (tmp_path / "..data").unlink(missing_ok=True)
        (tmp_path / "..data").symlink_to(held.name)
        for name, text in files.items():
            (held / name).write_text(text)
            if not (tmp_path / name).is_symlink():
                (tmp_path / name).symlink_to(f"..data/{name}")
        return str(tmp_path)

    return mount


def test_nothing_is_put_into_the_environment(secret, tmp_path):
    """Of this process, whose children and hooks would have it: neither a secret, nor an authority, nor an option."""
    directory = secret(AWS_SESSION_TOKEN="of the launcher", **{"config.json": "{}"})
    before = dict(os.environ)
    options = {"a": 1}
    settings = Settings(credentials_dir=directory, ca_file=str(tmp_path / "ca.crt"), storage_options=options)
    for location in ("s3://bucket/a.tar", "oci://registry.example.com/ck:a", "memory://d/a.tar", "/d/a.tar"):
        open_store(settings, location)
    open_with({PREFIX + "CREDENTIALS_DIR": directory}, "s3://bucket/a.tar")
    assert dict(os.environ) == before
    hooks.call("PRE_DUMP", 'test -z "$AWS_SESSION_TOKEN"', 10)


def test_files_are_variables(secret):
    """Those named like variables, without the line end that editors leave. They win over the environment's."""
    found = read_credentials(
        secret(AWS_ACCESS_KEY_ID="key\n", AWS_SECRET_ACCESS_KEY="s e c", Ca="certificate")
    )
    assert found == {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s e c"}
    environ = Access(variables=found).environ
    assert (environ["AWS_ACCESS_KEY_ID"], environ["CA"]) == ("key", "before")


def test_s3_signs_with_the_secret_s_keys(secret, monkeypatch):
    found = read_credentials(
        secret(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL="http://minio:9000")
    )
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    store = S3Store("s3://bucket/a.tar", access=Access(variables=found))
    assert "X-Amz-Credential=k%2F" in store._client._presigned._signed()
    client = store._client._client()
    found = store._client._shared.session.get_credentials()
    assert (found.access_key, found.secret_key, found.token) == ("k", "s", None)
    assert client.meta.endpoint_url == "http://minio:9000"


def test_another_name_in_the_environment_does_not_win_over_the_secret(secret, monkeypatch):
    """The engine may fetch its model from a store of its own."""
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://models:9000")
    monkeypatch.setenv("AWS_REGION", "models-1")
    ours = {"AWS_ENDPOINT_URL": "http://minio:9000", "AWS_DEFAULT_REGION": "ours-1"}
    found = read_credentials(secret(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", **ours))
    store = S3Store("s3://bucket/a.tar", access=Access(variables=found))
    url = store._client._presigned._signed()
    assert url.startswith("http://minio:9000/bucket/a.tar?") and "%2Fours-1%2F" in url
    meta = store._client._client().meta
    assert (meta.endpoint_url, meta.region_name) == ("http://minio:9000", "ours-1")


@pytest.mark.parametrize("name", ["config.json", ".dockerconfigjson"])
def test_a_registry_s_login_is_found(secret, name):
    directory = secret(**{name: '{"auths": {"r.example": {"auth": "bWU6cGE6c3M="}}}'})
    found = read_credentials(directory)
    assert found == {"DOCKER_CONFIG": directory}
    assert login.find("r.example", "ck", Access(variables=found).environ).user == "me"


def test_a_secret_that_changed_is_read_anew(secret):
    assert read_credentials(secret(AWS_ACCESS_KEY_ID="old")) == {"AWS_ACCESS_KEY_ID": "old"}
    assert read_credentials(secret(AWS_ACCESS_KEY_ID="new")) == {"AWS_ACCESS_KEY_ID": "new"}


def test_a_secret_that_cannot_be_read_is_told_where_it_is_needed(tmp_path):
    """A local copy of the archive needs none."""
    settings = Settings(credentials_dir=str(tmp_path / "missing"))
    open_store(settings, "/checkpoints/a.tar")
    with pytest.raises(StorageDenied, match="CREDENTIALS_DIR") as caught:
        open_store(settings, "s3://bucket/a.tar")
    assert caught.value.reason == "CredentialsUnreadable"


def test_which_names_are_secrets():
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "OPENAI_API_KEY", "DB_PASSWORD",
                 "password", "TOKEN"):  # fmt: skip
        assert secrets.is_secret(name), name
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "TOKENIZERS_PARALLELISM",
        "MAX_TOKENS",
        "PATH",
    ):
        assert not secrets.is_secret(name), name


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["vllm", "serve", "m", "--api-key", "sk-1", "--port", "8000"], ["--api-key"]),
        (["server", "--admin-api-key=sk-1", "--hf-token", "hf_1"], ["--admin-api-key", "--hf-token"]),
        (["env", "API_KEY=sk-1", "PASSWORD=", "serve"], ["API_KEY"]),
        (["serve", "--api-key", "--port", "8000"], []),
        (["serve", "--api-key"], []),
        (["serve", "--max-tokens", "5", "--image-token", "32000", "--tokenizer", "m", "token", "x"], []),
        ([], []),
    ],
)
def test_secrets_in_a_command_are_named_and_not_shown(argv, names):
    assert secrets.in_command(argv) == names


def test_secrets_of_a_process_are_named_and_not_shown():
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"HF_TOKEN": "v", "EMPTY_TOKEN": "", "A": "b"},
    )  # fmt: skip
    try:
        child.stdout.readline()  # while it is being executed, it has no environment yet
        assert secrets.in_environments([child.pid, 999_999_999]) == ["HF_TOKEN"]
    finally:
        child.communicate(b"\n")


def test_a_configuration_file_of_a_mounted_secret_counts(tmp_path):
    from dynamo_entry.storage.s3 import credentials

    (tmp_path / "config").write_text("[default]\nregion = eu-central-2\n")
    variables = {"AWS_CONFIG_FILE": str(tmp_path / "config")}
    assert credentials.session(variables, variables, 30).get_config_variable("region") == "eu-central-2"


def test_a_creation_names_the_options_that_hold_secrets():
    """Unless the archive is sealed."""
    said = []
    log = SimpleNamespace(warning=lambda event, **fields: said.append((event, fields)))
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()", "--api-key", "sk-SECRET"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={},
    )  # fmt: skip
    try:
        child.stdout.readline()
        freeze._warn_of_secrets(Keys((b"k",)), [child.pid], log)
        assert not said
        freeze._warn_of_secrets(Keys(), [child.pid], log)
    finally:
        child.communicate(b"\n")
    ((event, fields),) = said
    assert (event, fields["options"]) == ("secrets in the archive", ["--api-key"])
    assert "SECRET" not in str(fields)
