"""The documents say what the code does, and a reader finds them from the README."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"


def test_the_reference_is_made_from_the_code():
    made = runpy.run_path(str(ROOT / "scripts/lib/reference.py"))
    assert (DOCS / "reference.md").read_text() == made["page"](), "run scripts/reference"


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= 1200


def test_every_document_is_one_click_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", README.read_text()))
    assert {path.name for path in DOCS.glob("*.md")} - linked == set()


def test_every_relative_link_leads_somewhere():
    broken = {
        f"{page.name}: {target}"
        for page in (README, *DOCS.glob("*.md"))
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    }
    assert broken == set()
