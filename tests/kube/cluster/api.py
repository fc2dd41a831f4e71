"""The Kubernetes API as plain dicts, for the stand-ins: requests by path, and watches that never end."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from typing_extensions import Self

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """One server, one token."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.server: str = cluster["server"]
        self._ssl = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._token: str = config["users"][0]["user"]["token"]

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self.server,
            headers={"Authorization": f"Bearer {self._token}"},
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=0),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        **params: str,
    ) -> Any:
        async with self._session.request(
            method,
            path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
            params=params,
            timeout=aiohttp.ClientTimeout(30),
        ) as response:
            answer = await response.json()
            if response.status >= 300:
                raise ApiError(response.status, answer.get("message", str(answer)))
            return answer

    async def get(self, path: str, **params: str) -> Any:
        return await self.request("GET", path, **params)

    async def find(self, path: str) -> Any:
        """The object, or None where there is none."""
        try:
            return await self.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def create(self, path: str, body: Any) -> Any:
        return await self.request("POST", path, body)

    async def merge(self, path: str, body: Any) -> Any:
        return await self.request("PATCH", path, body, content_type=MERGE)

    async def apply(self, path: str, body: Any, manager: str) -> Any:
        return await self.request("PATCH", path, body, content_type=APPLY, fieldManager=manager, force="true")

    async def delete(self, path: str, **options: Any) -> None:
        try:
            await self.request("DELETE", path, options or None)
        except ApiError as error:
            if error.status not in (404, 409):  # gone, or another object of that name
                raise

    async def watch(self, path: str, **params: str) -> AsyncIterator[tuple[str, Any]]:
        """``(type, object)`` for ever: LISTED for what is there, then what changes; again after each break.

        An object that went during a break is announced by a DELETED made up from its last state.
        """
        known: dict[str, Any] = {}
        while True:
            try:
                listed = await self.get(path, **params)
                kind = {"kind": listed["kind"].removesuffix("List"), "apiVersion": listed["apiVersion"]}
                present = {item["metadata"]["uid"]: kind | item for item in listed["items"]}
                for uid in known.keys() - present.keys():
                    yield "DELETED", known[uid]
                known = present
                for item in list(known.values()):
                    yield "LISTED", item
                version = listed["metadata"]["resourceVersion"]
                async for event, item in self._changes(path, version, params):
                    uid = item["metadata"]["uid"]
                    known[uid] = item
                    if event == "DELETED":
                        del known[uid]
                    yield event, item
            except (aiohttp.ClientError, ApiError, TimeoutError):
                await asyncio.sleep(0.5)

    async def _changes(
        self, path: str, version: str, params: dict[str, str]
    ) -> AsyncIterator[tuple[str, Any]]:
        query = params | {"watch": "true", "resourceVersion": version, "timeoutSeconds": "300"}
        limits = aiohttp.ClientTimeout(total=None, sock_read=330)
        async with self._session.get(path, params=query, timeout=limits, read_bufsize=16 << 20) as response:
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":  # too old: list again
                    return
                yield event["type"], event["object"]
