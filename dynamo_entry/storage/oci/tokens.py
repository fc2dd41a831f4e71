"""What a registry wants to see before it answers: nothing, a password, or a token of the server it names.

https://distribution.github.io/distribution/spec/auth/token/ and …/oauth/
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from urllib.parse import urlencode

from dynamo_entry.errors import StorageDenied
from dynamo_entry.storage.answers import decoded
from dynamo_entry.storage.oci.credentials import Credentials

#: What a token lasts where nobody says (the specification's default), and how much earlier it is renewed.
_LIFE_S, _MARGIN_S = 60.0, 10.0

_PARAMETER = re.compile(r'([a-zA-Z_]+)="([^"]*)"')

#: A challenge begins with its scheme; several may follow each other, in any order (RFC 9110, section 11.6.1).
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]*)(?=\s+[A-Za-z_]+\s*=|\s*(?:,|$))")

#: ``fetch(method, url, headers, body)`` → body of a 2xx answer; raises StorageError for any other.
Fetch = Callable[[str, str, "dict[str, str]", bytes], bytes]


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

    def header(self) -> str:
        """What to send now; empty before the registry asked for anything."""
        with self._lock:
            if time.monotonic() > self._expires:
                self._answer(self._challenge)
            return self._header

    def challenged(self, challenge: str, used: str) -> bool:
        """The registry answered 401 to ``used``: whether another attempt may do better. Raises StorageError."""
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
            self._header = f"Bearer {self._token(challenges['bearer'], credentials)}"
        elif "basic" in challenges:
            self._header = credentials.basic() if credentials.user else ""

    def _token(self, parameters: dict[str, str], credentials: Credentials) -> str:
        realm = parameters.get("realm", "")
        # What the registry says that this request takes: a login that may only read asks for no more.
        scope = parameters.get("scope") or self.default_scope
        query = {"service": parameters.get("service", ""), "scope": scope}
        if credentials.identity:
            form = {
                **query,
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity,
                "client_id": "dynamo-entry",
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._fetch("POST", realm, headers, urlencode(form).encode())
        else:
            headers = {"Authorization": credentials.basic()} if credentials.user else {}
            separator = "&" if "?" in realm else "?"
            answer = self._fetch("GET", f"{realm}{separator}{urlencode(query)}", headers, b"")
        try:
            document = decoded(answer)
            token = str(document.get("token") or document["access_token"])
            life = float(document.get("expires_in") or _LIFE_S)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StorageDenied(f"{self._what}: {realm} gave no token", reason="NoToken") from None
        self._expires = time.monotonic() + max(life - _MARGIN_S, life / 2)
        return token


def parse(challenge: str) -> dict[str, dict[str, str]]:
    """The challenges of a WWW-Authenticate header: scheme, in lower case → parameters."""
    bare = re.sub(r'"[^"]*"', lambda text: '"' + "x" * (len(text[0]) - 2) + '"', challenge)
    starts = [(match.start(1), match[1].lower()) for match in _SCHEME.finditer(bare)]
    ends = [*(start for start, _ in starts[1:]), len(challenge)]
    return {
        scheme: dict(_PARAMETER.findall(challenge[start:end]))
        for (start, scheme), end in zip(starts, ends, strict=False)
    }
