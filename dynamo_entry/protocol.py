"""The messages between PID 1 and its worker: one JSON object a line, each a type of this module.

Standard library only; a plain cold start does not import it. The worker sends on descriptor 3: Began, Moved,
StartEngine, Result. PID 1 sends to the worker's standard input: Sources, EngineIs, EngineGone, ChildGone,
Taken, Release.
"""

from __future__ import annotations

from dynamo_entry.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Verbs:
    """The tasks of a worker; each is the name of a module in ``worker``."""

    CREATE = "create"
    RESTORE = "restore"
    UNDO = "undo"
    RELEASE = "release"


class Phases:
    """The phases of the launcher, under the names that operators, logs and result objects show."""

    RESOLVE, SETTINGS, START = "resolve", "settings", "start"
    PREPARE, WAIT_READY, CANARY, PRE_DUMP = "prepare", "wait-ready", "canary", "pre-dump"
    FREEZE, GPU, DUMP, DELTA, PUBLISH, THAW = "freeze", "gpu", "dump", "delta", "publish", "thaw"
    WAKE = "wake"
    OPEN, CHECK, PLAN, REBUILD, FILL, SETTLE = "open", "check", "plan", "restore", "fill", "settle"

    #: the engine is (being) frozen
    FROZEN = frozenset((FREEZE, GPU, DUMP, DELTA, PUBLISH, THAW))


class Outcomes:
    """The possible values of ``result``."""

    PUBLISHED, EXISTS, RESTORED, COLD, FAILED = "published", "exists", "restored", "cold", "failed"
    UNDONE, RELEASED = "undone", "released"

    #: outcomes that hold, whatever goes wrong afterwards
    FINAL = frozenset((PUBLISHED, EXISTS, RESTORED))


class Message(Value):
    """Base of all messages; one message is one line."""

    def encode(self) -> bytes:
        """Return the message as a line, newline included."""
        import json  # noqa: PLC0415 - PID 1 loads it only for a worker, while the worker itself loads

        return json.dumps({"kind": type(self).__name__, **self._asdict()}, default=str).encode() + b"\n"


class Began(Message):
    """A phase began, with its limits in seconds. 0: no limit for the phase as a whole, STALL_TIMEOUT for a stall."""

    phase: str
    limit_s: float = 0
    stall_s: float = 0


class Moved(Message):
    """The phase has reached this number. The same number again counts as no progress."""

    done: int


class StartEngine(Message):
    """The worker is set up: start the engine with these variables; None withholds a variable.

    ``pauses_in`` is the directory in which the engine waits for permission to continue; empty if it does not
    pause.
    """

    environment: dict[str, str | None]
    pauses_in: str = ""


class Result(Message):
    """The outcome; ``exit_code`` is that of a failure.

    For a restore it also has the ``pid`` of the engine, and the path under which a later failure of this
    archive is recorded.
    """

    result: str
    phase: str
    reason: str = ""
    message: str = ""
    retry: bool | None = None
    seconds: dict[str, float] | None = None
    location: str = ""
    digest: str = ""
    size_bytes: int | None = None
    engine_code: int | None = None
    exit_code: int = 0
    pid: int = 0
    refusal: str = ""

    def reportable(self) -> dict[str, Any]:
        """Return the result object for people and operators: without empty fields, and without those for PID 1."""
        shown = {**self._asdict(), "exit_code": None, "pid": None, "refusal": ""}
        return {name: value for name, value in shown.items() if value not in ("", None)}

    def facts(self) -> dict[str, Any]:
        """Return the fields that the log shows about an archive."""
        return {name: getattr(self, name) for name in ("location", "digest", "size_bytes", "seconds")}


class Sources(Message):
    """The locations where the worker looks for the archive, in this order."""

    locations: list[str]


class EngineIs(Message):
    """The engine was started and has this pid."""

    pid: int


class EngineGone(Message):
    """The engine ended, or could not be started."""


class Taken(Message):
    """PID 1 owns the restored engine from now on, whatever happens to the worker."""


class Release(Message):
    """Release the engine of a creation whose worker was lost. ``may_sleep``: PRE_DUMP was called."""

    pid: int
    may_sleep: bool


class ChildGone(Message):
    """A child of PID 1 ended during a restore: CRIU, or a process that CRIU made."""

    pid: int
    code: int


_KINDS = {kind.__name__: kind for kind in Message.__subclasses__()}

_NONE = type(None)
#: Annotation → types of the value, and of the values in it.
_TYPES: dict[str, tuple[tuple[type, ...], tuple[type, ...]]] = {
    "str": ((str,), ()),
    "int": ((int,), ()),
    "bool": ((bool,), ()),
    "float": ((int, float), ()),
    "bool | None": ((bool, _NONE), ()),
    "int | None": ((int, _NONE), ()),
    "dict[str, float] | None": ((dict, _NONE), (int, float)),
    "dict[str, str | None]": ((dict,), (str, _NONE)),
    "list[str]": ((list,), (str,)),
}

#: Exit codes of a process.
_CODES = range(1, 256)


def decode(line: bytes) -> Message | None:
    """Decode a line. Returns None for anything that is not a valid message, so that garbage gets no further."""
    import json  # noqa: PLC0415 - as above

    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("kind")]
        message = kind(**fields)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    types: dict[str, str] = kind.__annotations__
    if not all(_is(getattr(message, name), *_TYPES[given]) for name, given in types.items()):
        return None
    return None if isinstance(message, Result) and not _makes_sense(message) else message


def _is(value: Any, types: tuple[type, ...], inside: tuple[type, ...]) -> bool:
    if not isinstance(value, types):
        return False
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(isinstance(each, inside) for each in values)


def _makes_sense(result: Result) -> bool:
    """Return whether PID 1 can act on it: supervise that engine, or exit with a code that means failure."""
    if result.result == Outcomes.RESTORED:
        return result.pid > 0
    return result.result != Outcomes.FAILED or result.exit_code in _CODES
