"""The helper during one creation or restore: its time limits, and the processes that it is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dynamo_entry.cuda import facts, failures
from dynamo_entry.cuda.abi import Result, State
from dynamo_entry.cuda.client import Answer, Helper, Unanswered
from dynamo_entry.errors import CheckpointError
from dynamo_entry.linux import proc

#: The limit of one checkpoint or restore: far beyond what was ever reported (10 minutes for 290 GiB).
_FIXED_LIMIT_S = 60
_LIMIT_S_PER_GIB = 2

#: How long the engine's work on the GPU may continue after it was told to stop.
LOCK_LIMIT_S = 30

#: The limit of calls that copy nothing, and what is added to the driver's own limit of a lock.
_QUICK_LIMIT_S = 15

_QUICK = ("tid", "state", "unlock")

#: Device nodes that CRIU cannot dump: those of GPUs, of GDRCopy, of RDMA.
_DEVICES = ("/dev/nvidia", "/dev/gdrdrv", "/dev/infiniband/")

_JOB_FILE = b"CUDA_CHECKPOINT_JOB_FILE="


def candidates(pids: Iterable[int]) -> list[int]:
    """The processes that the driver may have to checkpoint: they have loaded its library, or have a GPU open."""
    return [pid for pid in pids if any(map(_is_of_driver, proc.mapped_files([pid]))) or _held(pid)]


def leftovers(pids: Iterable[int]) -> list[tuple[int, str]]:
    """(pid, device node) of descriptors and mappings that remain although every context is checkpointed."""
    return [(pid, path) for pid in pids for path in _held(pid)]


class Session:
    """A helper that is started now and used later. ``tick`` is called while the driver works.

    ``busy_bytes``: how much has to be moved, from which the limits follow; if unknown, all GPU memory.
    """

    def __init__(self, tick: Callable[[], None], limit_s: float = 0) -> None:
        self._tick = tick
        self._given_limit_s = limit_s
        self._present: facts.Present | None = None
        self.absence = ""
        self.job_file = ""
        self.busy_bytes: int | None = None
        self._helper = Helper(tick)
        self._is_hopeless = False

    def present(self) -> facts.Present | None:
        """Driver and devices; waits until the helper has attached. None: no GPU can be used, and ``absence`` says why."""
        if self._present is None and not self.absence:
            try:
                said = self._helper.facts()
            except Unanswered as error:
                said = {"absent": f"the GPU helper {error}"}
            self.absence = said.get("absent", "")
            self._present = None if self.absence else facts.present(said["facts"])
        return self._present

    def log_attached(self, log: Any) -> None:
        """Log which way is used to call the driver, if there is one."""
        here = self._present
        assert here is not None
        log.info(
            "GPU attached", driver=here.driver, way=here.way, gpus=len(here.devices), attach_s=here.attach_s
        )

    def join_job(self, pids: Iterable[int]) -> None:
        """Use the job file of a process that has one."""
        self.job_file = self.job_file or next(filter(None, map(_job_file, pids)), "")

    def limit_s(self, action: str) -> float:
        """How long one call may take."""
        if action == "lock":
            return self._lock_limit_s + self.limit_s("unlock")
        if action in _QUICK:
            return min(_QUICK_LIMIT_S, self._given_limit_s or _QUICK_LIMIT_S)
        here, memory = self.present(), self.busy_bytes
        if memory is None:
            memory = sum(device.memory_bytes for device in here.devices) if here else 0
        return self._given_limit_s or _FIXED_LIMIT_S + _LIMIT_S_PER_GIB * memory / (1 << 30)

    @property
    def _lock_limit_s(self) -> float:
        return self._given_limit_s or LOCK_LIMIT_S

    def each(
        self,
        action: str,
        pids: Iterable[int],
        error: type[CheckpointError],
        *,
        is_fine: Callable[[int, Answer], bool] = lambda _pid, _answer: False,
        **more: Any,
    ) -> dict[int, Answer]:
        """One action on every process. Raises ``error``, which names the first process on which it failed.

        Errors for which ``is_fine`` is true do not count.
        """
        wanted = list(pids)
        try:
            answers = self._ask(action, wanted, **more)
        except Unanswered as silence:
            missing = [pid for pid in wanted if pid not in silence.answers]
            self._renew()
            raise _raised(error, failures.of_silence(action, missing, str(silence))) from None
        for pid, answer in answers.items():
            if answer.code != Result.SUCCESS and not is_fine(pid, answer):
                state = self.states([pid]).get(pid)
                shown = state.name if state is not None else ""
                raise _raised(error, failures.of_call(action, pid, answer.code, answer.name, state=shown))
        return answers

    def ask(self, action: str, pids: Iterable[int]) -> dict[int, Answer]:
        """One action on every process; returns the answers as they are, without those that did not come."""
        try:
            return self._ask(action, list(pids))
        except Unanswered as silence:
            self._renew()
            return silence.answers

    def states(self, pids: Iterable[int]) -> dict[int, State]:
        """The CUDA state of each process that answers."""
        return {
            pid: State(answer.value)
            for pid, answer in self.ask("state", pids).items()
            if answer.code == Result.SUCCESS and answer.value in list(State)
        }

    def free_bytes(self) -> dict[str, int | None]:
        """The free memory of each GPU now; None, or no entry, where it is unknown."""
        here = self.present()
        uuids = [device.uuid for device in here.devices] if here else []
        try:
            return self._helper.memory(uuids, _QUICK_LIMIT_S)
        except Unanswered:
            self._renew()
            return {}

    def used_bytes(self) -> int:
        """The memory that is in use on all GPUs together now; all of a GPU's memory if that is unknown."""
        here, free = self.present(), self.free_bytes()
        devices = here.devices if here else ()
        return sum(device.memory_bytes - (free.get(device.uuid) or 0) for device in devices)

    def close(self) -> None:
        """End the helper."""
        self._helper.kill()

    def _ask(self, action: str, pids: list[int], **more: Any) -> dict[int, Answer]:
        self.present()  # the helper's first line comes before its answers
        limit_s = self.limit_s(action)
        if action == "lock":
            more["timeout_ms"] = max(1, int(self._lock_limit_s * 1000))  # 0: no limit
        if self.job_file:
            more["job_file"] = self.job_file
        # Processes of one launch job must be handled one after another (ai-dynamo/dynamo #11304).
        return self._helper.ask(action, pids, limit_s=limit_s, at_once=not self.job_file, **more)

    def _renew(self) -> None:
        """Start another helper in place of one that is gone: what was begun must be taken back.

        If one cannot even attach, no other is started, and every question fails at once.
        """
        self._helper.kill()
        if self._is_hopeless:
            return
        self._helper = Helper(self._tick)
        try:
            self._helper.facts()
        except Unanswered:
            self._is_hopeless = True


def _raised(error: type[CheckpointError], failure: failures.Failure) -> CheckpointError:
    return error(failure.message, hint=failure.hint, reason=failure.reason)


def _job_file(pid: int) -> str:
    """The path by which other processes reach the file that those of a ``cuda-checkpoint --launch-job`` share."""
    for variable in proc.read(pid, "environ").split(b"\0"):
        if variable.startswith(_JOB_FILE):
            path = variable[len(_JOB_FILE) :].decode("utf-8", "replace")
            return path.replace("/proc/self/", f"/proc/{pid}/", 1)
    return ""


def _is_of_driver(path: str) -> bool:
    return "/libcuda.so" in path or "/libnvidia-ml.so" in path


def _held(pid: int) -> list[str]:
    return sorted(
        path
        for path in {*proc.descriptors(pid).values(), *proc.mapped_files([pid])}
        if path.startswith(_DEVICES)
    )
