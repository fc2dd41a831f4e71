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
The mode is inferred: `SIGNAL_FILE` is set → create; else `PATH` or `LOCATION` is set → restore; else cold. `MODE`
overrides. An engine sees none of these variables, except `SIGNAL_FILE` during a creation: its environment becomes part
of the archive.

## Exit codes

The engine's exit code is the container's; death by signal N is 128 + N. The launcher has codes of its own, used in
creation mode and with `ON_FAILURE=fail`:

| code | meaning | retry |
|---|---|---|
| 126, 127 | the command is not executable, not found | no |
"""

REST = """
The reasons that come with them, and what to do: [troubleshooting.md](troubleshooting.md).

## Log

One JSON object a line on standard error; text on a terminal. Each phase ends with one event that has its `seconds` and
`bytes`; a long phase logs `in progress` every five seconds. One closing line says how it went: `Checkpoint published`,
`Checkpoint exists already`, `Checkpoint not created`, `Restored` or `Falling back to cold start`.

## Result object

The same result goes to the container's termination message (`STATUS_FILE`), as one JSON object of at most 3 KiB.

| field | |
|---|---|
| `result` | `published`, `exists`, `restored`, `cold` or `failed` |
| `phase` | the last phase |
| `reason`, `message`, `retry` | what failed, what was expected, what to do; whether a retry can help |
| `location`, `digest`, `size_bytes` | of the archive |
| `seconds` | of each phase |
| `engine_code` | the engine's exit code (128 + N for signal N), where its end is what failed |
| `elapsed_s` | since the launcher started |
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
