"""Where AWS's client libraries get credentials from, in one server: STS, the container and the instance service."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_STS = """\
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{AccessKeyId}</AccessKeyId>
<SecretAccessKey>{SecretAccessKey}</SecretAccessKey><SessionToken>{Token}</SessionToken>
<Expiration>{Expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""

_REFUSED = "<ErrorResponse><Error><Code>{code}</Code><Message>Because.</Message></Error></ErrorResponse>"


class AwsServices:
    """Gives out one user's keys. ``life_s``: what they last; ``refusal``: (status, code) that is answered instead.

    ``silent``: takes requests, and answers none.
    """

    def __init__(self, access_key: str, secret_key: str) -> None:
        self.life_s = 3600.0
        self.refusal: tuple[int, str] | None = None
        self.silent, self.stopped = threading.Event(), threading.Event()
        self.asked: list[tuple[str, str]] = []
        services = self

        def document() -> dict[str, str]:
            until = datetime.now(timezone.utc) + timedelta(seconds=services.life_s)
            return {
                "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": access_key, "SecretAccessKey": secret_key,
                "Token": "", "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }  # fmt: skip

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                services.asked.append((self.path, text))
                if services.refusal:
                    status, code = services.refusal
                    return self._answer(_REFUSED.format(code=code), status)
                return self._answer(_STS.format(**document()))

            def do_PUT(self) -> None:
                self._answer("token")

            def do_GET(self) -> None:
                services.asked.append((self.path, self.headers.get("Authorization", "")))
                if services.refusal:
                    status, code = services.refusal
                    return self._answer(code, status)
                is_listing = self.path.endswith("/security-credentials/")
                return self._answer("role" if is_listing else json.dumps(document()))

            def _answer(self, text: str, status: int = 200) -> None:
                if services.silent.is_set():
                    services.stopped.wait()
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
