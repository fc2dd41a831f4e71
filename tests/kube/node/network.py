"""The way between this machine and the node: one link, and what kube-proxy would do for the API server's service.

A process of its own takes everything away as soon as this one has ended, in whatever way.
"""

from __future__ import annotations

import asyncio
import secrets
from urllib.parse import urlsplit

from typing_extensions import Self


async def run(*argv: str) -> str:
    """A command's output. Raises RuntimeError with its messages.

    In a session of its own: a signal to the node's process group is for the node to handle.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {err.decode(errors='replace').strip()}")
    return out.decode()


#: Waits for the end of its input, then removes the container and the link of that name.
_REMOVE = """
cat >/dev/null
podman rm --force --time 0 --volumes --ignore "$1"
ip link del "$1" 2>/dev/null
"""


class Network:
    """``gateway`` is this machine's address for the node, ``address`` the node's own, ``pods`` the network of its pods."""

    def __init__(self, api_server: str, service_ip: str) -> None:
        self.name = f"kn{secrets.token_hex(3)}"
        prefix = f"10.{secrets.randbelow(64) + 128}.{secrets.randbelow(256)}"
        self.gateway = f"{prefix}.1"
        self.address = f"{prefix}.2"
        self.pods = f"{prefix}.128/25"
        self.service_ip = service_ip
        self._api_server = urlsplit(api_server)

    async def __aenter__(self) -> Self:
        self._remover = await asyncio.create_subprocess_exec(
            "sh", "-c", _REMOVE, "sh", self.name,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        return self

    async def attach(self, pid: int) -> None:
        """Link the node of that process with this machine."""
        link = self.name
        await run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        await run("ip", "addr", "add", f"{self.gateway}/30", "dev", link)
        await run("ip", "addr", "add", f"{self.service_ip}/32", "dev", link)
        await run("ip", "link", "set", link, "up")
        await run("ip", "route", "add", self.pods, "via", self.address)
        self._proxy = await asyncio.start_server(self._forward, self.service_ip, 443)

    async def __aexit__(self, *_: object) -> None:
        await self._remover.communicate(b"")

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = await asyncio.open_connection(self._api_server.hostname, self._api_server.port)
        await asyncio.gather(_pump(reader, server[1]), _pump(server[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 << 10):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
