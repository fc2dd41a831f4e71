"""What a registry says of the images that are on the node already: a pull finds nothing left to copy.

Images take a minute and more to copy. The node runs meanwhile: a pull of one that is still to come waits for it.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from node.machine import Machine

PORT = 5000


class Registry:
    """Answers for any registry: containerd sends its pulls here, whatever host the name of the image begins with."""

    def __init__(self, machine: Machine, images: list[str], mirrors: dict[str, str]) -> None:
        self._machine = machine
        self._images = images
        #: another name → one of the images
        self._mirrors = mirrors
        self._manifests: dict[str, tuple[str, str]] = {}
        self._copied = asyncio.Condition()
        self._is_complete = False

    async def copy(self) -> None:
        """Copy the images onto the node, one after another."""
        for image in self._images:
            await self._machine.load([image])
            for name in (one for one, source in self._mirrors.items() if source == image):
                await self._machine.run("ctr", "-n", "k8s.io", "images", "tag", image, name)
            async with self._copied:
                await self._read()
                self._is_complete = image == self._images[-1]
                self._copied.notify_all()

    async def _read(self) -> None:
        listed = await self._machine.run("ctr", "-n", "k8s.io", "images", "list")
        for line in listed.splitlines()[1:]:
            name, media_type, digest = line.split()[:3]
            _, _, path = name.partition("/")
            repository, _, tag = path.rpartition(":")
            for reference in (tag, digest):
                self._manifests[f"{repository}/manifests/{reference}"] = media_type, digest

    async def serve(self, address: str) -> web.AppRunner:
        """The runner is to be cleaned up."""
        app = web.Application()
        app.router.add_get("/v2/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address, PORT).start()
        return runner

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        async with self._copied:
            await self._copied.wait_for(lambda: path in self._manifests or self._is_complete)
        if path not in self._manifests:
            raise web.HTTPNotFound
        media_type, digest = self._manifests[path]
        manifest = await self._machine.run("ctr", "-n", "k8s.io", "content", "get", digest)
        return web.Response(
            body=manifest.encode(), content_type=media_type, headers={"Docker-Content-Digest": digest}
        )
