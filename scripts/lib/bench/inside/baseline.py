"""The side that is another version of the launcher: its package with this one's dependencies, in a venv of its own."""

import compileall
import os
import shutil
import site
import sys

SOURCE, VENV = "/baseline", "/opt/baseline"
PYTHON = f"{VENV}/bin/python"


def install():
    """With everything compiled, as in an image."""
    packages = next(path for path in site.getsitepackages() if path.startswith(sys.prefix))
    target = packages.replace(sys.prefix, VENV)
    os.makedirs(target)
    os.makedirs(os.path.dirname(PYTHON))
    os.symlink(os.path.realpath(sys.executable), PYTHON)
    shutil.copy(f"{sys.prefix}/pyvenv.cfg", VENV)
    for name in os.listdir(packages):
        if not name.startswith("dynamo_entry"):
            os.symlink(f"{packages}/{name}", f"{target}/{name}")
    shutil.copytree(f"{SOURCE}/dynamo_entry", f"{target}/dynamo_entry")
    compileall.compile_dir(f"{target}/dynamo_entry", quiet=2)
