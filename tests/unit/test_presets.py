"""Which engine a command starts, and what it is given."""

import pytest

from dynamo_entry.engine import presets


@pytest.mark.parametrize(
    ("argv", "engine"),
    [
        (["python3", "-m", "dynamo.vllm", "--model", "X"], "vllm"),
        (["vllm", "serve", "meta-llama/Llama-3-8B"], "vllm"),
        (["/opt/venv/bin/python", "-m", "vllm.entrypoints.openai.api_server"], "vllm"),
        (["python3 -m dynamo.sglang --model X"], "sglang"),
        (["python3", "-m", "sglang.launch_server"], "sglang"),
        (["trtllm-serve", "X"], "trtllm"),
        (["python3", "-m", "dynamo.trtllm"], "trtllm"),
        (["python3", "-m", "tensorrt_llm.commands.serve"], "trtllm"),
        (["/bin/sh", "-c", "exec env A=b vllm serve X"], "vllm"),
        (["python3", "/opt/vllm.py"], "vllm"),
        (["bash", "-c", "vllm serve X"], "vllm"),
        (["/bin/bash", "-lc", "cd /models && exec 'vllm' serve X"], "vllm"),
        (["sh", "-c", "set -e; python3 -m sglang.launch_server"], "sglang"),
        (["/usr/bin/env", "-S", "A=b vllm serve X"], "vllm"),
        (["numactl", "-m", "0", "/opt/venv/bin/vllm", "serve", "X"], "vllm"),
        (["nsys", "profile", "-o", "x", "python3", "-m", "dynamo.vllm"], "vllm"),
        (["conda", "run", "-n", "m", "sglang", "serve", "X"], "sglang"),
        (["uv", "run", "-m", "dynamo.vllm"], "vllm"),
        (["torchrun", "--nproc-per-node", "2", "--module", "dynamo.vllm"], "vllm"),
        (["python3", "-um", "dynamo.trtllm"], "trtllm"),
        (["python3", "-mdynamo.vllm", "--model", "X"], "vllm"),
        (["sh", "-c", "python3 -Iumsglang.launch_server --model-path X"], "sglang"),
        (["python3", "-X", "importtime", "-m", "vllm.entrypoints.openai.api_server"], "vllm"),
        (["mpirun", "-n", "2", "trtllm-llmapi-launch", "python3", "-m", "mine"], "trtllm"),
        (["mpirun -n 2 trtllm-serve X"], "trtllm"),
        (["ray start --head && vllm serve X"], "vllm"),
        (["llama-server", "-m", "vllm"], ""),
        (["sh", "-c", "llama-server -m /vllm/x.gguf --alias sglang"], ""),
        (["python3", "-m", "mine", "--model", "vllm"], ""),
        (["python3", "-m", "mine", "-m", "vllm-7b"], ""),
        (["python3", "/app/serve.py", "-m", "vllm"], ""),
        (["sh", "-c", "python3 /app/wait.py -m db && exec python3 -m dynamo.vllm"], "vllm"),
        (["llama-server", "-m", "/models/vllm.gguf", "--alias", "vllm"], ""),
        (["llama-server", "--model", "/m.gguf"], ""),
        (["python3", "/app/server.py", "--backend", "vllm"], ""),
        ([], ""),
    ],
)
def test_an_engine_is_known_by_its_command(argv, engine):
    assert presets.engine_of(argv) == engine


def environment(engine="vllm", argv=("vllm", "serve"), environ=(), *, gpus=1, pre_dump=""):
    return presets.environment(engine, list(argv), dict(environ), gpus=gpus, pre_dump=pre_dump)


def test_one_gpu_keeps_what_only_hurts_among_many():
    assert "NCCL_P2P_DISABLE" not in environment()
    assert environment(gpus=2)["NCCL_P2P_DISABLE"] == "1"


def test_a_launch_job_may_share_memory_between_gpus():
    launched = ("cuda-checkpoint", "--launch-job", "vllm", "serve")
    assert presets.engine_of(list(launched)) == "vllm"
    shell = ("bash", "-c", "ulimit -l 0; exec '/usr/bin/cuda-checkpoint' --launch-job vllm serve")
    for argv in (launched, shell):
        assert "NCCL_P2P_DISABLE" not in environment(argv=argv, gpus=2)
    assert "NCCL_P2P_DISABLE" not in environment(environ={"CUDA_CHECKPOINT_JOB_FILE": "/job"}, gpus=2)


def test_what_is_set_stays():
    assert "NCCL_NVLS_ENABLE" not in environment(environ={"NCCL_NVLS_ENABLE": "1"})


def test_every_engine_goes_without_what_the_driver_cannot_checkpoint():
    for engine in ("vllm", "sglang", "trtllm"):
        found = environment(engine)
        assert found["NCCL_NVLS_ENABLE"] == "0"
        assert found["NCCL_CUMEM_ENABLE"] == "0"
    assert environment("", gpus=8) == {}


def test_the_sleep_hook_needs_vllms_development_endpoints():
    """They are not opened for anything else."""
    assert "VLLM_SERVER_DEV_MODE" not in environment()
    for hook in ("vllm-sleep:9000", "vllm-checkpoint"):
        assert environment(pre_dump=hook)["VLLM_SERVER_DEV_MODE"] == "1"


def test_what_only_the_command_line_can_change_is_advised():
    assert presets.missing_option("vllm", ["vllm", "serve"], gpus=2)[0] == "--disable-custom-all-reduce"
    assert presets.missing_option("vllm", ["vllm", "serve"], gpus=1) is None
    assert presets.missing_option("vllm", ["vllm serve --disable-custom-all-reduce"], gpus=2) is None
    assert presets.missing_option("vllm", ["vllm serve --disable_custom_all_reduce"], gpus=2) is None
    assert presets.missing_option("trtllm", ["trtllm-serve"], gpus=2) is None
