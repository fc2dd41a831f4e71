"""Who logs in: Docker's configuration file and its credential helpers.

The file is ``config.json`` in DOCKER_CONFIG (``~/.docker`` by default), or ``.dockerconfigjson`` there, which is
what a mounted secret of type kubernetes.io/dockerconfigjson holds. Format: docker/cli, cli/config/configfile.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

from dynamo_entry.errors import StorageDenied

_NAMES = ("config.json", ".dockerconfigjson")

#: A credential helper may ask a cloud's metadata service.
_HELPER_S = 20

#: How Docker files the credentials of Docker Hub.
_DOCKER_HUB = "https://index.docker.io/v1/"


class Credentials(NamedTuple):
    """A name and a password, or a refresh token (``identity``); all empty: nobody."""

    user: str = ""
    password: str = ""
    identity: str = ""

    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


def find(registry: str, repository: str, environ: Mapping[str, str]) -> Credentials:
    """The credentials for a repository, the most specific ones. Raises StorageDenied for a broken file."""
    path, config = _load(environ)
    keys = _keys(registry, repository)
    helpers = config.get("credHelpers") or {}
    helper = next((helpers[key] for key in keys if key in helpers), "")
    if helper:
        return _ask(helper, registry)
    entries = config.get("auths") or {}
    for key in keys:
        if entries.get(key):
            return _entry(entries[key], path, key)
    store = config.get("credsStore")
    return _ask(store, registry) if store else Credentials()


def _load(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    directory = environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    for name in _NAMES:
        path = os.path.join(directory, name)
        try:
            with open(path, encoding="utf-8") as file:
                config = json.load(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _broken(path, str(error)) from None
        if not isinstance(config, dict):
            raise _broken(path, "it holds no JSON object")
        return path, config
    return "", {}


def _keys(registry: str, repository: str) -> list[str]:
    """As Kubernetes looks them up: the longest path first, then the registry in the forms that are in use."""
    parts = repository.split("/")
    paths = ["/".join((registry, *parts[:count])) for count in range(len(parts), -1, -1)]
    found = [
        *paths,
        f"https://{registry}",
        f"https://{registry}/v1/",
        f"https://{registry}/v2/",
        f"http://{registry}",
    ]
    return [*found, _DOCKER_HUB] if registry in ("docker.io", "index.docker.io") else found


def _entry(entry: dict[str, Any], path: str, key: str) -> Credentials:
    identity = entry.get("identitytoken") or ""
    if entry.get("username"):
        return Credentials(entry["username"], entry.get("password") or "", identity)
    try:
        user, _, password = base64.b64decode(entry.get("auth") or "", validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _broken(path, f"'auth' of {key} is no base64") from None
    return Credentials(user, password.rstrip("\0"), identity)


def _ask(helper: str, registry: str) -> Credentials:
    """``docker-credential-HELPER get`` (docker/docker-credential-helpers). One that knows nobody says so and fails."""
    server = _DOCKER_HUB if registry in ("docker.io", "index.docker.io") else registry
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=server, capture_output=True, text=True, timeout=_HELPER_S, check=False
        )
        if done.returncode:
            if "not found" in done.stdout + done.stderr:
                return Credentials()
            raise _failed(program, (done.stdout + done.stderr).strip()[-200:])
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise _failed(program, str(error)) from None
    user, secret = answer.get("Username", ""), answer.get("Secret", "")
    return Credentials(identity=secret) if user == "<token>" else Credentials(user, secret)


def _broken(path: str, why: str) -> StorageDenied:
    return StorageDenied(
        f"{path} cannot be used: {why}", hint="create it with `docker login`", reason="DockerConfigInvalid"
    )


def _failed(program: str, why: str) -> StorageDenied:
    return StorageDenied(
        f"{program} failed: {why}",
        hint="it must be in the image and able to log in",
        reason="CredentialHelperFailed",
    )
