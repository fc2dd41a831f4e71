"""The identity of a service that says none: what its engine's command says."""

import pytest

from dynamo_entry.kube import identity


@pytest.mark.parametrize(
    ("container", "model", "framework"),
    [
        ({"command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "Qwen/Qwen3-0.6B"]}, "Qwen/Qwen3-0.6B", "vllm"),
        ({"args": ["python3 -m dynamo.sglang --model-path=/models/x --tp 2"]}, "/models/x", "sglang"),
        ({"command": ["/bin/sh", "-c"], "args": ["exec python3 -m dynamo.trtllm --model 'a/b'"]}, "a/b", "trtllm"),
        ({"command": ["vllm", "serve", "a/b", "--port", "1"]}, "a/b", "vllm"),
        (
            {"args": ["python3 -m dynamo.vllm --model $(MODEL)"], "env": [{"name": "MODEL", "value": "a/b"}]},
            "a/b", "vllm",
        ),
        (
            {"args": ["python3 -m dynamo.vllm --model $(MODEL)"], "env": [{"name": "MODEL", "valueFrom": {"configMapKeyRef": {}}}]},
            None, None,
        ),
        ({"args": ["python3 -m dynamo.vllm --model ${MODEL:-a/b}"]}, None, None),
        ({"args": ["python3 -m dynamo.vllm --model /models/$NAME"]}, None, None),
        *(
            ({"args": [f"python3 -m dynamo.vllm --model {word}"], "env": [{"name": "MODEL", "value": "Q/W"}]}, model, model and "vllm")
            for word, model in {
                "$(MODEL)": "Q/W", "${MODEL}": "Q/W", "$MODEL": "Q/W", "/m/$MODEL/v1": "/m/Q/W/v1",
                "${MODEL:-foo/bar}": None, "${MODEL:-}": None, "${MODEL#*/}": None, "${#MODEL}": None, "${!MODEL}": None,
                "$(MODEL": None, "${MODEL": None, "$(basename $MODEL)": None, "`basename $MODEL`": None, "${X:-$MODEL}": None,
            }.items()
        ),
        ({"command": ["python3", "-m", "dynamo.vllm"]}, None, None),
        ({"command": ["serve", "--model", "x"]}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_the_identity_of_a_service_that_says_none(container, model, framework):
    """What its engine's command says."""
    found = identity.derived_identity(container)
    assert (found and (found["model"], found["framework"])) == (model and (model, framework))


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"image": "other"}, False),
        ({"args": ["--model", "m", "--tp", "2"]}, False),
        ({"resources": {"limits": {"nvidia.com/gpu": 2}}}, False),
        ({"resources": {"limits": {"nvidia.com/gpu": "1", "memory": "9Gi"}}}, True),
        ({"env": [{"name": "DYN_NAMESPACE", "value": "x"}]}, True),
    ],
)
def test_what_makes_another_identity(change, is_same):
    """The image, the command and the GPUs; not what differs between deployments of the same."""
    engine = {
        "image": "i", "command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "m"],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }  # fmt: skip
    assert (identity.derived_identity(engine) == identity.derived_identity(engine | change)) == is_same


@pytest.mark.parametrize(
    ("used", "claims", "is_same"),
    [
        ([{"name": "gpu"}], [{"name": "gpu", "resourceClaimTemplateName": "one-h100"}], True),
        ([{"name": "gpu"}], [{"name": "gpu", "resourceClaimTemplateName": "two-h100"}], False),
        ([{"name": "gpu", "request": "big"}], [{"name": "gpu", "resourceClaimTemplateName": "one-h100"}], False),
        (
            [{"name": "gpu"}],
            [{"name": "nic", "resourceClaimTemplateName": "x"}, {"name": "gpu", "resourceClaimTemplateName": "one-h100"}],
            True,
        ),
        ([], [{"name": "gpu", "resourceClaimTemplateName": "one-h100"}], False),
    ],
)  # fmt: skip
def test_gpus_by_resource_claims_make_another_identity(used, claims, is_same):
    """DRA: which claim the container uses, and what it is of; not what other containers use."""

    def found(used, claims):
        engine = {"image": "i", "command": ["vllm", "serve", "m"], "resources": {"claims": used}}
        return identity.derived_identity(engine, claims)

    first = found([{"name": "gpu"}], [{"name": "gpu", "resourceClaimTemplateName": "one-h100"}])
    assert (found(used, claims) == first) == is_same


@pytest.mark.parametrize("word", ["$(HOW)", "${HOW}", "$HOW", "${HOW:-none}", "${HOW#x}", "${X:-${HOW:-y}}"])
def test_variables_of_the_command_make_another_identity(word):
    """What the engine is started with decides, not how it is written."""

    def engine(value):
        words = {"command": ["python3", "-m", "dynamo.vllm", "--model", "m", "--quantization", word]}
        return words | {"env": [{"name": "HOW", "value": value}]}

    first, second = identity.derived_identity(engine("awq")), identity.derived_identity(engine("gptq"))
    assert first != second
    assert first == identity.derived_identity(engine("awq"))
