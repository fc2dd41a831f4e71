"""A definition of DynamoCheckpoints that somebody else installed."""

import threading
from types import SimpleNamespace

import pytest

from dynamo_entry.kube import api, foreign


class Cluster:
    """Answers with one definition after another; the last one stays."""

    def __init__(self, *definitions):
        self._definitions = list(definitions)

    def find(self, path):
        assert path.endswith("/customresourcedefinitions/dynamocheckpoints.nvidia.com")
        return self._definitions.pop(0) if len(self._definitions) > 1 else self._definitions[0]


def definition(*fields, version="v1alpha1"):
    identity = {"properties": {name: {"type": "string"} for name in fields}}
    schema = {"properties": {"spec": {"properties": {"identity": identity}}}}
    return {"spec": {"versions": [{"name": version, "schema": {"openAPIV3Schema": schema}}]}}


OURS = definition("model", "framework", "backendFramework")
THEIRS = definition("model", "backendFramework")


@pytest.mark.parametrize("found", [OURS, {}], ids=["ours", "none yet"])
def test_there_is_no_reason_to_stand_aside(found):
    assert not foreign.problem(found)


@pytest.mark.parametrize(
    "found",
    [THEIRS, definition("framework", version="v1"), {"spec": {"versions": [{"name": "v1alpha1"}]}}],
    ids=["other fields", "other version", "no schema"],
)
def test_a_foreign_definition_is_named_with_what_to_do(found):
    problem = foreign.problem(found)
    assert "dynamocheckpoints.nvidia.com is not this chart's" in problem
    assert "crds.install: true" in problem


def with_status(fields, types=("pvc", "s3")):
    found = definition("framework")
    status = {name: {"type": "string"} for name in fields} | {"storageType": {"enum": [*types]}}
    schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["status"] = {"properties": status}
    return found


@pytest.mark.parametrize(
    ("found", "lacks"),
    [
        (with_status(api.STATUS), ""),
        (with_status({*api.STATUS, "later"}), ""),
        (
            with_status(api.STATUS - {"claimName", "jobDigest"}),
            "lacks status.claimName, status.jobDigest: apply",
        ),
        (with_status(api.STATUS, types=["pvc"]), "lacks storageType s3: apply"),
        ({}, ""),
        (definition("framework"), ""),
    ],
)
def test_a_definition_of_an_older_chart_is_told_in_one_line(found, lacks):
    """Helm upgrades both together; where others apply the definition, they may forget it."""
    assert lacks in foreign.outdated(found, "s3")
    assert bool(foreign.outdated(found, "s3")) == bool(lacks)


@pytest.mark.parametrize(
    ("found", "types"),
    [
        (with_status(api.STATUS, types=["pvc", "oci"]), ("pvc", "oci")),
        (None, ()),
        (definition("framework"), ()),
    ],
)
def test_the_operator_knows_what_a_status_may_name(found, types):
    """It begins anew once the definition takes more."""
    cluster = SimpleNamespace(find=lambda path: found if path.endswith(api.CHECKPOINT_CRD) else None)
    assert foreign.served(cluster, foreign.definition(cluster)) == foreign.Served("", False, types)


class Log:
    def __init__(self):
        self.said = []

    def error(self, event, **fields):
        self.said.append((event, *fields.values()))

    info = error


def test_it_is_said_once_and_nothing_is_done_until_the_end():
    log, ended = Log(), threading.Event()
    ended.set()
    foreign.stand_aside(Cluster(THEIRS), "why", ended, log)
    assert log.said == [("operator on standby", "why")]


def test_the_operator_begins_anew_when_the_definition_is_ours(monkeypatch):
    monkeypatch.setattr(foreign, "_POLL_S", 0.01)
    exits = []

    def leave(code):
        exits.append(code)
        ended.set()

    monkeypatch.setattr("os._exit", leave)
    ended = threading.Event()
    foreign.stand_aside(Cluster(THEIRS, THEIRS, OURS), "why", ended, Log())
    assert exits == [0]
