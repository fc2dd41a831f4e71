"""Runs a creation from PID 1's side: starts the engine once the worker is set up, follows both, keeps the outcome."""

from __future__ import annotations

import os
import time

from dynamo_entry.errors import DumpFailed, EngineEnded
from dynamo_entry.init import engine, signals, tree, undo
from dynamo_entry.init.loop import Ended, Event, Said, Signalled, Silent
from dynamo_entry.init.signals import signal
from dynamo_entry.init.supervisor import Supervisor
from dynamo_entry.init.worker import KILLED, Worker, not_started
from dynamo_entry.protocol import (
    Began,
    EngineGone,
    EngineIs,
    Message,
    Outcomes,
    Phases,
    Release,
    Result,
    StartEngine,
    Verbs,
)

#: Engine pids begin above this; see process.raise_pids_above.
LAST_HELPER_PID = 999

#: Variables that the engine of a creation gets if they are unset. CRIU cannot dump io_uring, and libuv uses it if it can.
#: onnxruntime keeps a locked database for its telemetry in the cache directory; on a volume, every other process changes it.
ADDITIONS = {"UV_USE_IO_URING": "0", "ORT_DISABLE_TELEMETRY": "1"}

#: How long a worker that was called off may take to abort the upload and to thaw the engine.
CALL_OFF_S = 3.0

#: How long what the worker left may take after that: CRIU's action script, CRIU itself, anything else. If nobody asked for the
#: end it has more time, since an engine that continues is in the best state if CRIU ends by itself.
THAW_CALLED_OFF_S = (0.7, 0.7, 0.3)
THAW_S = (5.0, 1.0, 1.0)


def create(supervisor: Supervisor) -> int:
    """Run a creation to its end; returns the exit code."""
    tree.spare_children()
    try:
        worker = Worker(Verbs.CREATE, supervisor.settings.stall_timeout, supervisor.settings.drop_env)
    except OSError as error:
        message = f"the worker cannot be started: {error.strerror}"
        return not_created(supervisor, not_started(message, DumpFailed.exit_code))
    return _Creation(supervisor, worker).run()


def not_created(supervisor: Supervisor, result: Result) -> int:
    """Finish a creation that never began; returns the exit code."""
    supervisor.report(result)
    supervisor.log.error("Checkpoint not created", **result.reportable())
    return _cold(supervisor, []) if supervisor.settings.after_dump == "continue" else result.exit_code


def _cold(supervisor: Supervisor, held: list[int]) -> int:
    """Start the engine after a creation that ended before it was started."""
    number = undo.take_leftovers_back(supervisor, held)
    return 128 + number if number else supervisor.cold_instead(held)


def _gpus() -> int:
    """Return the number of NVIDIA devices."""
    try:
        return sum(name[6:].isdigit() for name in os.listdir("/dev") if name.startswith("nvidia"))
    except OSError:
        return 0


class _Creation:
    def __init__(self, supervisor: Supervisor, worker: Worker) -> None:
        self._supervisor = supervisor
        self._worker = worker
        self._held: list[int] = []
        self._engine_code: int | None = None
        self._start_error = ""
        self._called_off = 0
        self._is_hanging = False
        self._is_paused = False
        self._call_off_end = float("inf")
        supervisor.loop.listen(worker.events)

    def run(self) -> int:
        while True:
            deadline = min(self._worker.deadline, self._call_off_end)
            event = self._supervisor.loop.next(self._worker.gone_by or deadline)
            if isinstance(event, Signalled):
                self._signalled(event.number)
            elif isinstance(event, Said):
                self._said(event.message)
            elif isinstance(event, Silent) and self._worker.gone_by:  # stuck in the kernel
                return self._worker_ended(KILLED)
            elif isinstance(event, Silent):
                self._silent()
            elif isinstance(event, Ended) and event.pid == self._supervisor.engine_pid:
                self._engine_ended(event)
            elif isinstance(event, Ended) and event.pid == self._worker.pid:
                return self._worker_ended(event.code)

    def _signalled(self, number: int) -> None:
        if number in signals.TERMINATING and not self._called_off:
            self._called_off = number
            self._call_off()
        if self._worker.phase in Phases.FROZEN or not self._supervisor.engine_pid:
            self._held.append(number)
        elif self._engine_code is None:  # its pid is still its own
            self._supervisor.forward(number)

    def _silent(self) -> None:
        """Handle a worker that hangs: first call it off, so that it drops its upload, then kill it."""
        if self._call_off_end < float("inf"):
            self._worker.kill()
            self._call_off_end = float("inf")
            return
        self._supervisor.log.error("worker hangs", phase=self._worker.phase)
        self._is_hanging = True
        self._call_off()

    def _call_off(self) -> None:
        self._worker.call_off()
        self._call_off_end = time.monotonic() + CALL_OFF_S

    def _said(self, message: Message | None) -> None:
        self._worker.heard(message)
        if message is None or self._worker.is_garbled:
            self._worker.kill()
        elif isinstance(message, Began) and message.phase == Phases.FREEZE:
            # What a hook has left. From here on, what the worker leaves is CRIU's.
            tree.spare_children(self._worker.pid)
        elif isinstance(message, StartEngine) and not self._supervisor.engine_pid and not self._called_off:
            self._start_engine(message)

    def _start_engine(self, asked: StartEngine) -> None:
        """Start the engine, since the worker is set up, and tell the worker."""
        self._is_paused = bool(asked.pauses_in)
        additions = {**ADDITIONS, **self._preset()}
        try:
            self._supervisor.start_for_creation(
                self._command(asked.pauses_in), additions, asked.environment, LAST_HELPER_PID
            )
        except engine.StartFailed as error:
            self._start_error = str(error)
            self._engine_code = error.code
            self._worker.tell(EngineGone())
        else:
            self._supervisor.log.info("engine started", pid=self._supervisor.engine_pid)
            self._worker.tell(EngineIs(self._supervisor.engine_pid))

    def _command(self, pauses_in: str) -> list[str]:
        """Return the command to run: for an archive without weights, one that replaces ``vllm serve``."""
        supervisor = self._supervisor
        if supervisor.settings.protocol != "vllm-snapshot":
            return supervisor.argv
        from dynamo_entry.engine import vllm_snapshot  # noqa: PLC0415 - not on the way of other creations

        return vllm_snapshot.paused(supervisor.argv, pauses_in, os.environ)

    def _preset(self) -> dict[str, str]:
        """Return the unset variables that make an engine on GPUs fit for a checkpoint, and log them."""
        from dynamo_entry.engine import presets  # noqa: PLC0415 - only where there is a GPU

        supervisor = self._supervisor
        gpus = _gpus()
        name = supervisor.settings.preset
        if name == "auto":
            name = presets.engine_of(supervisor.argv) if gpus else ""
            if gpus and not name:
                supervisor.log.warning("engine not recognised", hint=presets.UNKNOWN)
        found = presets.environment(
            name, supervisor.argv, os.environ, gpus=gpus, pre_dump=supervisor.settings.pre_dump
        )
        if found:
            supervisor.log.info("environment preset", engine=name, **found)
        if advice := presets.missing_option(name, supervisor.argv, gpus=gpus):
            supervisor.log.warning("option missing", option=advice[0], why=advice[1])
        return found

    def _engine_ended(self, event: Ended) -> None:
        """Handle the engine's end: before the freeze it ends the creation; after it, CRIU ended it as planned."""
        self._engine_code = event.code
        self._worker.tell(EngineGone())
        if self._worker.phase not in Phases.FROZEN:  # the worker may still wait for a hook
            self._call_off_end = time.monotonic() + CALL_OFF_S

    def _worker_ended(self, code: int) -> int:
        self._supervisor.loop.stop_listening()
        self._worker.close()
        result = self._worker.result
        if result is None or (self._is_hanging and result.result == Outcomes.FAILED):
            result = self._lost(code)
        if result.result in (Outcomes.PUBLISHED, Outcomes.EXISTS):
            self._wait_for_helpers()  # CRIU may still be releasing the engine if the worker was lost meanwhile
            return self._succeeded(result, is_worker_lost=code != 0)
        return self._failed(result)

    def _lost(self, code: int) -> Result:
        what = f"ended with {code}"
        if self._worker.is_garbled:
            what = "sent malformed messages"
        elif self._is_hanging:
            what = "was killed after making no progress"
        return self._worker.lost(what, DumpFailed.exit_code)

    def _succeeded(self, result: Result, *, is_worker_lost: bool) -> int:
        self._supervisor.report(result)
        is_ours = result.result == Outcomes.PUBLISHED
        what = "Checkpoint published" if is_ours else "Checkpoint exists already"
        self._supervisor.log.info(what, **result.facts())
        if self._supervisor.settings.after_dump == "continue":
            if is_worker_lost:
                self._release_engine()
            return self._go_on()
        return 0

    def _failed(self, result: Result) -> int:
        """Finish a creation that published nothing.

        The engine continues or ends, as configured; if it ended by itself, the result says so.
        """
        self._wait_for_helpers()
        self._wait_for_dying_engine()
        if self._worker.result is None and self._supervisor.settings.after_dump == "continue":
            self._release_engine()
        if self._engine_code is not None:
            ended = self._start_error or f"the engine ended with {self._engine_code}"
            result = result._replace(
                reason="EngineEnded", engine_code=self._engine_code,
                message=f"{ended} in phase {result.phase}, before a checkpoint was made",
                retry=False if self._start_error else result.retry,
            )  # fmt: skip
        self._supervisor.report(result)
        self._supervisor.log.error("Checkpoint not created", **result.reportable())
        if self._engine_code is not None:
            return self._engine_code if self._called_off or self._start_error else EngineEnded.exit_code
        if self._called_off and not self._supervisor.engine_pid:
            return 128 + self._called_off
        if self._supervisor.settings.after_dump == "continue" or self._called_off:
            return self._go_on()
        return result.exit_code or DumpFailed.exit_code

    def _release_engine(self) -> None:
        """Let a second worker release what a lost one held; it ends an engine that cannot be helped."""
        from dynamo_entry import cuda  # noqa: PLC0415 - only after a failure
        from dynamo_entry.linux import io_uring  # noqa: PLC0415

        engine_pid = self._supervisor.engine_pid
        if self._engine_code is not None or not engine_pid:
            return
        if refused := io_uring.give_back_memory([engine_pid, *tree.descendants(engine_pid)]):
            self._supervisor.log.warning("memlock limit not given back", pids=refused)
        holds_gpus = self._worker.phase in Phases.FROZEN and cuda.is_present()
        may_sleep = Phases.PRE_DUMP in (*self._worker.seconds, self._worker.phase)
        if not (holds_gpus or self._is_paused or may_sleep):
            return
        try:
            settings = self._supervisor.settings
            worker = Worker(Verbs.RELEASE, settings.stall_timeout, settings.drop_env)
        except OSError as error:
            self._supervisor.log.error("engine not released", message=error.strerror)  # noqa: TRY400 - not logging
            return
        self._supervisor.loop.listen(worker.events)
        worker.tell(Release(engine_pid, may_sleep))
        self._follow_release(worker)
        worker.kill()
        self._supervisor.loop.stop_listening()
        worker.close()
        if worker.result is None or worker.result.result != Outcomes.RELEASED:
            shown = worker.result.reportable() if worker.result else {}
            self._supervisor.log.error("engine not released", **shown)

    def _follow_release(self, worker: Worker) -> None:
        """Follow the second worker to its end; for CALL_OFF_S at most once a signal asks for the end."""
        patience_end = float("inf")
        while True:
            if self._is_asked_to_end():
                patience_end = min(patience_end, time.monotonic() + CALL_OFF_S)
            event = self._supervisor.loop.next(min(worker.deadline, patience_end))
            self._note(event)
            if isinstance(event, Said):
                worker.heard(event.message)
            elif isinstance(event, Silent) or (isinstance(event, Ended) and event.pid == worker.pid):
                return

    def _is_asked_to_end(self) -> bool:
        return bool(self._called_off or signals.TERMINATING & {*self._held})

    def _wait_for_helpers(self) -> None:
        """Wait for CRIU, which thaws the engine by itself once its streamer is gone.

        After a while its action script is killed, which makes CRIU resume the tasks; then CRIU, whose end
        detaches it from them; then whatever is left.
        """
        for called_off_s, otherwise_s in zip(THAW_CALLED_OFF_S[:-1], THAW_S[:-1], strict=True):
            if not self._helpers_end_within(called_off_s if self._is_asked_to_end() else otherwise_s):
                tree.send(self._helpers()[-1:], signal.SIGKILL)
        if not self._helpers_end_within(THAW_CALLED_OFF_S[-1] if self._is_asked_to_end() else THAW_S[-1]):
            tree.send(self._helpers(), signal.SIGKILL)

    def _helpers(self) -> list[int]:
        spare = frozenset((self._supervisor.engine_pid,)) if self._supervisor.engine_pid else frozenset()
        return tree.descendants(os.getpid(), spare=spare)

    def _helpers_end_within(self, limit_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        while self._helpers():
            if time.monotonic() > deadline:
                return False
            self._take_event(time.monotonic() + 0.02)
        return True

    def _wait_for_dying_engine(self) -> None:
        """Wait for a dying engine: CRIU fails when the engine dies, often before the engine's own end is reported."""
        while self._take_event(time.monotonic()):
            pass
        deadline = time.monotonic() + tree.DYING_S
        while self._engine_code is None and tree.is_dying(self._supervisor.engine_pid):
            if time.monotonic() > deadline:
                return
            self._take_event(time.monotonic() + 0.02)

    def _take_event(self, deadline: float) -> bool:
        """Handle the next event; returns False if none arrived before the deadline."""
        event = self._supervisor.loop.next(deadline)
        self._note(event)
        return not isinstance(event, Silent)

    def _note(self, event: Event) -> None:
        """Record an event after the worker's end: signals are kept for later, and the engine may still end."""
        if isinstance(event, Signalled):
            self._held.append(event.number)
        elif isinstance(event, Ended) and event.pid == self._supervisor.engine_pid:
            self._engine_code = event.code

    def _go_on(self) -> int:
        """Follow the engine that runs, or start it if the creation ended before that."""
        if self._engine_code is not None:
            return self._engine_code
        if not self._supervisor.engine_pid:
            return _cold(self._supervisor, self._held)
        for number in self._held:
            self._supervisor.forward(number)
        return self._supervisor.follow()
