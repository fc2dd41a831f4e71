"""Checks the shape of a DynamoCheckpoint's ``spec.job``; the API server accepts anything as a template. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from dynamo_entry.kube.podspec import Unfit, is_quantity
from dynamo_entry.structs import decodable

Object = dict[str, Any]

_T = TypeVar("_T")


class _Part(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The fields that the operator reads or adds to. The API server judges all others."""


class _Variable(_Part, frozen=True):
    name: str
    value: str = ""


class _Port(_Part, frozen=True):
    container_port: int
    name: str = ""


class _Mount(_Part, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""


class _Get(_Part, frozen=True):
    port: int | str
    path: str = ""
    scheme: str = ""


class _Probe(_Part, frozen=True):
    http_get: _Get | None = None
    exec: Object | None = None


class _Capabilities(_Part, frozen=True):
    add: tuple[str, ...] = ()


class _Context(_Part, frozen=True):
    capabilities: _Capabilities = _Capabilities()


class _Container(_Part, frozen=True):
    name: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[_Variable, ...] = ()
    ports: tuple[_Port, ...] = ()
    volume_mounts: tuple[_Mount, ...] = ()
    readiness_probe: _Probe | None = None
    startup_probe: _Probe | None = None
    liveness_probe: _Probe | None = None
    security_context: _Context = _Context()


class _Claim(_Part, frozen=True):
    claim_name: str
    read_only: bool = False


class _Volume(_Part, frozen=True):
    name: str
    persistent_volume_claim: _Claim | None = None


class _Spec(_Part, frozen=True):
    containers: tuple[_Container, ...]
    volumes: tuple[_Volume, ...] = ()
    security_context: Object | None = None
    termination_grace_period_seconds: int = 0


class _Metadata(_Part, frozen=True):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


@decodable
class _Template(_Part, frozen=True):
    spec: _Spec
    metadata: _Metadata = _Metadata()


@decodable
class _SharedMemory(_Part, frozen=True):
    disabled: bool = False
    size: str | int = ""


def checked(job: Object) -> Object:
    """Return the pod template of ``spec.job``, without null fields, as the API server reads it. Raises Unfit."""
    try:
        template: Object = without_nulls(job["podTemplateSpec"])
    except RecursionError:
        raise Unfit("TemplateInvalid", "spec.job.podTemplateSpec is nested too deeply") from None
    _convert(template, _Template, "spec.job.podTemplateSpec")
    memory = _convert(without_nulls(job.get("sharedMemory") or {}), _SharedMemory, "spec.job.sharedMemory")
    if memory.size != "" and not is_quantity(memory.size):
        raise Unfit(
            "TemplateInvalid",
            f"spec.job.sharedMemory.size: expected a quantity such as 16Gi, found {memory.size!r}",
        )
    return template


def without_nulls(value: Any) -> Any:
    """Return a copy without null fields; elements of lists keep their places."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def _convert(value: Any, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        raise Unfit(
            "TemplateInvalid", f"{where}{place.rstrip('`')}: {problem[:1].lower()}{problem[1:]}"
        ) from None
