"""The settings file of operator and agent, which the Helm chart renders, as immutable values."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
import yaml

from dynamo_entry.errors import SettingsError

FILE = "/etc/dynamo-entry/operator.yaml"


class _Section(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    pass


class Pvc(_Section, frozen=True):
    """A claim of this name in each namespace that uses checkpoints."""

    pvc_name: str = "checkpoint-storage"
    base_path: str = "/checkpoints"
    allow_read_write_once: bool = False


class Remote(_Section, frozen=True):
    """A bucket prefix or a repository. The Secrets are in the workload's namespace; the second one may only read."""

    uri: str = ""
    credentials_secret_ref: str = ""
    restore_credentials_secret_ref: str = ""
    endpoint_url: str = ""
    #: of gcs, azure and fsspec: arguments of the library
    options: dict[str, Any] = {}


class NodeCache(_Section, frozen=True):
    """A directory on the node that restoring pods share."""

    host_path: str = ""


class Storage(_Section, frozen=True):
    """Where archives are kept."""

    type: Literal["pvc", "s3", "oci", "gcs", "azure", "fsspec"] = "pvc"
    pvc: Pvc = Pvc()
    s3: Remote = Remote()
    oci: Remote = Remote()
    gcs: Remote = Remote()
    azure: Remote = Remote()
    fsspec: Remote = Remote()
    isolate_namespaces: bool = True
    node_cache: NodeCache = NodeCache()
    key_secret_ref: str = ""
    sign_key_secret_ref: str = ""
    verify_key_secret_ref: str = ""
    ca_secret_ref: str = ""

    @property
    def is_isolated(self) -> bool:
        """Whether namespaces share one storage, with a part for each. A claim always has one namespace."""
        return self.type != "pvc" and self.isolate_namespaces


class Job(_Section, frozen=True):
    """Defaults for a checkpoint's Job, for what its own spec leaves open."""

    ready_url: str = ""
    ttl_seconds_after_finished: int = 300


class Security(_Section, frozen=True):
    """The privileges of creating and restoring containers."""

    profile: Literal["minimal", "standard", "network", "none"] = "minimal"
    openshift: bool = False


class Launcher(_Section, frozen=True):
    """How the launcher is put before an engine's command."""

    command: tuple[str, ...] = ("dynamo-entry", "--")
    guard: bool = True


class Collection(_Section, frozen=True):
    """Deletion of archives and of what killed creations left; the values are durations."""

    give_up_after: str | int = "1h"
    orphans: Literal["Report", "Delete"] = "Report"
    grace: str | int = "24h"
    orphan_grace: str | int = "7d"


class Operator(_Section, frozen=True):
    """Settings of the operator itself."""

    name: str = "dynamo-entry-operator"
    namespace: str = "default"
    replicas: int = 1
    metrics_port: int = 9101
    watch_namespaces: tuple[str, ...] = ()
    node_selector: dict[str, str] = {}
    tolerations: tuple[Any, ...] = ()

    @property
    def scopes(self) -> list[str]:
        """The parts of a list's path, one for each watched namespace, or the one for all of them."""
        return [f"namespaces/{name}/" for name in self.watch_namespaces] or [""]


class Certificates(_Section, frozen=True):
    """Where the webhook's certificate comes from."""

    mode: Literal["self-signed", "cert-manager", "secret"] = "self-signed"
    secret_name: str = "dynamo-entry-webhook-tls"  # noqa: S105 - a name


class Webhook(_Section, frozen=True):
    """Settings of the admission webhooks."""

    enabled: bool = True
    port: int = 8443
    service: str = "dynamo-entry-webhook"
    configuration: str = "dynamo-entry"
    certificates: Certificates = Certificates()


class Cache(_Section, frozen=True):
    """The agent's copies. Pods see them in ``host_path``, the agent in ``directory``. Sizes are quantities."""

    enabled: bool = True
    pvc: bool = False
    host_path: str = "/var/lib/dynamo-checkpoint/cache"
    directory: str = "/var/cache/dynamo-checkpoint"
    size_limit: str | int = "200Gi"
    min_free: str | int = "10%"


class Agent(_Section, frozen=True):
    """Settings of the node agent. ``rate_limit`` is a quantity, the intervals are durations."""

    enabled: bool = True
    cache: Cache = Cache()
    rate_limit: str | int = "0"
    sweep_interval: str | int = "10m"
    verify_interval: str | int = "24h"
    key_file: str = ""
    verify_key_file: str = ""
    port: int = 9102


class Config(_Section, frozen=True):
    """The whole settings file."""

    storage: Storage = Storage()
    probe: bool = True
    dry_run: bool = True
    job: Job = Job()
    security: Security = Security()
    launcher: Launcher = Launcher()
    gc: Collection = Collection()
    image: str = ""
    image_pull_policy: str = ""
    image_pull_secrets: tuple[Any, ...] = ()
    operator: Operator = Operator()
    webhook: Webhook = Webhook()
    agent: Agent = Agent()


#: The seconds in each unit of a duration.
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

#: Kubernetes' resource.Quantity, as far as bytes go.
_BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGTP", start=1)
}


def seconds(text: str | int) -> float:
    """Parse ``90``, ``90s``, ``15m``, ``24h`` or ``7d`` into seconds. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+)([smhd]?)", str(text))
    if not match:
        raise ValueError(f"expected a duration such as 15m, found {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def interval(text: str | int) -> float:
    """Parse a duration that is longer than 0. Raises ValueError."""
    if not (found := seconds(text)):
        raise ValueError(f"expected a duration longer than 0, found {text!r}")
    return found


def size(text: str | int) -> int:
    """Parse a quantity such as ``200Gi`` into bytes. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kMGTP]?|[KMGTP]i)", str(text))
    if not match:
        raise ValueError(f"expected a quantity such as 200Gi, found {text!r}")
    return int(float(match[1]) * _BYTES[match[2]])


def size_or_share(text: str | int) -> int | float:
    """Parse a quantity into bytes, or ``10%`` into a share. Raises ValueError."""
    if not str(text).endswith("%"):
        return size(text)
    share = float(str(text)[:-1]) / 100
    if not 0 <= share < 1:
        raise ValueError(f"expected a percentage below 100, found {text!r}")
    return share


def read(path: str = FILE) -> str:
    """Read the settings file. Raises SettingsError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None


def parse(text: str) -> Config:
    """Parse a settings file. Raises SettingsError that names the place of the mistake."""
    try:
        config = msgspec.convert(yaml.safe_load(text) or {}, type=Config)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise SettingsError(f"the settings file: {error}", hint="correct the chart's values") from None
    storage = config.storage
    if storage.type != "pvc" and not getattr(storage, storage.type).uri:
        raise SettingsError(f"the settings file: storage.{storage.type}.uri is empty")
    return config
