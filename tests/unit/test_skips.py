"""What CI makes of a test that is skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).resolve().parents[1] / "support"

#: Two ways to skip a test, one to skip a module, and a test that is expected to fail.
SKIPPED = {
    "in the test": "import pytest\ndef test_x():\n    pytest.skip('{reason}')",
    "by a mark": "import pytest\n@pytest.mark.skipif(True, reason='{reason}')\ndef test_x():\n    pass",
    "the module": "import pytest\npytest.skip('{reason}', allow_module_level=True)",
}


def run(directory, code, **env):
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_x.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "skips", "-p", "no:cacheprovider", directory],
        env={**{name: value for name, value in os.environ.items() if name != "CI"}, "PYTHONPATH": SUPPORT,
             "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("way", SKIPPED)
def test_in_ci_what_is_missing_fails(tmp_path, way):
    code, output = run(tmp_path, SKIPPED[way].format(reason="needs a server"), CI="true")
    assert code in (1, 2), output
    assert "skipped in CI" in output
    assert "needs a server" in output


@pytest.mark.parametrize(
    ("code", "env"),
    [
        (SKIPPED["in the test"].format(reason="needs a server"), {}),
        (SKIPPED["in the test"].format(reason="forgotten: not on this machine: no huge pages"), {"CI": "true"}),
        ("import pytest\n@pytest.mark.xfail\ndef test_x():\n    raise OSError", {"CI": "true"}),
    ],
    ids=["elsewhere", "what no installation brings", "a failure that is expected"],
)  # fmt: skip
def test_else_it_is_skipped(tmp_path, code, env):
    found, output = run(tmp_path, code + "\ndef test_y():\n    pass", **env)
    assert found == 0, output
    assert "1 passed" in output
