"""Reads the environment into Settings: every variable with its type and default; reports all mistakes at once.

Standard library only and cheap to import, because PID 1 reads its settings here. Nothing else in the package
reads ``DYNAMO_CHECKPOINT_*``.
"""

from __future__ import annotations

from dynamo_entry.errors import SettingsError
from dynamo_entry.value import Value

TYPE_CHECKING = False  # what is imported for types alone costs PID 1 nothing
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

PREFIX = "DYNAMO_CHECKPOINT_"

#: Kubernetes shows what is written here as the container's termination message.
TERMINATION_LOG = "/dev/termination-log"


_NOTHING: Mapping[str, Any] = {}

#: The longest path of the kernel (PATH_MAX); no store has longer names.
_LONGEST_PATH = 4095

#: The hash and ``.tar`` are a file name (NAME_MAX).
_LONGEST_HASH = 200

#: Longer times mean for ever, and exceed what sockets, the kernel and the driver accept.
_LONGEST_S = 30 * 24 * 3600

#: Where files are interfaces of the kernel. /dev/shm is an exception: it is shared memory.
_KERNEL_PATHS = ("/proc/", "/sys/", "/dev/")

#: How much of a wrong value a message repeats.
_SHOWN = 200

#: More threads than this are a mistake, and take longer to start than they would save.
_MOST_THREADS = 1024


class Settings(Value):
    """What the user configured. Times are in seconds; an empty string means "not set"."""

    storage_type: str = ""
    storage_options: Mapping[str, Any] = _NOTHING
    location: str = ""
    path: str = ""
    hash: str = ""
    signal_file: str = ""
    mode: str = "auto"
    on_failure: str = "cold"
    after_dump: str = "exit"
    ready_url: str = ""
    force: bool = False
    wait: float = 0
    signal_timeout: float = 3600
    dump_timeout: float = 0
    restore_timeout: float = 0
    stall_timeout: float = 60
    gpu_timeout: float = 0
    min_uptime: float = 10
    stop_grace: float = 5
    signal_target: str = "engine"
    compression: str = "auto"
    concurrency: int = 0
    protocol: str = "auto"
    pre_dump: str = ""
    post_restore: str = ""
    canary: str = ""
    preset: str = "auto"
    engine_connections: str = "close"
    exclude_paths: tuple[str, ...] = ()
    capture_paths: tuple[str, ...] = ()
    cache_directories: tuple[str, ...] = ("__pycache__",)
    reopen_paths: tuple[str, ...] = ()
    drop_env: tuple[str, ...] = ()
    status_file: str = TERMINATION_LOG
    log_format: str = "auto"
    log_level: str = "info"
    work_dir: str = ""
    state_dir: str = ""
    node_cache_dir: str = ""
    digest: str = ""
    key_file: str = ""
    sign_key_file: str = ""
    verify_key_file: str = ""
    ca_file: str = ""
    credentials_dir: str = ""


def _text(value: str) -> str:
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return value

    return parse


def _flag(value: str) -> bool:
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("expected 1 or 0, true or false")


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise ValueError("expected a number of seconds, 0 or more")
    return min(seconds, _LONGEST_S)


def _seconds_or_never(value: str) -> float:
    return _seconds(value) or float("inf")


def _threads(value: str) -> int:
    if not value.isdecimal() or len(value) > len(str(_MOST_THREADS)) or int(value) > _MOST_THREADS:
        raise ValueError(f"expected a whole number from 0 to {_MOST_THREADS}")
    return int(value)


def _location(value: str) -> str:
    if len(value.encode()) > _LONGEST_PATH:
        raise ValueError(f"expected at most {_LONGEST_PATH} bytes")
    return value


def _absolute(value: str) -> str:
    """Normalise an absolute path: drop empty and ``.`` parts."""
    if not value.startswith("/"):
        raise ValueError("expected an absolute path")
    return "/" + "/".join(part for part in _location(value).split("/") if part not in ("", "."))


def _hash(value: str) -> str:
    if "/" in value or not value.isprintable() or len(value.encode()) > _LONGEST_HASH:
        raise ValueError(f"expected at most {_LONGEST_HASH} printable characters without a slash")
    return value


def _paths(value: str) -> tuple[str, ...]:
    paths = tuple(_absolute(part) for part in value.split(":") if part)
    if any(".." in path.split("/") for path in paths):
        raise ValueError("expected paths without '..'")
    return paths


def _capturable(value: str) -> tuple[str, ...]:
    paths = _paths(value)
    if any(f"{path}/".startswith(_KERNEL_PATHS) and not f"{path}/".startswith("/dev/shm/") for path in paths):
        raise ValueError("expected no paths in /proc, /sys or /dev, whose files are the kernel's")
    return paths


def _names(value: str) -> tuple[str, ...]:
    return tuple(value.replace(",", " ").split())


def _variables(value: str) -> tuple[str, ...]:
    names = _names(value)
    if any("=" in name for name in names):
        raise ValueError("expected names of variables, without values")
    return names


def _directory_names(value: str) -> tuple[str, ...]:
    names = tuple(name.rstrip("/") for name in _names(value))
    if any(not name or "/" in name for name in names):
        raise ValueError("expected names of directories, not paths")
    return names


def _compression(value: str) -> str:
    kind, _, level = value.partition(":")
    if kind not in ("auto", "none", "planes", "zstd") or (
        level and (kind != "zstd" or not level.lstrip("-").isdecimal())
    ):
        raise ValueError("expected auto, none, planes, zstd or zstd:LEVEL")
    return value


def _digest(value: str) -> str:
    kind, _, digits = value.partition(":")
    if kind != "blake3" or len(digits) != 64 or digits.strip("0123456789abcdef"):
        raise ValueError("expected blake3: and 64 hexadecimal digits")
    return value


def _url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("expected an http:// or https:// URL")
    return value


def _options(value: str) -> Mapping[str, Any]:
    import json  # noqa: PLC0415 - for those who set it

    try:
        options = json.loads(value)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("not usable: too deeply nested") from None
    if not isinstance(options, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - the text is invalid, not its type
    return options


class Variable(Value):
    """One environment variable: its parser, and its meaning as ``--help`` prints it."""

    parse: Callable[[str], Any]
    help: str
    is_secret: bool = False


#: Protocols that are a hook before the dump.
_HOOKS = ("vllm-checkpoint", "vllm-sleep", "sglang-release")

VARIABLES: dict[str, Variable] = {
    "STORAGE_TYPE": Variable(
        _one_of("pvc", "s3", "oci", "gcs", "azure", "fsspec"),
        "pvc, s3, oci, gcs, azure or fsspec; must agree with LOCATION; fsspec takes any URI",
    ),
    "STORAGE_OPTIONS": Variable(
        _options,
        "JSON object: arguments for the store's fsspec library, or for new objects in S3 (boto3); hidden from the engine",
        is_secret=True,
    ),
    "LOCATION": Variable(
        _location, "location of the archive: /dir/<hash>.tar, s3://…, oci://…, gs://…, az://…"
    ),
    "PATH": Variable(_absolute, "local path of the archive, or of a copy, which is tried before LOCATION"),
    "HASH": Variable(
        _hash, "identity of the checkpoint, chosen by you; an archive with another one is refused"
    ),
    "SIGNAL_FILE": Variable(
        _absolute, "file that the engine creates once it is ready; selects creation mode"
    ),
    "MODE": Variable(
        _one_of("auto", "create", "restore", "cold"),
        "create, restore, cold (no checkpoint) or auto: inferred from SIGNAL_FILE, PATH and LOCATION",
    ),
    "ON_FAILURE": Variable(
        _one_of("cold", "fail"),
        "after a failed restore: cold starts the engine, fail exits with the error's code",
    ),
    "AFTER_DUMP": Variable(
        _one_of("exit", "continue"), "after a creation: exit ends with code 0, continue keeps serving"
    ),
    "READY_URL": Variable(
        _url,
        "URL polled until it returns 200: the engine is ready; recorded, so that restoring pods without one ask there, too",
    ),
    "FORCE": Variable(_flag, "1: create even if a valid archive exists, and replace it"),
    "WAIT": Variable(_seconds, "how long a restore waits for an archive that does not exist yet"),
    "SIGNAL_TIMEOUT": Variable(
        _seconds_or_never, "how long a creation waits for the engine to become ready; 0 = for ever"
    ),
    "DUMP_TIMEOUT": Variable(
        _seconds, "limit from the freeze to the published archive; 0 = STALL_TIMEOUT only"
    ),
    "RESTORE_TIMEOUT": Variable(
        _seconds, "limit of a restore, counted once an archive exists; 0 = STALL_TIMEOUT only"
    ),
    "STALL_TIMEOUT": Variable(
        _seconds_or_never, "abort a phase after this many seconds without progress; 0 = never"
    ),
    "GPU_TIMEOUT": Variable(
        _seconds,
        "limit of one GPU call (lock, checkpoint, restore); 0 = 30 s for a lock, otherwise by memory size",
    ),
    "MIN_UPTIME": Variable(
        _seconds,
        "an engine that ends by itself within this time of its restore counts as a failed restore; 0 = never",
    ),
    "STOP_GRACE": Variable(_seconds, "time between TERM and KILL for processes that the engine left running"),
    "SIGNAL_TARGET": Variable(
        _one_of("group", "engine"),
        "who gets signals: engine, as without a launcher; or group for its whole process group, if a wrapper does not pass them "
        "on: vLLM's own processes then end before its requests",
    ),
    "COMPRESSION": Variable(
        _compression, "auto, none, zstd (level 1), zstd:LEVEL or planes (for 16-bit weights)"
    ),
    "CONCURRENCY": Variable(_threads, "number of worker threads; 0 = the cores that the cgroup allows"),
    "PROTOCOL": Variable(
        _one_of("auto", "none", "dynamo", "vllm-snapshot", *_HOOKS),
        "how the engine pauses before the freeze: dynamo, vllm-snapshot (an archive without weights), vllm-checkpoint, "
        "vllm-sleep or sglang-release (as PRE_DUMP), none, or auto: by its command or its server's routes",
    ),
    "PRE_DUMP": Variable(
        _text,
        "called before the freeze, once the engine is ready: a command, a URL, vllm-checkpoint (the default if vLLM offers it), "
        "vllm-sleep, sglang-release, or none",
    ),
    "POST_RESTORE": Variable(
        _text,
        "called after a restore, once the engine runs: a command, a URL, vllm-resume, vllm-wake or sglang-resume",
    ),
    "CANARY": Variable(
        _absolute, "file with a JSON request, sent at creation and after each restore; responses must match"
    ),
    "PRESET": Variable(
        _one_of("auto", "none", "vllm", "sglang", "trtllm"),
        "variables that make an engine on GPUs safe to checkpoint, set only if unset: for vllm, sglang, trtllm, none, or auto: by its command",
    ),
    "ENGINE_CONNECTIONS": Variable(
        _one_of("close", "refuse"),
        "TCP connections that a restore cannot keep: close logs and closes them, refuse makes no archive of such an engine, and restores none that would lose connections inside it",
    ),
    "EXCLUDE_PATHS": Variable(_paths, "paths (a:b) to leave out of the filesystem delta"),
    "CAPTURE_PATHS": Variable(_capturable, "paths (a:b) on other mounts to include in the filesystem delta"),
    "CACHE_DIRECTORIES": Variable(
        _directory_names,
        "names (a,b) of directories to leave out of the filesystem delta, for caches that are rebuilt",
    ),
    "REOPEN_PATHS": Variable(
        _paths, "paths (a:b) on volumes whose files may differ from creation; the engine must cope with that"
    ),
    "DROP_ENV": Variable(_variables, "variables (a,b) to withhold from the engine"),
    "STATUS_FILE": Variable(_absolute, "file for the result object"),
    "LOG_FORMAT": Variable(
        _one_of("auto", "json", "console"), "json, console or auto: console on a terminal, otherwise json"
    ),
    "LOG_LEVEL": Variable(
        _one_of("debug", "info", "warning", "error"), "minimum log level: debug, info, warning or error"
    ),
    "WORK_DIR": Variable(_absolute, "scratch directory of this container alone, for sockets and CRIU's log"),
    "STATE_DIR": Variable(
        _absolute,
        "directory that outlives the container (an emptyDir); remembers archives that failed to restore, which are not retried",
    ),
    "NODE_CACHE_DIR": Variable(
        _absolute,
        "directory shared by the pods of a node; each archive is read over the network once for all of them",
    ),
    "DIGEST": Variable(_digest, "digest of the archive; a restore refuses any other"),
    "KEY_FILE": Variable(
        _absolute,
        "key (32 bytes or more) that encrypts and authenticates archives; in a directory of keys the first seals, all open",
    ),
    "SIGN_KEY_FILE": Variable(
        _absolute, "Ed25519 private key (PEM) that signs new archives, or a directory: the first signs"
    ),
    "VERIFY_KEY_FILE": Variable(
        _absolute,
        "Ed25519 public key (PEM), or a directory of them; an archive that none of their private keys signed is refused",
    ),
    "CA_FILE": Variable(
        _absolute, "CA bundle (PEM) for storage servers; does not change the engine's trust store"
    ),
    "CREDENTIALS_DIR": Variable(
        _absolute,
        "mounted secret with one file per variable (AWS_…) that the store needs; hidden from the engine",
    ),
}


class Reading(Value):
    """The settings of an environment and its mistakes; a variable in ``invalid`` has its default value."""

    settings: Settings
    mistakes: tuple[str, ...]
    invalid: frozenset[str]

    def error(self) -> SettingsError:
        """Return one error that lists all mistakes."""
        return SettingsError("; ".join(self.mistakes), hint="correct or unset these variables")


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Return the settings of an environment. Raises SettingsError that lists every invalid variable."""
    reading = read(environ)
    if reading.mistakes:
        raise reading.error()
    return reading.settings


def read(environ: Mapping[str, str]) -> Reading:
    """Return the settings of an environment, as far as they are valid."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    invalid: set[str] = set()
    for name, variable in VARIABLES.items():
        raw = environ.get(PREFIX + name, "").strip()
        if not raw:
            continue
        try:
            values[name.lower()] = variable.parse(_utf8(raw))
        except ValueError as error:
            mistakes.append(f"{PREFIX}{name}{'' if variable.is_secret else f'={_shown(raw)}'}: {error}")
            invalid.add(name)
    settings = Settings(**values)
    mistakes += contradictions(settings)
    return Reading(complete(settings), tuple(mistakes), frozenset(invalid))


def _utf8(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("expected UTF-8") from None
    return value


def _shown(value: str) -> str:
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


#: Scheme → storage type. fsspec handles all other schemes.
_KINDS = {
    "": "pvc", "file": "pvc", "s3": "s3", "oci": "oci", "gs": "gcs", "gcs": "gcs",
    "az": "azure", "abfs": "azure", "abfss": "azure",
}  # fmt: skip


def contradictions(settings: Settings) -> list[str]:
    """Return one sentence for each combination of settings that contradicts itself."""
    found = []
    scheme = settings.location.partition("://")[0].split("+")[0] if "://" in settings.location else ""
    kind = _KINDS.get(scheme, "fsspec")
    if settings.location and settings.storage_type not in ("", kind, *(["fsspec"] if scheme else [])):
        found.append(
            f"{PREFIX}STORAGE_TYPE={settings.storage_type!r}: the location {settings.location!r} is {kind}"
        )
    elif settings.location and not scheme and not settings.location.startswith("/"):
        found.append(f"{PREFIX}LOCATION={settings.location!r}: expected an absolute path or a URI")
    if settings.mode == "restore" and not (settings.path or settings.location):
        found.append(f"{PREFIX}MODE='restore': needs {PREFIX}PATH or {PREFIX}LOCATION")
    creates = settings.mode == "create" or (settings.mode == "auto" and settings.signal_file)
    if creates and not (settings.path or settings.location):
        found.append(f"creation mode: needs {PREFIX}LOCATION (or {PREFIX}PATH for pvc)")
    if settings.protocol in _HOOKS and settings.pre_dump.partition(":")[0] not in ("", settings.protocol):
        found.append(f"{PREFIX}PROTOCOL={settings.protocol!r}: {PREFIX}PRE_DUMP says otherwise")
    return found + _unbound(settings, is_create=bool(creates))


def _unbound(settings: Settings, *, is_create: bool) -> list[str]:
    """Refuse a key without HASH or DIGEST: a key tells who made an archive, not which archive it is."""
    if is_create or settings.mode == "cold" or not (settings.path or settings.location):
        return []
    keys = [name for name in ("KEY_FILE", "VERIFY_KEY_FILE") if getattr(settings, name.lower())]
    if not keys or settings.hash or settings.digest:
        return []
    return [
        f"{PREFIX}{keys[0]}: needs {PREFIX}HASH or {PREFIX}DIGEST, which say which archive of that key is meant"
    ]


def complete(settings: Settings) -> Settings:
    """Derive what follows from other settings: a volume's path, ``<hash>.tar``, a tag, a hook."""
    if settings.protocol in ("none", *_HOOKS) and not settings.pre_dump:
        settings = settings._replace(pre_dump=settings.protocol)
    location = settings.location
    if settings.storage_type != "fsspec":
        location = location.removeprefix("file://")
    if "://" not in location:
        location = _completed(location or settings.path, settings.hash)
        return settings._replace(location=location, path=_completed(settings.path, settings.hash) or location)
    return settings._replace(
        location=_located(location, settings.hash), path=_completed(settings.path, settings.hash)
    )


def _completed(path: str, name: str) -> str:
    if not path or path.endswith(".tar") or not name:
        return path
    return f"{path.rstrip('/')}/{name}.tar"


def _located(location: str, name: str) -> str:
    """Complete a bucket's prefix with ``<hash>.tar``, a repository without tag or digest with the hash as its tag."""
    if not location.startswith(("oci://", "oci+")):
        return _completed(location, name)
    if not name or ":" in location.rpartition("/")[2]:
        return location
    return f"{location.rstrip('/')}:{name}"


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return names with our prefix that are not variables of ours: most likely typing errors."""
    return sorted(
        name for name in environ if name.startswith(PREFIX) and name[len(PREFIX) :] not in VARIABLES
    )
