"""The rooms of the package depend on each other in one direction."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dynamo_entry"


def room(parts):
    """The folder of a module below the package, or the module itself where it is at the top."""
    return parts[0] if (PACKAGE / parts[0]).is_dir() else f"{parts[0]}.py"


def modules(path):
    """What a file names in its imports, dotted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dynamo_entry"):
            for alias in node.names:
                yield [*node.module.split(".")[1:], alias.name]


def check_order(graph):
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as cycle:
        pytest.fail(" imports ".join(reversed(cycle.args[1])))


def test_no_folder_imports_one_that_imports_it():
    graph = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        here = room([part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts])
        graph[here] |= {room(parts) for parts in imported(path)} - {here, "__version__.py"}
    check_order(graph)


def test_no_module_imports_one_that_imports_it():
    """Nor for its types alone."""
    files = {}
    for path in PACKAGE.rglob("*.py"):
        files[(path.parent if path.stem == "__init__" else path.with_suffix("")).relative_to(PACKAGE)] = path
    graph = {}
    for here, path in files.items():
        named = (Path(*parts) for parts in imported(path))
        graph[str(here)] = {
            str(one if one in files else one.parent) for one in named if one in files or one.parent in files
        }
    check_order(graph)


def test_no_test_module_is_imported():
    """What tests, and scripts that run what tests run, share is in tests/support."""
    files = [*(ROOT / "tests").rglob("*.py"), *PACKAGE.rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert files
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in modules(path)
        if name.split(".")[-1].startswith("test_")
    ]
    assert not found


def test_unit_tests_import_nothing_that_another_part_installs():
    """They run first, in a new environment: ``tests/support/servers/install`` adds the libraries of the clouds."""
    later = {"adlfs", "gcsfs"}
    found = {
        f"{path.name}: {name}"
        for path in (ROOT / "tests/unit").rglob("*.py")
        for name in modules(path)
        if name.split(".")[0] in later
    }
    assert not found
