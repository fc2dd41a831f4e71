"""Variables that make an engine on GPUs fit for a checkpoint; set in creation mode, only where unset. Pure.

They switch off what cannot be checkpointed: memory shared between GPUs, NVLink multicast, RDMA, and watchdogs
that take the pause for a hang. docs/gpu.md has reason and source of every variable. PID 1 imports this
module.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_JOB_FILE = "CUDA_CHECKPOINT_JOB_FILE"

#: Engine → names of programs and modules that mean it.
_WORDS = {
    "vllm": ("vllm",),
    "sglang": ("sglang",),
    "trtllm": ("trtllm", "tensorrt_llm", "tensorrt-llm"),
}

#: Words that may stand before the program in a command. Other launchers have options with values: behind them, an engine is
#: recognised by how it is started.
_PREFIXES = ("/bin/sh", "-c", "exec", "env", "cuda-checkpoint", "--launch-job", "-j")

#: Programs that run a module: ``python3 -um vllm…``, ``torchrun --module vllm…``.
_RUNNERS = ("python", "torchrun", "uv", "accelerate")

#: An option that a module follows, in the same word or the next; also behind options of Python without a value.
_MODULE = re.compile(r"(?:--module(?:=|$)|-[bBdEiIOPqRsSuvx]*m)(.*)")

#: The word that follows the name of a program that serves, and programs whose name alone says that they serve.
_SERVE, _SERVERS = "serve", ("trtllm-serve", "trtllm-llmapi-launch")

#: What a shell line puts around words.
_QUOTES = "'\"`();&|{}"

#: What to do about an engine on GPUs whose command does not show it.
UNKNOWN = (
    "it gets no variables that make it fit for a checkpoint of its GPUs: set DYNAMO_CHECKPOINT_PRESET to vllm, sglang or trtllm if "
    "it is one of them, else to none"
)

_COMMON = {
    "NCCL_NVLS_ENABLE": "0",
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_CUMEM_HOST_ENABLE": "0",
    "NCCL_IB_DISABLE": "1",
    "NCCL_RAS_ENABLE": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCHINDUCTOR_QUIESCE_ASYNC_COMPILE_POOL": "1",
    "HF_HUB_DISABLE_XET": "1",
}

#: With more than one GPU, and without a launch job: no memory of one process in another one's address space.
_MANY_GPUS = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"}

_ENGINES = {
    "vllm": {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_ALLREDUCE_USE_SYMM_MEM": "0"},
    "sglang": {},
    "trtllm": {
        "TLLM_NCCL_SYMMETRIC_ZERO_COPY": "0",
        "UCX_TLS": "tcp,self",
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "tcp,self",
    },
}

#: Hook → variables that its requests need.
_HOOKS = {hook: {"VLLM_SERVER_DEV_MODE": "1"} for hook in ("vllm-checkpoint", "vllm-sleep")}

#: Engine → (option, why): what only the command line can switch off, with more than one GPU.
_OPTIONS = {
    "vllm": ("--disable-custom-all-reduce", "vLLM's own all-reduce shares memory between GPUs"),
    "sglang": ("--disable-custom-all-reduce", "SGLang's own all-reduce shares memory between GPUs"),
}


def engine_of(argv: Sequence[str]) -> str:
    """``vllm``, ``sglang``, ``trtllm``, or nothing: by the program and the module or script it runs."""
    words = " ".join(argv).split()
    names = (_program(words), *_started([word.strip(_QUOTES) for word in words]))
    return next(filter(None, map(_meant, names)), "")


def _meant(program: str) -> str:
    """The engine that a program or a module is of, or nothing."""
    parts = program.replace(".", " ").split()
    for engine, names in _WORDS.items():
        if any(part == name or part.startswith(f"{name}-") for name in names for part in parts):
            return engine
    return ""


def _started(words: list[str]) -> list[str]:
    """Return the programs and modules that a command starts through shells and runners such as ``nsys profile``."""
    names = [word.rpartition("/")[2] for word in words]
    followed = list(zip(words, names, [*words, ""][1:], strict=True))
    servers = [name for _, name, after in followed if after == _SERVE or name in _SERVERS]
    return [*_modules(followed), *servers]


def _modules(words: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Yield the module that each runner starts; words behind a module or a script are its own options."""
    is_looked_for = False
    for word, name, after in words:
        if name.startswith(_RUNNERS):
            is_looked_for = True
        elif is_looked_for and (found := _MODULE.match(word)):
            yield found[1] or after
            is_looked_for = False
        elif word.endswith(".py"):
            is_looked_for = False


def _program(words: list[str]) -> str:
    """Return what a command runs: its program, or for Python the module or script."""
    while words and (words[0] in _PREFIXES or "=" in words[0] or words[0].endswith("/cuda-checkpoint")):
        words = words[1:]
    program = words[0].rpartition("/")[2] if words else ""
    if not program.startswith("python"):
        return program
    return next((word.rpartition("/")[2] for word in words[1:] if not word.startswith("-")), "")


def environment(
    engine: str, argv: list[str], environ: Mapping[str, str], *, gpus: int, pre_dump: str = ""
) -> dict[str, str]:
    """Return the preset's variables for an engine on ``gpus`` GPUs that ``environ`` does not set."""
    if engine not in _ENGINES:
        return {}
    preset = _preset(engine, gpus if not _has_job(argv, environ) else 1, pre_dump)
    return {name: value for name, value in preset.items() if name not in environ}


def _has_job(argv: list[str], environ: Mapping[str, str]) -> bool:
    """Whether it runs below ``cuda-checkpoint --launch-job``, which makes shared GPU memory possible."""
    words = [word.rpartition("/")[2].strip(_QUOTES) for word in " ".join(argv).split()]
    return _JOB_FILE in environ or {"cuda-checkpoint", "--launch-job"} <= {*words}


def _preset(engine: str, gpus: int, pre_dump: str) -> dict[str, str]:
    many = _MANY_GPUS if gpus > 1 else {}
    return {**_COMMON, **many, **_ENGINES[engine], **_HOOKS.get(pre_dump.partition(":")[0], {})}


def missing_option(engine: str, argv: list[str], *, gpus: int) -> tuple[str, str] | None:
    """Return (option, why) that the command lacks, or None."""
    advice = _OPTIONS.get(engine)
    if advice is None or gpus < 2 or advice[0] in " ".join(argv).replace("_", "-"):  # vLLM takes either
        return None
    return advice
