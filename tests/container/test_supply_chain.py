"""The image says what is in it, and takes nothing from elsewhere later."""

import json
import re
import subprocess

from containers import ENGINE, MACHINE, WORKER

SBOM = "/opt/dynamo_entry/sbom"
INSTALLED = """
import importlib.metadata as m, sys
print("\\n".join(d.metadata["Name"] + "==" + d.version for d in m.distributions(path=[p for p in sys.path if p.startswith("/opt/")])))
"""


def inside(*command):
    done = subprocess.run(
        ["timeout", "-s", "KILL", "60", ENGINE, "run", "--rm", "--network=none", *MACHINE, "--entrypoint", command[0], WORKER,
         *command[1:]],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def components(name):
    return json.loads(inside("cat", f"{SBOM}/{name}.cdx.json"))["components"]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_python_package_is_in_the_sbom_with_its_hashes():
    listed = {(plain(one["name"]), one.get("version")): one for one in components("python")}
    installed = {
        (plain(name), version)
        for name, _, version in (
            line.partition("==") for line in inside("/opt/dynamo_entry/bin/python", "-c", INSTALLED).split()
        )
        if name not in ("pip", "setuptools", "dynamo-entry", "dynamo_entry")
    }
    assert installed
    assert installed <= listed.keys()
    for key in installed:
        assert any("hashes" in one for one in listed[key]["externalReferences"]), key


def test_every_debian_package_is_in_the_sbom():
    listed = {(one["name"], one["version"]) for one in components("debian") if "version" in one}
    installed = {
        tuple(line.split())
        for line in inside("dpkg-query", "-W", "-f", "${Package} ${Version}\n").splitlines()
    }
    assert {"criu", "python3-pycriu"} <= {name for name, _ in installed}
    assert installed <= listed


def test_later_installs_take_nothing_from_sid():
    assert "sid" not in inside(
        "sh", "-c", "cat /etc/apt/sources.list.d/* /etc/apt/preferences.d/* 2>/dev/null || true"
    )
