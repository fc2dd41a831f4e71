"""Every parser takes or refuses whatever it is fed, at little cost: what was found first, then new inputs, for some seconds.

The same inputs every time, as far as the time reaches; scripts/fuzz takes others, for longer.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from containers import ENGINE, MACHINE, ROOT, WORKER

TARGETS = Path(__file__).parent / "targets"
NAMES = sorted(
    path.stem for path in TARGETS.glob("*.py") if "SEEDS" in path.read_text() and path.stem != "__init__"
)
RESULTS = ROOT / ".build" / "fuzz"

SECONDS = float(os.environ.get("FUZZ_SECONDS", "10"))
SEED = os.environ.get("FUZZ_SEED", "0")

#: Those that need what only a worker image has.
IN_A_CONTAINER = {"images"}


def command(target, found):
    arguments = [target, "--seconds", str(SECONDS), "--seed", SEED, "--found"]
    if target not in IN_A_CONTAINER:
        return [sys.executable, str(ROOT / "tests/fuzz/fuzz.py"), *arguments, str(found)]
    return [
        "timeout", "-s", "KILL", str(SECONDS + 120), ENGINE, "run", "--rm", "--network", "none", *MACHINE,
        "-v", f"{ROOT}/tests:/src/tests:ro", "-v", f"{ROOT}/dynamo_entry:/src/dynamo_entry:ro", "-v", f"{found}:/found",
        "--entrypoint", "/opt/dynamo_entry/bin/python", WORKER, "/src/tests/fuzz/fuzz.py", *arguments, "/found",
    ]  # fmt: skip


@pytest.mark.timeout(SECONDS + 180)
@pytest.mark.parametrize("target", NAMES)
def test_whatever_it_is_fed(target):
    found = RESULTS / "found"
    found.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command(target, found), check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS + 150
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    (RESULTS / f"{target}.json").write_text(json.dumps(figures))
    print(figures)
    assert figures["inputs"] > 20  # boto3 takes its time
    assert 0 < figures["refused"] < figures["inputs"] or target == "build_id"
