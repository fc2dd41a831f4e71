"""Variables of the image that are the engine's: neither the launcher nor CRIU is led astray by them."""

import subprocess

import pytest
from containers import CREATE, RESTORE
from launcher import create

from engines import Engine

TEXT = 'print("at start", os.environ.get(sys.argv[1]), flush=True)\nwait()\ndone(os.environ.get(sys.argv[1]))'


def library(directory, soname):
    """A library of that name in which nothing is."""
    directory.mkdir(exist_ok=True)
    (directory / "empty.c").write_text("")
    subprocess.run(
        ["cc", "-shared", f"-Wl,-soname,{soname}", "-o", directory / soname, directory / "empty.c"],
        check=True,
    )
    return ("-v", f"{directory}:/theirs:ro")


def cases(tmp_path):
    shadowed = tmp_path / "python"
    shadowed.mkdir()
    for module in (
        "json",
        "signal",
        "select",
        "dataclasses",
        "subprocess",
        "msgspec",
        "psutil",
        "sitecustomize",
    ):
        (shadowed / f"{module}.py").write_text("raise SystemExit(3)\n")
    python = ("-v", f"{shadowed}:/py:ro")
    return {
        "PYTHONHOME": ("/opt/engine-python", ()),
        "PYTHONPATH": ("/py", python),
        "PYTHONSTARTUP": ("/py/json.py", python),
        "PYTHONINSPECT": ("1", ()),
        "PYTHONWARNINGS": ("error", ()),
        "PYTHONPLATLIBDIR": ("nowhere", ()),
        "LD_LIBRARY_PATH": ("/theirs", library(tmp_path / "theirs", "libprotobuf-c.so.1")),
        "LD_PRELOAD": ("/theirs/libprotobuf-c.so.1", library(tmp_path / "theirs", "libprotobuf-c.so.1")),
        "LD_BIND_NOW": ("1", ()),
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": ("rust", ()),
        "GLIBC_TUNABLES": ("glibc.malloc.check=3", ()),
    }


@pytest.mark.parametrize(
    "name",
    ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONWARNINGS", "PYTHONPLATLIBDIR",
     "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_BIND_NOW", "GLIBC_TUNABLES", "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"],
)  # fmt: skip
def test_the_engine_has_it_and_the_launcher_has_not(containers, tmp_path, name):
    value, options = cases(tmp_path)[name]
    engine = Engine(containers, TEXT, name)
    engine.command = ("env", "-u", "X", "sh", "-c", 'exec python3 -I "$@"', "sh", *engine.command[1:])
    how = {"env": {name: value}}
    creator = engine.created(options=(*CREATE, *options), **how)
    assert f"at start {value}" in creator.stdout
    container = engine.restored(options=(*RESTORE, *options), **how)
    assert f"after {value}" in container.stdout, container.output()


def test_a_cold_start_with_pythonhome(containers):
    container = containers.start("sh", "-c", "echo $PYTHONHOME", env={"PYTHONHOME": "/opt/engine-python"})
    assert container.exit_code() == 0, container.output()
    assert container.stdout == "/opt/engine-python\n"


def test_what_the_loader_says_where_criu_cannot_start(containers, tmp_path):
    """Not a variable: the image's own list of directories leads CRIU to a library that it was not built with."""
    options = library(tmp_path / "theirs", "libprotobuf-c.so.1")
    replace = 'cp /theirs/libprotobuf-c.so.1 "$(ldconfig -p | sed -n "s/.*libprotobuf-c.so.1.*=> //p")"'
    start = "exec /opt/dynamo_entry/bin/python -I -m dynamo_entry -- sleep 60"
    creator = create(
        containers, command=("-c", f"{replace}; {start}"), options=("--entrypoint", "sh", *CREATE, *options)
    )
    event = creator.wait_for_event("Checkpoint not created")
    assert event["reason"] == "CriuBroken" and "symbol" in event["message"], creator.output()
