"""Startup, readiness and liveness probes: httpGet, tcpSocket, exec."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from node.spec import Object


async def watch(container: Any, address: str) -> None:
    """Probe a running container until cancelled; sets its ``is_started`` and ``is_ready``, restarts it."""
    definition = container.definition
    if "startupProbe" in definition:
        if not await _until(container, address, definition["startupProbe"]):
            await container.restart(30)
            return
        container.is_started = True
        container.is_ready = "readinessProbe" not in definition
        container.changed()
    await asyncio.gather(
        _readiness(container, address, definition.get("readinessProbe")),
        _liveness(container, address, definition.get("livenessProbe")),
    )


async def _until(container: Any, address: str, probe: Object) -> bool:
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    for _ in range(probe.get("failureThreshold", 3)):
        if await _succeeds(container, address, probe):
            return True
        await asyncio.sleep(probe.get("periodSeconds", 10))
    return False


async def _readiness(container: Any, address: str, probe: Object | None) -> None:
    if probe is None:
        return
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    failures = 0
    while True:
        if await _succeeds(container, address, probe):
            failures, is_ready = 0, True
        else:
            failures += 1
            is_ready = container.is_ready and failures < probe.get("failureThreshold", 3)
        if is_ready != container.is_ready:
            container.is_ready = is_ready
            container.changed()
        await asyncio.sleep(probe.get("periodSeconds", 10))


async def _liveness(container: Any, address: str, probe: Object | None) -> None:
    if probe is None:
        return
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    failures = 0
    while failures < probe.get("failureThreshold", 3):
        failures = 0 if await _succeeds(container, address, probe) else failures + 1
        await asyncio.sleep(probe.get("periodSeconds", 10))
    await container.restart(30)


async def _succeeds(container: Any, address: str, probe: Object) -> bool:
    limit = probe.get("timeoutSeconds", 1)
    try:
        if "httpGet" in probe:
            return await asyncio.wait_for(_http(container.definition, address, probe["httpGet"]), limit)
        if "tcpSocket" in probe:
            number = _port(container.definition, probe["tcpSocket"]["port"])
            _, writer = await asyncio.wait_for(asyncio.open_connection(address, number), limit)
            writer.close()
            return True
        return await asyncio.wait_for(container.exec(*probe["exec"]["command"]), limit) == 0
    except (OSError, asyncio.TimeoutError, aiohttp.ClientError):
        return False


async def _http(definition: Object, address: str, get: Object) -> bool:
    url = f"{get.get('scheme', 'HTTP').lower()}://{address}:{_port(definition, get['port'])}{get.get('path', '/')}"
    headers = {header["name"]: header["value"] for header in get.get("httpHeaders", ())}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers, ssl=False) as response:
        return 200 <= response.status < 400


def _port(definition: Object, port: int | str) -> int:
    if isinstance(port, int) or port.isdecimal():
        return int(port)
    return next(entry["containerPort"] for entry in definition["ports"] if entry.get("name") == port)
