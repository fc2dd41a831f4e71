"""Where AWS's client libraries get credentials from, in one server: STS, the container and the instance service."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from servers.answering import Answering

_STS = """\
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{AccessKeyId}</AccessKeyId>
<SecretAccessKey>{SecretAccessKey}</SecretAccessKey><SessionToken>{Token}</SessionToken>
<Expiration>{Expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""

_REFUSED = "<ErrorResponse><Error><Code>{code}</Code><Message>Because.</Message></Error></ErrorResponse>"


class AwsServices(Answering):
    """Gives out one user's keys. ``life_s``: what they last; ``refusal``: (status, code) that is answered instead.

    ``silent``: takes requests, and answers none.
    """

    def __init__(self, access_key: str, secret_key: str) -> None:
        self._keys = {"AccessKeyId": access_key, "SecretAccessKey": secret_key, "Token": ""}
        self.life_s = 3600.0
        self.refusal: tuple[int, str] | None = None
        self.silent, self._stopped = threading.Event(), threading.Event()
        self.asked: list[tuple[str, str]] = []
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"

    def web_identity(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        """What EKS puts into a pod whose service account has a role (IRSA)."""
        (directory / "token").write_text("a.signed.token")
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/checkpoints")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(directory / "token"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", self.url)

    def container_role(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        """What EKS Pod Identity and ECS put into a container."""
        (directory / "authorization").write_text("a-token")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{self.url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(directory / "authorization"))

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple:
        is_sts = request.command == "POST"
        if request.command != "PUT":
            said = body.decode() if is_sts else request.headers.get("Authorization", "")
            self.asked.append((request.path, said))
        if self.silent.is_set():
            self._stopped.wait()
            raise ConnectionAbortedError
        if request.command == "PUT":
            return 200, b"token", ()
        if self.refusal:
            status, code = self.refusal
            return status, (_REFUSED.format(code=code) if is_sts else code).encode(), ()
        until = datetime.now(timezone.utc) + timedelta(seconds=self.life_s)
        document = {
            "Code": "Success", "Type": "AWS-HMAC", **self._keys, "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }  # fmt: skip
        if request.path.endswith("/security-credentials/"):
            return 200, b"role", ()
        return 200, (_STS.format(**document) if is_sts else json.dumps(document)).encode(), ()

    def stop(self) -> None:
        self._stopped.set()
        super().stop()
