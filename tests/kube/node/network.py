"""One bridge a node, one network namespace a pod: pods reach each other, the node and the API server.

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


#: Waits for the end of its input, then removes what was made under a name.
_REMOVE = """
cat >/dev/null
ip netns list | sed -n "s/^\\($1-[^ ]*\\).*/\\1/p" | while read -r name; do ip netns del "$name"; done
ip link del "$1"
"""


class Network:
    """The bridge; ``gateway`` is the node's own address on it."""

    def __init__(self, api_server: str, service_ip: str) -> None:
        self._name = f"kn{secrets.token_hex(3)}"
        self._prefix = f"10.{secrets.randbelow(64) + 128}.{secrets.randbelow(256)}"
        self.gateway = f"{self._prefix}.1"
        self.service_ip = service_ip
        self._api_server = urlsplit(api_server)
        self._free = list(range(254, 1, -1))

    async def __aenter__(self) -> Self:
        bridge = self._name
        self._remover = await asyncio.create_subprocess_exec(
            "sh", "-c", _REMOVE, "sh", bridge, stdin=asyncio.subprocess.PIPE, start_new_session=True
        )
        # Of its own: a bridge's address is else the lowest of its ports', and when a pod comes or goes with
        # another one, what the others send is lost until they have forgotten the old one, after a minute.
        address = bytes([2, *secrets.token_bytes(5)]).hex(":")
        await run("ip", "link", "add", bridge, "address", address, "type", "bridge")
        await run("ip", "addr", "add", f"{self.gateway}/24", "dev", bridge)
        await run("ip", "addr", "add", f"{self.service_ip}/32", "dev", bridge)
        await run("ip", "link", "set", bridge, "up")
        # What kube-proxy would do for the one service that every cluster has.
        self._proxy = await asyncio.start_server(self._forward, self.service_ip, 443)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._proxy.close()
        await self._remover.communicate(b"")

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = await asyncio.open_connection(self._api_server.hostname, self._api_server.port)
        await asyncio.gather(_pump(reader, server[1]), _pump(server[0], writer))

    def namespace(self, uid: str) -> str:
        """The name of a pod's network namespace."""
        return f"{self._name}-{uid}"

    async def attach(self, name: str) -> str:
        """A new network namespace /run/netns/``name`` with an address, which is returned."""
        number = self._free.pop(0 if len(self._free) < 16 else -1)
        inside = f"{self._prefix}.{number}"
        outside = f"{self._name}-{number}"
        await run("ip", "netns", "add", name)
        await run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        await run("ip", "link", "set", outside, "master", self._name, "up")
        await run("ip", "-n", name, "addr", "add", f"{inside}/24", "dev", "eth0")
        await run("ip", "-n", name, "link", "set", "eth0", "up")
        await run("ip", "-n", name, "link", "set", "lo", "up")
        await run("ip", "-n", name, "route", "add", "default", "via", self.gateway)
        return inside

    async def detach(self, name: str, address: str) -> None:
        """Remove the namespace, and with it the link."""
        await run("ip", "netns", "del", name)
        self._free.insert(0, int(address.rpartition(".")[2]))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 << 10):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
