"""What is not the product's: a Python environment for the peers of the storage bench and for charts, and servers."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
EXPORT = [ROOT / "scripts/lib/requirements", "--only-group", "bench"]
PYTHON = ROOT / ".build/bench/bin/python"


def provide():
    """Made anew when the pins change."""
    stamp = PYTHON.parents[1] / ".lock"
    wanted = subprocess.run(EXPORT, check=True, text=True, stdout=subprocess.PIPE).stdout
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", PYTHON.parents[1]], check=True)
        pins = PYTHON.parents[1] / "requirements.txt"
        pins.write_text(wanted)
        subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--require-hashes", "-r", pins], check=True)
        stamp.write_text(wanted)


def provide_servers():
    """Those of the storage tests, and rclone."""
    subprocess.run([ROOT / "tests/support/servers/install"], check=True, stdout=sys.stderr)
