"""The rooms of the package depend on each other in one direction."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dynamo_entry"


def room(parts):
    """The folder of a module below the package, or the module itself where it is at the top."""
    return parts[0] if (PACKAGE / parts[0]).is_dir() else f"{parts[0]}.py"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dynamo_entry"):
            for alias in node.names:
                yield [*node.module.split(".")[1:], alias.name]


def test_no_folder_imports_one_that_imports_it():
    graph = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        here = room([part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts])
        graph[here] |= {room(parts) for parts in imported(path)} - {here, "__version__.py"}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as cycle:
        pytest.fail(" imports ".join(reversed(cycle.args[1])))
