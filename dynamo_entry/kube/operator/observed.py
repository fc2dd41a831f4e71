"""The observed state of a checkpoint, and the possible decisions: the values between ``checkpoints`` and ``decide``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dynamo_entry.kube.api import moment
from dynamo_entry.value import NamedTuple

Object = dict[str, Any]

#: The conditions that a change of phase changes.
_PHASES = ("Ready", "Progressing")

#: Seconds until unfinished work is looked at again.
SOON_S = 2.0


class Action(Enum):
    """A change to the cluster. Each is idempotent."""

    PROBE = "make the probe's Job"
    DRY_RUN = "let the API server check the Job"
    CREATE = "make the Job"
    CREATE_FORCED = "make the Job, to replace an existing archive"
    STOP = "end the Job's pods and start no more"
    DELETE_JOB = "delete the Job"
    DELETE_PROBE = "delete the probe's Job"
    COLLECT = "make the Job that deletes the archive"
    DELETE_COLLECTOR = "delete that Job"
    RELEASE = "take the finalizer off"


class Verdict(NamedTuple):
    """The API server's answer to a Job, or to its dry run: ``ok``, ``invalid`` or ``refused``."""

    kind: str
    message: str = ""


class Leader(NamedTuple):
    """Another, older checkpoint of the same archive: its Job serves both."""

    namespace: str
    name: str
    status: Object


@dataclass(frozen=True)
class Observed:
    """Everything that ``decide`` looks at. Jobs are None if there is none; times are Unix seconds."""

    checkpoint: Object
    hash: str
    location: str
    storage_type: str
    now: float
    #: the status may name the storage's type: an older definition may not know it
    names_type: bool = True
    #: the claim that holds the archive, if any
    claim: str = ""
    #: the digest of what the Job is made from
    job_digest: str = ""
    target: str = ""
    #: why the pod template cannot be used: (reason, message)
    unfit: tuple[str, str] | None = None
    #: why storage cannot be used yet
    unusable: tuple[str, str] | None = None
    #: there is a volume behind the claim
    is_bound: bool = True
    leader: Leader | None = None
    #: the statuses of the other live checkpoints of the same archive
    sharing: Sequence[Object] = ()
    #: another checkpoint of the same archive that is being deleted and takes it along: namespace/name
    leaving: str = ""
    job: Object | None = None
    #: a Job of that name belongs to somebody else
    is_job_foreign: bool = False
    pods: Sequence[Object] = ()
    is_probing: bool = True
    probe: Object | None = None
    #: the probe's answer, once it has ended
    found: Object | None = None
    verdict: Verdict | None = None
    collector: Object | None = None
    #: its answer, once it has ended
    collected: Object | None = None
    is_namespace_ending: bool = False
    job_ttl_s: float = 300
    give_up_after_s: float = 3600


@dataclass(frozen=True)
class Decision:
    """The next phase and its reason; ``before`` runs before the status is written, ``after`` once it is durable."""

    phase: str
    reason: str
    message: str = ""
    before: tuple[Action, ...] = ()
    after: tuple[Action, ...] = ()
    #: further fields of the status
    fields: Object = field(default_factory=dict)
    #: look again after so many seconds; 0: when something changes
    again_s: float = 0


def ready_condition(status: Object) -> Object:
    """Return the condition Ready, or an empty dict."""
    return next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), {})


def settled_at(status: Object) -> float:
    """Return when a checkpoint became Ready or Failed, in Unix seconds."""
    times = (one.get("lastTransitionTime") for one in status.get("conditions", ()) if one["type"] in _PHASES)
    return max(map(moment, times), default=0)


def last_message(status: Object) -> str:
    """Return the last message, without its reason."""
    ready = ready_condition(status)
    message: str = ready.get("message", "")
    return "" if message == ready.get("reason") else message


def true_conditions(job: Object | None) -> dict[str, Object]:
    """Return a Job's conditions that are True, by type."""
    found = (job or {}).get("status", {}).get("conditions") or ()
    return {one["type"]: one for one in found if one["status"] == "True"}
