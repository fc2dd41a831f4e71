"""The same containers as the container tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

from conftest_shared import containers, worker_image  # noqa: F401
