"""The metrics' names are a contract: documented, by Prometheus' conventions, with labels that cannot grow."""

import re
from pathlib import Path

import pytest

from dynamo_entry.kube.metrics import AgentMetrics, OperatorMetrics

TEXT = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
TABLE = re.search(r"\n\| operator \| agent \|\n\|[-|]+\n((?:\|.*\n)+)", TEXT)[1]

LABELS = {"phase", "method", "code", "outcome", "reason"}


def documented(column):
    cells = (row.strip("|").split("|")[column] for row in TABLE.splitlines())
    return set(re.findall(r"`([^`]+)`", " ".join(cells)))


def exported(metrics):
    """Names and labels as the documentation writes them, by type."""
    found = {}
    for collector in metrics.registry._collector_to_names:
        total = "_total" if collector._type == "counter" else ""
        labels = ",".join(collector._labelnames)
        name = collector._name.removeprefix("dynamo_checkpoint_") + total
        found[name + (f"{{{labels}}}" if labels else "")] = collector
    return found


@pytest.mark.parametrize(("column", "metrics"), [(0, OperatorMetrics()), (1, AgentMetrics())])
def test_names(column, metrics):
    """All are documented, and no others; seconds and bytes are said so; labels are of a few words each."""
    found = exported(metrics)
    assert documented(column) == found.keys()
    for name, collector in found.items():
        assert collector._name.startswith("dynamo_checkpoint_")
        assert collector._type != "histogram" or name.endswith("_seconds")
        assert set(collector._labelnames) <= LABELS
