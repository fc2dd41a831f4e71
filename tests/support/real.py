"""vLLM and Dynamo as published, on a CPU, with the tiny model of images/engines/vllm: what tests and the demonstration run."""

from containers import TAG

IMAGE = f"localhost/dynamo-entry/vllm:{TAG}"
MODEL = "/models/tiny"
#: Tests leave the model as it is; the demonstrations let vLLM compile it, as it does by default.
_EAGER = "--enforce-eager"
_ARGUMENTS = ("--served-model-name", "tiny", _EAGER, "--max-model-len", "256")
COMPLETION = {"model": "tiny", "prompt": "once upon", "max_tokens": 8, "temperature": 0}
ENV = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2"}
MEMORY = ("--shm-size", "1g")

#: Sleep mode's routes are what prepares a server for a checkpoint.
SERVE = ("vllm", "serve", MODEL, *_ARGUMENTS, "--enable-sleep-mode")
SERVE_ENV = {**ENV, "VLLM_SERVER_DEV_MODE": "1"}

WORKER = ("python3", "-m", "dynamo.vllm", "--model", MODEL, *_ARGUMENTS)
DYNAMO_ENV = {**ENV, "ETCD_ENDPOINTS": "http://127.0.0.1:2379"}

#: etcd and Dynamo's frontend, for a shell.
PLANE = (
    "etcd --data-dir /tmp/etcd --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://127.0.0.1:2379 "
    ">/tmp/etcd.log 2>&1 & exec python3 -m dynamo.frontend --http-port 8000 --discovery-backend etcd"
)


def compiled(command: tuple[str, ...]) -> tuple[str, ...]:
    """The same engine, with its model compiled at every cold start."""
    return tuple(word for word in command if word != _EAGER)
