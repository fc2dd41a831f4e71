"""What PID 1 and its worker say to each other: one JSON object a line, each a type of this module.

Standard library only, and not imported by a plain cold start. Up, on the worker's descriptor 3: Began, Moved,
StartEngine, Result. Down, on its standard input: Sources, EngineIs, EngineGone, ChildGone, Taken, Release.
"""

from __future__ import annotations

from dynamo_entry.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Verbs:
    """What a worker is started for: the names of its modules."""

    CREATE = "create"
    RESTORE = "restore"
    UNDO = "undo"
    RELEASE = "release"


class Phases:
    """Where a launcher is; what operators, logs and result objects know them by."""

    RESOLVE, SETTINGS, START = "resolve", "settings", "start"
    PREPARE, WAIT_READY, CANARY, PRE_DUMP = "prepare", "wait-ready", "canary", "pre-dump"
    FREEZE, GPU, DUMP, DELTA, PUBLISH, THAW = "freeze", "gpu", "dump", "delta", "publish", "thaw"
    WAKE = "wake"
    OPEN, CHECK, PLAN, REBUILD, FILL, SETTLE = "open", "check", "plan", "restore", "fill", "settle"

    #: the engine is (being) frozen
    FROZEN = frozenset((FREEZE, GPU, DUMP, DELTA, PUBLISH, THAW))


class Outcomes:
    """How it went."""

    PUBLISHED, EXISTS, RESTORED, COLD, FAILED = "published", "exists", "restored", "cold", "failed"
    UNDONE, RELEASED = "undone", "released"

    #: stand, whatever goes wrong afterwards
    FINAL = frozenset((PUBLISHED, EXISTS, RESTORED))


class Message(Value):
    """One line."""

    def encode(self) -> bytes:
        """The line, with its end."""
        import json  # noqa: PLC0415 - PID 1 needs it once there is a worker, and both load at the same time

        return json.dumps({"kind": type(self).__name__, **self._asdict()}, default=str).encode() + b"\n"


class Began(Message):
    """A phase began, with limits in seconds; 0: none for the whole of it, STALL_TIMEOUT for standing still."""

    phase: str
    limit_s: float = 0
    stall_s: float = 0


class Moved(Message):
    """The phase is this far. The same number twice is no progress."""

    done: int


class StartEngine(Message):
    """The worker is set up: the engine may be started, with these variables set, or withheld where None.

    ``pauses_in``: the directory in which it waits for the word to go on; empty of one that does not.
    """

    environment: dict[str, str | None]
    pauses_in: str = ""


class Result(Message):
    """How it went; ``exit_code`` is that of a failure.

    For a restore: the ``pid`` of the engine, and the path where it is remembered that this archive is no good.
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
        """The result object: what is known, for people and operators."""
        shown = {**self._asdict(), "exit_code": None, "pid": None, "refusal": ""}
        return {name: value for name, value in shown.items() if value not in ("", None)}

    def facts(self) -> dict[str, Any]:
        """What the log says of an archive."""
        return {name: getattr(self, name) for name in ("location", "digest", "size_bytes", "seconds")}


class Sources(Message):
    """Where the archive is to be looked for, in this order."""

    locations: list[str]


class EngineIs(Message):
    """The engine was started."""

    pid: int


class EngineGone(Message):
    """The engine ended, or could not be started."""


class Taken(Message):
    """The restored engine is PID 1's from now on, whatever becomes of the worker."""


class Release(Message):
    """The engine of a creation whose worker was lost. ``may_sleep``: PRE_DUMP was called."""

    pid: int
    may_sleep: bool


class ChildGone(Message):
    """A child of PID 1 ended in a restore: CRIU, or what it made."""

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

#: Of a process.
_CODES = range(1, 256)


def decode(line: bytes) -> Message | None:
    """The message of a line; None for anything else: garbage must not get any further than this."""
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
    """Whether PID 1 can do what follows: supervise an engine, end with a code that says that something failed."""
    if result.result == Outcomes.RESTORED:
        return result.pid > 0
    return result.result != Outcomes.FAILED or result.exit_code in _CODES
