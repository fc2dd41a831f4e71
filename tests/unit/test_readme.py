"""The README's list of variables is the one that the launcher reads."""

import re
from pathlib import Path

from dynamo_entry.settings import VARIABLES, Settings

README = Path(__file__).resolve().parents[2] / "README.md"


def table() -> str:
    defaults = Settings()._asdict()
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, variable in VARIABLES.items():
        default = defaults[name.lower()]
        shown = f"`{default:g}`" if type(default) in (int, float) else f"`{default}`" if default else ""
        rows.append(f"| `{name}` | {shown} | {variable.help} |")
    return "\n".join(rows)


def test_every_variable_is_in_the_readme():
    """With its default and its help; what is to be pasted is in the failure."""
    found = re.search(
        r"<!-- environment: begin -->\n(.*)\n<!-- environment: end -->", README.read_text(), re.DOTALL
    )
    assert found is not None
    assert found[1] == table(), table()
