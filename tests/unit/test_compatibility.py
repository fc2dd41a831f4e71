"""docs/compatibility.md names tests that exist, every thing that is tested, and every reason to refuse."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS, CODE = ROOT / "tests", ROOT / "dynamo_entry"
TABLE = (ROOT / "docs" / "compatibility.md").read_text()

#: Where engines and places are refused.
REFUSING = (
    *(CODE / "checks").glob("*.py"),
    CODE / "criu" / "hints.py",
    CODE / "criu" / "rewrite" / "sockets.py",
)
REASON = re.compile(r'(?:reason=|, |else )"([A-Z][a-z]+(?:[A-Z][a-z]+)+)"')

#: Of a damaged archive, or of the launcher's own files: not of an engine or a place.
OTHERS = {"ImagesInvalid", "ContextNotWritten"}


def test_every_test_it_names_exists():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TABLE)
    assert named
    there = {
        (path.name, name)
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert set(named) - there == set()


def test_every_thing_of_the_messy_engine_is_in_it():
    things = {
        name
        for path in (TESTS / "container" / "messy").glob("*.py")
        for name in re.findall(r"@thing\ndef (\w+)\(", path.read_text())
    }
    assert things - {"credentials"} <= set(re.findall(r"`(\w+)`", TABLE))


def test_every_reason_to_refuse_has_a_row():
    reasons = {reason for path in REFUSING for reason in REASON.findall(path.read_text())}
    assert {"IoUring", "VolumeReadOnly", "ArchDiffers", "PidTaken"} <= reasons
    rows = set(re.findall(r"^\| `(\w+)` \|", TABLE, re.MULTILINE))
    assert reasons - rows - OTHERS == set()
