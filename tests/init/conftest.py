"""The suite's one fixture: ``start`` an engine under the launcher, as PID 1 and as a child of another init."""

from __future__ import annotations

import compileall
import fnmatch
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from differences import DIFFERENCES
from launchers import LAUNCHER, LAUNCHERS
from processes import Run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Not below /tmp, over which some tests mount something.
BUILD = ROOT / ".build" / "init"


def pytest_report_header():
    return f"launcher: {' '.join(LAUNCHER.group)} (LAUNCHER={'|'.join(LAUNCHERS)})"


def pytest_collection_modifyitems(items):
    for item in items:
        for pattern, difference in DIFFERENCES[LAUNCHER.name].items():
            if item.path.parent == HERE and fnmatch.fnmatchcase(item.name, pattern):
                item.add_marker(pytest.mark.xfail(reason=difference.why, strict=difference.always))


@pytest.fixture(scope="session")
def probe():
    BUILD.mkdir(parents=True, exist_ok=True)
    binary = BUILD / "probe"
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-o", binary, HERE / "probe.c"], check=True)
    return str(binary)


@pytest.fixture(scope="session")
def installed():
    """The launcher as an image has it: byte-compiled, outside the working tree."""
    target = BUILD / "installed"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        ROOT / "dynamo_entry", target / "dynamo_entry", ignore=shutil.ignore_patterns("__pycache__")
    )
    compileall.compile_dir(target, quiet=1)
    return target


@pytest.fixture(params=["pid1", "child"])
def mode(request):
    return request.param


@pytest.fixture
def start(mode, probe, installed, tmp_path):
    started = []

    def run(*command, target="group", env=None, settings=None, prefix=(), **options):
        settings = dict(settings or {})
        if LAUNCHER.python and target != "engine":
            settings["SIGNAL_TARGET"] = target
        variables = {
            "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(installed),
            **{f"DYNAMO_CHECKPOINT_{name}": value for name, value in settings.items()}, **(env or {}),
        }  # fmt: skip
        options.setdefault("cwd", tmp_path)
        started.append(
            Run(
                command,
                LAUNCHER.command(target),
                mode=mode,
                probe=probe,
                prefix=prefix,
                env=variables,
                **options,
            )
        )
        return started[-1]

    yield run
    for each in started:
        each.close()
