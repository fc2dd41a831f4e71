"""What the API server asks of a node's kubelet: container logs, and commands over WebSocket."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import WSMsgType, web

from node.container import Container
from node.network import run

#: Oldest last: kubectl offers v5, the Python client v4. v5 adds the closing of stdin.
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

STDIN, STDOUT, STDERR, ERROR = range(4)
CLOSE = 255

Find = Callable[[str, str, str], "Container | None"]


async def serve(address: str, directory: Path, find: Find) -> tuple[web.AppRunner, int]:
    """Serve on a free port of ``address``; ``find(namespace, pod, container)``. The runner is to be cleaned up."""
    app = web.Application()
    app["find"] = find
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", _logs)
    app.router.add_route("*", "/exec/{namespace}/{pod}/{container}", _exec)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(
        runner, address, 0, ssl_context=await _certificate(address, directory), shutdown_timeout=1
    )
    await site.start()
    return runner, runner.addresses[0][1]


async def _certificate(address: str, directory: Path) -> ssl.SSLContext:
    key, certificate = directory / "kubelet.key", directory / "kubelet.crt"
    await run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", f"/CN={address}", "-keyout", str(key), "-out", str(certificate),
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def _container(request: web.Request) -> Container:
    found = request.app["find"](*(request.match_info[part] for part in ("namespace", "pod", "container")))
    if found is None:
        raise web.HTTPNotFound(text="no such container on this node")
    return found


async def _logs(request: web.Request) -> web.StreamResponse:
    container = _container(request)
    path = container.log(previous=request.query.get("previous") == "true")
    if not path.exists():
        raise web.HTTPBadRequest(text=f"container {container.name!r} is waiting to start")
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    follows = request.query.get("follow") == "true"
    with path.open("rb") as file:
        if "tailLines" in request.query:
            lines = file.read().splitlines(keepends=True)
            await response.write(b"".join(lines[-int(request.query["tailLines"]) :]))
        while True:
            is_last = not container.is_running or container.log() != path
            while data := file.read(64 << 10):
                await response.write(data)
            if not follows or is_last:
                return response
            await asyncio.sleep(0.1)


async def _exec(request: web.Request) -> web.StreamResponse:
    container = _container(request)
    socket = web.WebSocketResponse(protocols=PROTOCOLS)
    if not socket.can_prepare(request):
        raise web.HTTPBadRequest(text="this node speaks WebSocket only")
    await socket.prepare(request)
    has_stdin = request.query.get("input", request.query.get("stdin")) in ("1", "true")
    process = await asyncio.create_subprocess_exec(
        "podman", "exec", *(["-i"] if has_stdin else []), container.podman_name, *request.query.getall("command"),
        stdin=asyncio.subprocess.PIPE if has_stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    feeder = asyncio.create_task(_feed(socket, process))
    await asyncio.gather(_send(socket, STDOUT, process.stdout), _send(socket, STDERR, process.stderr))
    await socket.send_bytes(bytes([ERROR]) + json.dumps(_verdict(await process.wait())).encode())
    feeder.cancel()
    await socket.close()
    return socket


async def _feed(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    async for message in socket:
        if message.type is not WSMsgType.BINARY or process.stdin is None:
            continue
        if message.data[0] == STDIN:
            process.stdin.write(message.data[1:])
            await process.stdin.drain()
        elif message.data[0] == CLOSE:
            process.stdin.close()


async def _send(socket: web.WebSocketResponse, channel: int, stream: asyncio.StreamReader | None) -> None:
    while stream and (data := await stream.read(32 << 10)):
        await socket.send_bytes(bytes([channel]) + data)


def _verdict(code: int) -> dict[str, object]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }  # fmt: skip
