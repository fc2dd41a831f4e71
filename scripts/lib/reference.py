"""docs/reference.md: every variable and exit code, made from the code. ``scripts/reference`` writes it, a test compares."""

from __future__ import annotations

from pathlib import Path

from dynamo_entry import errors
from dynamo_entry.errors import CheckpointError
from dynamo_entry.settings import PREFIX, VARIABLES, Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"

HEAD = f"""<!-- Made by scripts/reference from dynamo_entry/settings.py and dynamo_entry/errors.py. Do not edit. -->
# Reference

## Variables

Every name begins with `{PREFIX}`; times are in seconds. `dynamo-entry --help` prints this list.

| variable | default | meaning |
|---|---|---|
"""

MODES = """
With `MODE=auto`: if `SIGNAL_FILE` is set, create; else if `PATH` or `LOCATION` is set, restore; else cold. The engine sees
none of these variables, because its environment becomes part of the archive; except `SIGNAL_FILE` (in a creation, and with
`MODE=cold`) and, in a creation, `DYNAMO_CHECKPOINT_MODE=cold`, which an engine that is itself a launcher needs.

## Exit codes

The container exits with the engine's code (128 + N if signal N ended it). The launcher also has its own codes, which it
uses in creation mode and with `ON_FAILURE=fail`:

| code | meaning | retry |
|---|---|---|
| 126, 127 | The command is not executable, or not found | no |
"""

REST = """
Each comes with a reason; [troubleshooting.md](troubleshooting.md) says what to do.

## Log

The log goes to standard error: one JSON object a line, or text on a terminal. Each phase ends with one event that has its
`seconds` and `bytes`; a long phase logs `in progress` every five seconds. One closing line gives the outcome: `Checkpoint published`,
`Checkpoint exists already`, `Checkpoint not created`, `Restored`, `Falling back to cold start`, `Restore failed` (with
`ON_FAILURE=fail`) or `Restore called off`.

## Result object

The launcher also writes the outcome to the container's termination message (`STATUS_FILE`), as one JSON object of at most
3 KiB.

| field | |
|---|---|
| `result` | `published`, `exists`, `restored`, `cold` or `failed` |
| `phase` | the last phase that began |
| `reason`, `message` | what failed, what was expected, what to do |
| `retry` | whether the same attempt may succeed later |
| `location`, `digest`, `size_bytes` | the archive |
| `seconds` | the duration of each phase |
| `engine_code` | the engine's exit code (128 + N for signal N), if the engine's end is what failed |
| `elapsed_s` | seconds since the launcher started |
| `v` | version of this object: 1 |
"""


def page() -> str:
    """The whole document."""
    return HEAD + "\n".join(_variables()) + "\n" + MODES + "\n".join(_codes()) + "\n" + REST


def _variables() -> list[str]:
    defaults = Settings()._asdict()
    return [
        f"| `{name}` | {_shown(defaults[name.lower()])} | {variable.help} |"
        for name, variable in VARIABLES.items()
    ]


def _shown(default: object) -> str:
    if type(default) in (int, float):
        return f"`{default:g}`"
    if isinstance(default, tuple):
        default = ",".join(default)
    return f"`{default}`" if default else ""


def _codes() -> list[str]:
    """One row a code: the class that has it first, in the order in which errors.py defines them."""
    kinds: dict[int, type[CheckpointError]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, CheckpointError) and kind is not CheckpointError:
            kinds.setdefault(kind.exit_code, kind)
    return [
        f"| {code} | {_first_line(kind)} | {'yes' if kind.retry else 'no'} |"
        for code, kind in sorted(kinds.items())
    ]


def _first_line(kind: type[CheckpointError]) -> str:
    return (kind.__doc__ or "").splitlines()[0].rstrip(".")


if __name__ == "__main__":
    PAGE.write_text(page())
