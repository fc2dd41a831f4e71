"""Types that threads decode were analysed by msgspec before there were threads."""

import subprocess
import sys

#: Prints the structures of these packages that msgspec has not analysed once everything is imported.
LISTED = """
import gc, importlib, pkgutil, msgspec
import dynamo_entry.archive, dynamo_entry.kube

def kinds(kind):
    for below in kind.__subclasses__():
        yield below
        yield from kinds(below)

for package in (dynamo_entry.archive, dynamo_entry.kube):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
for kind in kinds(msgspec.Struct):
    if kind.__module__.startswith(("dynamo_entry.archive", "dynamo_entry.kube")):
        if not any(type(one).__name__ == "StructInfo" for one in gc.get_referents(kind)):
            print(kind.__module__, kind.__qualname__)
"""


def test_what_threads_decode_is_known_from_the_start():
    """Two threads that decode a type for the first time at once end the process: msgspec shows one what the other has half done."""
    said = subprocess.run(
        [sys.executable, "-c", LISTED], check=True, capture_output=True, text=True, timeout=60
    )
    found = {tuple(line.split()) for line in said.stdout.splitlines()}
    read_by_the_main_thread = {one for one in found if one[0] == "dynamo_entry.kube.config"}
    only_made = {("dynamo_entry.archive.manifest", "Manifest"), ("dynamo_entry.kube.podtemplate", "_Part")}
    assert found - read_by_the_main_thread == only_made
