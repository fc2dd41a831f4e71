"""Containers that were given GPUs the way nvidia-container-toolkit and CDI do it: device nodes and libraries."""

from __future__ import annotations

import stub_node
from containers import CREATE, RESTORE, Container, Containers
from launcher import SETTINGS, SIGNAL


def options(node: stub_node.Node) -> tuple[str, ...]:
    """What a container runtime adds for the GPUs of a node; the node's device files are /dev/null."""
    minors = [line.split()[4] for line in node.gpus]
    return tuple(
        part for name in ("ctl", *minors) for part in ("--device", f"/dev/null:/dev/nvidia{name}")
    )  # fmt: skip


def volumes(node: stub_node.Node) -> tuple[str, ...]:
    built = stub_node.build()
    driver = "libcuda.so.1" if node.has_checkpoint_api else "libcuda-old.so.1"
    return (
        f"{built}/{driver}:/usr/lib/libcuda.so.1:ro",
        f"{built}/libnvidia-ml.so.1:/usr/lib/libnvidia-ml.so.1:ro",
        f"{node.directory}:/gpu",
        f"{stub_node.ENGINE}:/gpu_engine.py:ro",
        *(
            (
                f"{built}/cuda-checkpoint:/usr/local/bin/cuda-checkpoint:ro",
                f"{built}/libcuda.so.1:/opt/stub/libcuda.so.1:ro",
            )
            if node.has_program
            else ()
        ),
    )


def _start(
    containers: Containers, node: stub_node.Node, base: tuple[str, ...], settings, env, command=()
) -> Container:
    return containers.start(
        *(command or ("python3", "/gpu_engine.py")), options=(*base, *options(node)), volumes=volumes(node),
        settings={**SETTINGS, **settings}, env=env,
    )  # fmt: skip


def create(containers: Containers, node: stub_node.Node, *, settings=None, env=None, command=()) -> Container:
    return _start(containers, node, CREATE, {**SIGNAL, **(settings or {})}, env, command)


def published(containers: Containers, node: stub_node.Node, **kwargs) -> Container:
    creator = create(containers, node, **kwargs)
    assert creator.exit_code() == 0, creator.output()
    return creator


def restore(containers: Containers, node: stub_node.Node, *, settings=None, env=None) -> Container:
    return _start(containers, node, RESTORE, settings or {}, env)


def restored(containers: Containers, node: stub_node.Node, **kwargs) -> Container:
    container = restore(containers, node, **kwargs)
    container.wait_for_event("Restored")
    return container
