"""The launcher before the command of a worker, word by word."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_objects import PVC, READY, REF, checkpoint, created, known, pod

from dynamo_entry.kube import config, podspec
from dynamo_entry.kube.podspec import Unfit
from dynamo_entry.kube.webhook.admission import mutate, validate

WORDS = st.lists(
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=12),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize(
    "launcher", [["sh", "-c", 'printf "%s\\n" launcher', "x", "--"], ["no-such-launcher", "--"]]
)
@settings(deadline=None, max_examples=25)
@given(words=WORDS)
def test_the_guard_hands_over_the_very_words(launcher, words):
    """With the launcher in the image and without it; whatever blanks, quotes and dollars are in them."""
    show = ["/usr/bin/env", "python3", "-S", "-c", "import sys; print(ascii(sys.argv[1:]))"]
    operator = config.Config(launcher=config.Launcher(command=tuple(launcher)))
    wrapped = podspec.wrap({"name": "main", "command": show, "args": words}, operator, guard=True)
    shown = subprocess.run(wrapped["command"], capture_output=True, text=True, check=True).stdout
    assert shown == ("launcher\n" if launcher[0] == "sh" else ascii(words) + "\n")


@pytest.mark.parametrize(
    ("container", "command"),
    [
        ({"command": ["a"], "args": ["b c"]}, ["dynamo-entry", "--", "a", "b c"]),
        ({"args": ["python3 -m dynamo.vllm --model X"]}, None),
        ({}, None),
        ({"command": ["dynamo-entry", "--", "a"]}, ["dynamo-entry", "--", "a"]),
        (
            {"command": ["python3", "-m", "dynamo_entry", "--", "a"]},
            ["python3", "-m", "dynamo_entry", "--", "a"],
        ),
        ({"command": ["/bin/sh", "-c"], "args": ["a b"]}, ["dynamo-entry", "--", "/bin/sh", "-c", "a b"]),
    ],
)
def test_how_a_command_is_wrapped(container, command):
    """The image's ENTRYPOINT decides where there is none."""
    assert podspec.wrap(container, PVC, guard=False).get("command") == command


def test_a_known_entrypoint_is_wrapped():
    """The annotation says what the image would have run."""
    container = podspec.with_entrypoint({"args": ["x"]}, ENTRYPOINT)
    wrapped = podspec.wrap(container, PVC, guard=False)
    assert wrapped == {"command": ["dynamo-entry", "--", "/opt/entry.sh", "x"]}


ENTRYPOINT = {"dynamo-entry/entrypoint": '["/opt/entry.sh"]'}


@pytest.mark.parametrize("annotated", [("checkpoint",), ("template",), ("checkpoint", "template")])
def test_a_creation_wraps_the_known_entrypoint(annotated):
    """The checkpoint says it, or its template, as a graph's pod does; without it nobody would freeze the engine."""
    made = checkpoint({"command": None, "args": ["x"]})
    template = made["spec"]["job"]["podTemplateSpec"]
    for where in annotated:
        metadata = made["metadata"] if where == "checkpoint" else template.setdefault("metadata", {})
        metadata["annotations"] = dict(ENTRYPOINT)
    if len(annotated) == 2:
        made["metadata"]["annotations"] = {"dynamo-entry/entrypoint": '["other"]'}
    _, _, main = created(made)
    assert main["command"] == ["dynamo-entry", "--", "/opt/entry.sh", "x"]


WRONG_ENTRYPOINTS = [
    '"/opt/entry.sh"',
    "[1]",
    "/opt/entry.sh",
    "[]",
    '[""]',
    "[[]]",
    "null",
    "{}",
    "\ud800",
    "[" * 9999,
]


@pytest.mark.parametrize("text", WRONG_ENTRYPOINTS)
def test_a_wrong_entrypoint_breaks_no_pod(text):
    """The pod starts as it would without us; a checkpoint says what is wrong."""
    wrong = {"dynamo-entry/entrypoint": text}
    answer = mutate(PVC, pod({"command": None}, annotations=wrong), "n", known(REF, [READY]))
    assert (answer.pod, answer.reason) == (None, "EntrypointInvalid")
    assert "JSON list" in answer.message
    made = checkpoint({"command": None})
    made["metadata"]["annotations"] = wrong
    with pytest.raises(Unfit) as caught:
        created(made)
    assert caught.value.reason == "EntrypointInvalid"
    assert "dynamo-entry/entrypoint" in validate(None, made)
