"""Every error and hint that people read, as it stands: a change of wording is seen in review.

``UPDATE=1 scripts/test unit test_error_texts.py`` writes the file anew.
"""

import ast
import os
from pathlib import Path

from dynamo_entry import errors

PACKAGE = Path(errors.__file__).parent
SNAPSHOT = Path(__file__).with_name("error_texts.txt")
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.CheckpointError)
}


def text(node):
    """A string as it is written, what is filled in as the expression in braces; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (
            value.value if isinstance(value, ast.Constant) else f"{{{ast.unparse(value.value)}}}"
            for value in node.values
        )
        return "".join(parts)
    return None


def spoken(call):
    """The message of an error, and a hint, wherever it is given."""
    if isinstance(call.func, ast.Name) and call.func.id in KINDS and call.args:
        yield "", text(call.args[0])
    for keyword in call.keywords:
        if keyword.arg == "hint":
            yield "hint: ", text(keyword.value)


def test_error_texts_are_those_that_were_reviewed():
    lines = []
    for path in sorted(PACKAGE.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        found = sorted({kind + said for call in calls for kind, said in spoken(call) if said})
        lines += [f"{path.relative_to(PACKAGE)}: {said}" for said in found]
    made = "\n".join(lines) + "\n"
    if os.environ.get("UPDATE"):
        SNAPSHOT.write_text(made)
    assert SNAPSHOT.read_text().splitlines() == lines, "UPDATE=1 writes it anew; read the difference"
