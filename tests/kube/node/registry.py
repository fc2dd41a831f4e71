"""What a registry says of the images that are on the node already: a pull finds nothing left to copy."""

from __future__ import annotations

from aiohttp import web

from node.machine import Machine

PORT = 5000


class Registry:
    """Answers for any registry: containerd sends its pulls here, whatever host the name of the image begins with."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._manifests: dict[str, tuple[str, str]] = {}

    async def load(self, images: list[str], mirrors: dict[str, str]) -> None:
        """Copy images onto the node. ``mirrors``: another name → one of the images."""
        await self._machine.load(images)
        for name, image in mirrors.items():
            await self._machine.run("ctr", "-n", "k8s.io", "images", "tag", image, name)
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
        if request.match_info["path"] not in self._manifests:
            raise web.HTTPNotFound
        media_type, digest = self._manifests[request.match_info["path"]]
        manifest = await self._machine.run("ctr", "-n", "k8s.io", "content", "get", digest)
        return web.Response(
            body=manifest.encode(), content_type=media_type, headers={"Docker-Content-Digest": digest}
        )
