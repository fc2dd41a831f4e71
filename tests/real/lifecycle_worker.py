"""The published lifecycle code of ai-dynamo RELEASE, from its wheel, around an engine that only says what it is asked.

GET /health    200 on DYN_SYSTEM_PORT, once the lifecycle is over
GET /identity  what was asked of the engine; the environment that the worker would register with
"""

import asyncio
import json
import os
import sys
from importlib import import_module
from types import ModuleType

RELEASE = tuple(int(part) for part in os.environ["RELEASE"].split("."))
WHEEL = "/wheel"


class Engine:
    """An engine's client, and the controller that pauses it, by the names of every release."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        async def asked(*_, **__):
            self.asked.append(name)

        return asked

    def mark_resumed(self):
        self.asked.append("mark_resumed")


def load(name):
    """A module of the wheel alone: packages around it would load ai-dynamo-runtime."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        package = ModuleType(".".join(parts[:end]))
        package.__path__ = ["/".join((WHEEL, *parts[:end]))]
        sys.modules.setdefault(package.__name__, package)
    return import_module(name)


async def first(engine):
    """1.0: signals."""
    _, config = load("dynamo.vllm.snapshot").get_checkpoint_config()
    return config is None or await config.run_lifecycle(engine, 1)


async def second(engine):
    """1.1 and 1.2: files; the identity is that of /etc/podinfo."""
    config = load("dynamo.common.utils.snapshot").CheckpointConfig.from_env()
    return config is None or await config.run_lifecycle(engine)


async def third(engine):
    """1.3 and later: files, and the new pod's environment."""
    lifecycle, context = (load(f"dynamo.common.snapshot.{name}") for name in ("lifecycle", "restore_context"))
    context.maybe_run_restore_standby_mode()
    config = lifecycle.SnapshotConfig.from_env()
    if config is None:
        return True
    if not await config.run_lifecycle(engine):
        return False
    context.apply_snapshot_restore_env()
    if RELEASE >= (1, 5):
        await lifecycle.elect_and_wake(engine)
    return True


async def main():
    engine = Engine()
    print("worker: loaded", flush=True)
    run = first if RELEASE < (1, 1) else second if RELEASE < (1, 3) else third
    if not await run(engine):
        return

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        names = ("DYN_", "POD_", "SNAPSHOT")
        env = {name: value for name, value in os.environ.items() if name.startswith(names)}
        body = json.dumps({"asked": engine.asked, "env": env}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    print("worker: registered", flush=True)
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["DYN_SYSTEM_PORT"]))
    await server.serve_forever()


asyncio.run(main())
