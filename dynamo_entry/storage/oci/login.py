"""Login to registries: Docker's configuration file and its helpers; a password, or a token from a token server.

The file is ``config.json`` in DOCKER_CONFIG (``~/.docker`` by default), or ``.dockerconfigjson`` there, as a
mounted secret of type kubernetes.io/dockerconfigjson has it. Format: docker/cli, cli/config/configfile.
Tokens: https://distribution.github.io/distribution/spec/auth/token/ and …/oauth/
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from dynamo_entry.errors import StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage.failures import decoded
from dynamo_entry.value import NamedTuple

_NAMES = ("config.json", ".dockerconfigjson")

#: A credential helper may ask a cloud's metadata service.
_HELPER_S = 20

#: Docker's key for the credentials of Docker Hub.
_DOCKER_HUB = "https://index.docker.io/v1/"
_DOCKER_HUBS = {"docker.io", "index.docker.io", "registry-1.docker.io"}

_SCHEME, _VERSION = re.compile(r"\Ahttps?://"), re.compile(r"\Av[12](/|\Z)")

#: The default life of a token (from the specification), and how much earlier it is renewed.
_LIFE_S, _MARGIN_S = 60.0, 10.0

#: Challenges follow each other in any order, each a scheme and parameters: a list of elements, of which the first of a
#: challenge has the scheme, too (RFC 9110, section 11.6.1). Values are tokens or quoted, with space around "=". A quote that
#: is not closed extends to the end: a search for its end from every position would take minutes on a hostile header.
_ELEMENT = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*(?:"|\\?$))+')
_PARTS = re.compile(r'\s*(?:([\w.~+-]+)(?:\s+|$))?(?:([\w.-]+)\s*=\s*("(?:\\.|[^"\\])*"|[^\s"]+)\s*)?')

#: Statuses of token servers that do not take refresh tokens by POST (Artifactory: 401).
_NO_POST = (400, 401, 404, 405)

#: ``fetch(method, url, headers, body)`` → body of a 2xx answer; raises StorageError for any other.
Fetch = Callable[[str, str, "dict[str, str]", bytes], bytes]


class Credentials(NamedTuple):
    """A name and a password, or a refresh token (``identity``); all empty: anonymous."""

    user: str = ""
    password: str = ""
    identity: str = ""

    def basic(self) -> str:
        """The value of an Authorization header for Basic authentication."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


def find(registry: str, repository: str, environ: Mapping[str, str]) -> Credentials:
    """Return the most specific credentials for a repository. Raises StorageDenied for a broken file."""
    path, config = _load(environ)
    try:
        return _found(path, config, registry, repository)
    except (AttributeError, TypeError):
        raise _broken(path, "it does not have the form of Docker's") from None


def _found(path: str, config: dict[str, Any], registry: str, repository: str) -> Credentials:
    helpers, entries = config.get("credHelpers") or {}, config.get("auths") or {}
    for key in _matching(helpers.keys(), registry, repository):
        if helpers[key]:
            return _ask(helpers[key], registry)
    for key in _matching(entries.keys(), registry, repository):
        if entries[key]:
            return _entry(entries[key], path, key)
    store = config.get("credsStore")
    return _ask(store, registry) if store else Credentials()


def _load(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    directory = environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    for name in _NAMES:
        path = os.path.join(directory, name)
        try:
            with open(path, "rb") as file:
                config = decoded(file.read())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _broken(path, str(error)) from None
        if not isinstance(config, dict):
            raise _broken(path, "it holds no JSON object")
        return path, config
    return "", {}


def _matching(names: Iterable[str], registry: str, repository: str) -> list[str]:
    """Return the names that match a repository, the most specific one first.

    The rules are those of Kubernetes: a name may have a scheme, Docker's ``/v1/`` or ``/v2/``, a path (a prefix of the
    repository's), and ``*`` in a part of the host's name.
    """
    found = []
    for name in names:
        host, _, path = _SCHEME.sub("", name).partition("/")
        path = _VERSION.sub("", path).strip("/")
        if _is_host(host.lower(), registry.lower()) and f"{repository}/".startswith(
            f"{path}/" if path else ""
        ):
            found.append((-len(path), "*" in host, name != registry, name))
    return [name for *_, name in sorted(found)]


def _is_host(pattern: str, host: str) -> bool:
    if {pattern, host} <= _DOCKER_HUBS:
        return True
    return pattern == host or (pattern.count(".") == host.count(".") and fnmatch.fnmatchcase(host, pattern))


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
    """Run ``docker-credential-HELPER get`` (docker/docker-credential-helpers); "no credentials" is an answer, too."""
    server = _DOCKER_HUB if registry in _DOCKER_HUBS else registry
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=server, capture_output=True, text=True, timeout=_HELPER_S, check=False
        )
        if done.returncode:
            if "not found" in done.stdout + done.stderr:
                return Credentials()
            raise _failed(program, (done.stdout + done.stderr).strip()[-200:])
        answer = decoded(done.stdout.encode())
        user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    except (OSError, ValueError, AttributeError, subprocess.TimeoutExpired) as error:
        raise _failed(program, str(error)) from None
    return Credentials(identity=secret) if user == "<token>" else Credentials(user, secret)


def _broken(path: str, why: str) -> StorageDenied:
    return StorageDenied(
        f"{path} cannot be used: {why}", hint="create it with `docker login`", reason="DockerConfigInvalid"
    )


def _failed(program: str, why: str) -> StorageDenied:
    return StorageDenied(
        f"{program} failed: {why}",
        hint="the helper must be in the image and able to log in",
        reason="CredentialHelperFailed",
    )


class Authorization:
    """The Authorization header for one repository, learnt from the registry's challenge. Thread-safe."""

    def __init__(self, what: str, scope: str, find: Callable[[], Credentials], fetch: Fetch) -> None:
        self._what = what
        self.default_scope = scope
        self._find = find
        self._fetch = fetch
        self._lock = threading.Lock()
        self._header = ""
        self._expires = float("inf")
        self._challenge = ""

    def widen(self, scope: str) -> None:
        """Request ``scope`` from now on, and forget a token without it: some registries answer to it as to a refused login."""
        with self._lock:
            if scope != self.default_scope and self._header.startswith("Bearer"):
                self._header, self._expires = "", float("inf")
            self.default_scope = scope

    def header(self) -> str:
        """Return the header to send now; empty before the registry has asked for a login."""
        with self._lock:
            if time.monotonic() > self._expires:
                self._answer(self._challenge)
            return self._header

    def challenged(self, challenge: str, used: str) -> bool:
        """Handle status 401 for ``used``; returns whether another attempt may help. Raises StorageError."""
        with self._lock:
            if self._header != used:
                return True  # another thread was faster
            before = self._header
            self._answer(challenge)
            return self._header != before

    def _answer(self, challenge: str) -> None:
        challenges = parse(challenge)
        self._challenge = challenge
        credentials = self._find()
        if "realm" in challenges.get("bearer", {}):
            self._header = f"Bearer {self._token_or_anybodys(challenges['bearer'], credentials)}"
        elif "basic" in challenges:
            self._header = credentials.basic() if credentials.user else ""

    def _token_or_anybodys(self, parameters: dict[str, str], credentials: Credentials) -> str:
        """Return a token; if the login is refused, an anonymous one, which suffices for public content."""
        # The scope that the registry demands for this request, so that a read-only login suffices for reading.
        scope = parameters.get("scope") or self.default_scope
        realm, query = parameters["realm"], {"service": parameters.get("service", ""), "scope": scope}
        try:
            return self._token(realm, query, credentials)
        except StorageDenied:
            if credentials == Credentials() or "push" in scope.rpartition(":")[2].split(","):
                raise
            with suppress(StorageDenied):
                return self._token(realm, query, Credentials())
            raise

    def _token(self, realm: str, query: dict[str, str], credentials: Credentials) -> str:
        try:
            answer = self._asked(realm, query, credentials)
        except (StorageDenied, StorageUnavailable):
            raise
        except StorageError as error:
            hint = "check the login: does the registry's token server accept it?"
            raise StorageDenied(error.message, hint=hint, reason="LoginFailed", status=error.status) from None
        try:
            document = decoded(answer)
            token = str(document.get("token") or document["access_token"])
            life = float(document.get("expires_in") or _LIFE_S)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StorageDenied(f"{self._what}: {realm} returned no token", reason="NoToken") from None
        self._expires = time.monotonic() + max(life - _MARGIN_S, life / 2)
        return token

    def _asked(self, realm: str, query: dict[str, str], credentials: Credentials) -> bytes:
        """Return the token server's answer: to POST for a refresh token, else or if that fails, to GET."""
        if credentials.identity:
            form = {
                **query,
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity,
                "client_id": "dynamo-entry",
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            try:
                return self._fetch("POST", realm, headers, urlencode(form).encode())
            except StorageError as error:
                if error.status not in _NO_POST:
                    raise
            credentials = Credentials(
                credentials.user or "<token>", credentials.password or credentials.identity
            )
        headers = {"Authorization": credentials.basic()} if credentials.user else {}
        separator = "&" if "?" in realm else "?"
        return self._fetch("GET", f"{realm}{separator}{urlencode(query)}", headers, b"")


def parse(challenge: str) -> dict[str, dict[str, str]]:
    """Parse the challenges of a WWW-Authenticate header: scheme, in lower case → parameters."""
    found: dict[str, dict[str, str]] = {}
    parameters: dict[str, str] = {}
    for element in _ELEMENT.findall(challenge):
        parts = _PARTS.fullmatch(element)
        if parts is None:
            continue
        scheme, name, value = parts.groups()
        if scheme:
            parameters = found.setdefault(scheme.lower(), {})
        if name:
            parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", value.strip('"')))
    return found
