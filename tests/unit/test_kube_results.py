"""What the operator makes of a container's last words: anybody may have written them."""

import dataclasses
import json
import string

import pytest
from archive_store import MemoryStore, build
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_entry.archive import Head
from dynamo_entry.errors import StorageError
from dynamo_entry.kube import storage_jobs
from dynamo_entry.kube.operator import checkpoints, pods
from dynamo_entry.kube.operator.conditions import new_status
from dynamo_entry.kube.operator.lifecycle import decide
from dynamo_entry.kube.operator.observed import Observed

THEN = "2023-11-14T22:13:20Z"
COMPLETE, ENDED = (
    {"type": "Complete", "status": "True"},
    {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"},
)
WHOLE = {"result": "published", "location": "s3://b/h.tar", "digest": "blake3:1", "size_bytes": 5}


def see(message, *conditions, code=0):
    """A checkpoint whose Job's pod ended with that message."""
    terminated = {"exitCode": code, "message": message, "finishedAt": THEN}
    container = {"name": "main", "state": {"terminated": terminated}, "imageID": "i"}
    checkpoint = {
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {"identity": {}, "job": {}},
        "status": {"phase": "Creating", "identityHash": "h", "observedGeneration": 1, "attempts": 1},
    }  # fmt: skip
    pod = {
        "metadata": {"name": "p"},
        "status": {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container]},
    }
    return Observed(
        checkpoint=checkpoint, hash="h", location="s3://b/h.tar", storage_type="s3", now=1_700_000_000.0, target="main",
        job={"metadata": {"name": "j", "uid": "j"}, "status": {"conditions": [*conditions]}}, pods=[pod],
    )  # fmt: skip


def is_taken(change):
    """Whether the definition in charts/ takes these fields."""
    kinds = {"sizeBytes": int, "digest": str, "imageID": str, "message": str, "phase": str}
    fields = all(change.get(name) is None or type(change[name]) is kind for name, kind in kinds.items())
    conditions = change.get("conditions", ())
    return fields and all(
        isinstance(one["message"], str) and one["message"] and isinstance(one["reason"], str) and 1 <= len(one["reason"]) <= 1024
        for one in conditions
    )  # fmt: skip


ODD = [
    WHOLE | {"size_bytes": "5"}, WHOLE | {"size_bytes": 5.5}, WHOLE | {"digest": {}}, WHOLE | {"location": []},
    {"result": 5}, {"result": {}}, {"result": "done"}, {"result": "failed", "message": {}, "retry": False},
    {"result": "failed", "reason": ["x"], "retry": False}, {"result": "failed", "reason": "x" * 4000, "retry": False},
    {"result": "failed", "reason": "", "retry": False}, {"result": "failed", "retry": "no"}, [], "published", None, 5,
]  # fmt: skip


@pytest.mark.parametrize("words", ODD, ids=[json.dumps(one)[:60] for one in ODD])
@pytest.mark.parametrize(("condition", "code"), [(COMPLETE, 0), (ENDED, 1), (None, 1)])
def test_odd_words_are_told_and_hold_nothing_up(words, condition, code):
    """The API server would refuse such a status each time, and the checkpoint would be Creating for ever."""
    seen = see(json.dumps(words), *([condition] if condition else ()), code=code)
    decision = decide(seen)
    assert is_taken(new_status(seen, decision, THEN))
    if condition:
        assert decision.phase == "Failed"


def test_the_launchers_words_are_taken():
    """As they are."""
    seen = see(json.dumps(WHOLE | {"v": 1, "timings": {}}), COMPLETE)
    change = new_status(seen, decide(seen), THEN)
    assert (change["phase"], change["digest"], change["sizeBytes"]) == ("Ready", "blake3:1", 5)


@settings(max_examples=300, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(string.printable, max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*WHOLE, "reason", "message", "retry", "x"]), inner, max_size=6),
    max_leaves=10,
))  # fmt: skip
def test_whatever_it_wrote(words):
    """There is a status that says so."""
    for condition in (COMPLETE, ENDED):
        seen = see(json.dumps(words), condition, code=1)
        assert is_taken(new_status(seen, decide(seen), THEN))


def test_a_kubelet_that_says_little():
    """Neither a message nor a time."""
    seen = see("", ENDED, code=137)
    (pod,) = seen.pods
    pod["status"]["containerStatuses"][0]["state"]["terminated"] = {"exitCode": 137}
    assert decide(dataclasses.replace(seen, pods=[pod])).reason == "ContainerFailed"
    assert pods.launcher_result([{"metadata": {}}], "main") == ({}, "")


@pytest.fixture
def look(monkeypatch):
    """What a probe finds of an archive."""

    def found(data):
        monkeypatch.setattr(storage_jobs.stores, "open_with", lambda _environ, _location: MemoryStore(data))
        return storage_jobs.look("s3://bucket/a.tar")

    return found


def test_a_probe_tells_nobody_the_engines_command(look):
    """Whoever may view a checkpoint's status reads what a probe says."""
    answer = look(build({"s": b"x"}, head=Head(hash="abc", argv=["serve", "--api-key", "sk-SECRET"])))
    assert (answer["exists"], answer["hash"]) == (True, "abc")
    assert "SECRET" not in json.dumps(answer)


def test_an_archive_of_another_key_is_in_the_way(look, monkeypatch, tmp_path):
    """No creation replaces it, and nobody here restores it."""
    (tmp_path / "key").write_bytes(bytes(range(32)))
    monkeypatch.setenv("DYNAMO_CHECKPOINT_KEY_FILE", str(tmp_path / "key"))
    answer = look(build({"s": b"x"}))
    assert (answer["exists"], answer["taken"]) == (False, True)
    assert "taken" not in look(b"damaged")


def raises(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    ("opened", "code", "fact"),
    [
        (lambda *_: MemoryStore(build({"s": b"x"}, head=Head(hash="x" * 9000))), 0, {"exists": True}),
        (
            lambda *_: MemoryStore(build({"s": b"x"}, head=Head(hash="h", created_at="\U0001f600" * 9000))),
            0,
            {"exists": True, "hash": "h"},
        ),
        (raises(StorageError("\U0001f600" * 9000, reason="StorageDenied")), 1, {"error": "StorageDenied"}),
    ],
    ids=["long hash", "long time", "long error"],
)
def test_an_answer_fits_into_a_termination_message(opened, code, fact, monkeypatch, tmp_path):
    """A kubelet cuts it at 4096 bytes, and nobody could read the rest. What is in an archive, anybody may have written."""
    log = tmp_path / "termination-log"
    monkeypatch.setattr(storage_jobs, "TERMINATION_LOG", str(log))
    monkeypatch.setattr(storage_jobs.stores, "open_with", opened)
    ended = 0
    try:
        storage_jobs.probe("s3://bucket/a.tar")
    except SystemExit as exit_:
        ended = exit_.code
    assert ended == code
    message = log.read_bytes()[:4096].decode()
    terminated = {"exitCode": code, "message": message}
    told = pods.helper_answer([{"status": {"containerStatuses": [{"state": {"terminated": terminated}}]}}])
    assert told.items() >= fact.items()


def test_what_is_kept_of_a_checkpoint_has_no_pod_template():
    """Anybody may make it large; the operator keeps all checkpoints in memory."""
    template = {"spec": {"containers": [{"name": "main", "command": ["x" * 1000]}]}}
    one = {
        "metadata": {"namespace": "n", "name": "c", "managedFields": ["x" * 1000]},
        "spec": {"identity": {"model": "m"}, "job": {"podTemplateSpec": template, "backoffLimit": 1}},
    }
    kept = checkpoints.known(one)
    assert "x" * 1000 not in json.dumps(kept)
    assert kept["spec"]["job"]["backoffLimit"] == 1


@pytest.mark.parametrize("where", ["metadata", "template"])
def test_whether_a_checkpoint_pauses_its_images_entrypoint_may_tell(where):
    """Pods that restore it need the directory then."""
    annotated = {"annotations": {"dynamo-entry/entrypoint": '["python3", "-m", "dynamo.vllm"]'}}
    template = {
        "metadata": annotated if where == "template" else {},
        "spec": {"containers": [{"name": "main"}]},
    }
    one = {
        "metadata": {"namespace": "n", "name": "c", **(annotated if where == "metadata" else {})},
        "spec": {"identity": {"model": "m"}, "job": {"podTemplateSpec": template}},
    }
    assert checkpoints.known(one)["spec"]["job"]["pauses"]
