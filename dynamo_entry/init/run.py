"""Leads from the command line to the exit code: reads settings, makes a plan, runs one of three flows."""

from __future__ import annotations

import os
from itertools import dropwhile

from dynamo_entry.errors import StorageError
from dynamo_entry.init import process, tree
from dynamo_entry.init.loop import Loop
from dynamo_entry.init.supervisor import Supervisor
from dynamo_entry.plan import Cold, Create, Plan, decide, engine_command, kind, local_places
from dynamo_entry.report import Log
from dynamo_entry.settings import PREFIX, TERMINATION_LOG, Reading, read, unknown_variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynamo_entry.protocol import Result


def launch(loop: Loop, argv: list[str]) -> int:
    """Run ``argv`` as the environment says; returns the exit code of this process."""
    process.reveal()
    process.keep_private()
    lack = tree.become_subreaper()
    mine = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    reading = read(mine)
    settings = reading.settings
    log = Log(settings.log_level, settings.log_format)
    for name in unknown_variables(mine):
        log.warning("unknown variable ignored", name=name)
    if lack:
        log.warning(
            "orphans of the engine will not be reaped: this is neither PID 1 nor a subreaper", error=lack
        )
    supervisor = Supervisor(loop, log, settings, engine_command(argv))
    code = _with_mistakes(supervisor, reading) if reading.mistakes else _as_planned(supervisor)
    supervisor.end_rest()
    return code


def _as_planned(supervisor: Supervisor) -> int:
    settings = supervisor.settings
    places = local_places(settings) if kind(settings) == "restore" else []
    # The later one is read only if the first one fails, and may be on a volume that hangs.
    there = [*dropwhile(lambda place: not _may_be_there(place), places)]
    return _carry_out(supervisor, decide(settings, there=there))


def _may_be_there(path: str) -> bool:
    """Whether an archive may be at ``path``: False only if there is certainly none."""
    from dynamo_entry.init import aside  # noqa: PLC0415 - a plain cold start looks for nothing

    return aside.may_be(lambda: _is_there(path))


def _is_there(path: str) -> bool:
    """Whether something is at ``path``. Raises OSError if that cannot be found out."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _carry_out(supervisor: Supervisor, plan: Plan) -> int:
    if isinstance(plan, Cold):
        return _cold(supervisor, plan)
    if isinstance(plan, Create):
        from dynamo_entry.init.create import create  # noqa: PLC0415 - a cold start needs none of it

        return create(supervisor)
    from dynamo_entry.init.restore import restore  # noqa: PLC0415

    return restore(supervisor, plan)


def _cold(supervisor: Supervisor, plan: Cold) -> int:
    """Start cold. Without a reason it is reported only on request: the termination log belongs to the engine."""
    if not plan.reason and supervisor.settings.status_file == TERMINATION_LOG:
        return supervisor.cold()
    from dynamo_entry.protocol import Outcomes, Phases, Result  # noqa: PLC0415

    if plan.reason:
        return _start_cold(
            supervisor,
            Result(
                Outcomes.FAILED, Phases.RESOLVE, reason=plan.reason, message=plan.message, retry=True,
                exit_code=StorageError.exit_code,
            )
        )  # fmt: skip
    message = "no checkpoint was asked for"
    supervisor.report(Result(Outcomes.COLD, Phases.RESOLVE, reason="NotAsked", message=message, retry=False))
    return supervisor.cold()


def _with_mistakes(supervisor: Supervisor, reading: Reading) -> int:
    """Handle invalid settings: a creation ends, a restoring pod starts cold unless ON_FAILURE says otherwise.

    If MODE itself is invalid, nobody knows which of them this is, and a Job that serves for ever is worse
    than a pod that ends.
    """
    from dynamo_entry.protocol import Outcomes, Phases, Result  # noqa: PLC0415

    error = reading.error()
    if reading.settings.mode == "cold" and "MODE" not in reading.invalid:
        supervisor.log.warning("invalid settings ignored", message=str(error))
        return _cold(supervisor, Cold())
    result = Result(
        Outcomes.FAILED, Phases.SETTINGS, reason=error.reason, message=str(error), retry=error.retry,
        exit_code=error.exit_code,
    )  # fmt: skip
    wanted = kind(reading.settings, reading.invalid)
    if wanted == "create":
        from dynamo_entry.init.create import not_created  # noqa: PLC0415

        return not_created(supervisor, result)
    if not wanted:
        supervisor.settings = reading.settings._replace(on_failure="fail")
    return _start_cold(supervisor, result)


def _start_cold(supervisor: Supervisor, failure: Result) -> int:
    """Start cold without a restore, after undoing what an earlier restore left."""
    from dynamo_entry.init import aside  # noqa: PLC0415 - a plain cold start has nothing to take back
    from dynamo_entry.scratch import has_leftovers  # noqa: PLC0415 - as above

    work_dir = supervisor.settings.work_dir
    if not aside.may_be(lambda: has_leftovers(work_dir)):
        return supervisor.fall_back(failure)
    from dynamo_entry.init import undo  # noqa: PLC0415 - a restore was broken off, and the container started again

    return undo.start_cold(supervisor, failure)
