"""The hash that names a checkpoint: known vectors, and what changes it."""

import pytest

from dynamo_entry.kube.identity import identity_hash, normalised

LLAMA = {"model": "meta-llama/Llama-3-8B", "framework": "vllm"}


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (LLAMA | {"tensorParallelSize": 1, "dtype": "bfloat16"}, "d936422b4f953f99"),
        ({"model": "meta-llama/Llama-2-7b-hf", "framework": "vllm"}, "20ca5550ebe7887d"),
    ],
)
def test_vectors(identity, expected):
    """Archives in storage carry these names."""
    assert identity_hash(identity) == expected


@pytest.mark.parametrize(
    "same",
    [
        {"tensorParallelSize": 1}, {"pipelineParallelSize": 1}, {"tensorParallelSize": 0}, {"dtype": ""},
        {"maxModelLen": 0}, {"extraParameters": {}}, {"extraParameters": None}, {"replicas": 4},
    ],
)  # fmt: skip
def test_what_is_not_set_makes_no_difference(same):
    """A default written out is the default; what is no part of an identity is ignored."""
    assert identity_hash(LLAMA | same) == identity_hash(LLAMA)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "x"}, {"framework": "sglang"}, {"frameworkVersion": "0.4.0"}, {"tensorParallelSize": 2},
        {"pipelineParallelSize": 2}, {"dtype": "fp8"}, {"maxModelLen": 4096}, {"extraParameters": {"a": "b"}},
    ],
)  # fmt: skip
def test_every_field_counts(other):
    """Another value is another checkpoint."""
    assert identity_hash(LLAMA | other) != identity_hash(LLAMA)


def test_order_of_parameters_does_not_count():
    """A map has none."""
    one, two = (
        {"extraParameters": dict(pairs)} for pairs in ([("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")])
    )
    assert identity_hash(LLAMA | one) == identity_hash(LLAMA | two)


def test_the_later_spelling():
    """backendFramework and dynamoVersion stand for framework and frameworkVersion."""
    later = {"model": LLAMA["model"], "backendFramework": "vllm", "dynamoVersion": "0.4.0"}
    assert normalised(later) == normalised(LLAMA | {"frameworkVersion": "0.4.0"})
