"""What pip installs in images and scripts has the hash that is on record, or was made by the build itself."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_PIP = re.compile(r"\bpip3? (?:--\S+ \S+ )?(?:install|wheel|download) [^&|\n]*")


def test_nothing_is_installed_that_is_not_pinned():
    """However a command is broken over lines, or quoted."""
    found = {}
    for folder in ("images", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in ("", ".py", ".sh", ".source", ".operator"):
                text = re.sub("[\"',]", "", path.read_bytes().decode("utf-8", "replace")).replace("\\\n", " ")
                found |= {command: path.relative_to(ROOT) for command in _PIP.findall(text)}
    assert len(found) > 10
    assert not {
        str(path): command
        for command, path in found.items()
        if "--require-hashes" not in command and "--no-index" not in command
    }
