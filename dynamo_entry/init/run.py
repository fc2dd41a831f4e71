"""From the command line to the exit code: settings → plan → one of three flows."""

from __future__ import annotations

import os

from dynamo_entry.errors import SettingsError, StorageError
from dynamo_entry.init import process, tree
from dynamo_entry.init.loop import Loop
from dynamo_entry.init.supervisor import Supervisor
from dynamo_entry.plan import Cold, Create, Plan, decide, engine_command
from dynamo_entry.report.lines import Log
from dynamo_entry.settings import PREFIX, TERMINATION_LOG, Settings, from_environment, unknown_variables


def launch(loop: Loop, argv: list[str]) -> int:
    """Run ``argv`` as the environment says; returns the exit code of this process."""
    process.reveal()
    process.keep_private()
    lack = tree.become_subreaper()
    mine = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    try:
        settings = from_environment(mine)
    except SettingsError as error:
        return _with_invalid_settings(loop, argv, mine, error)

    log = Log(settings.log_level, settings.log_format)
    for name in unknown_variables(mine):
        log.warning("unknown variable ignored", name=name)
    if lack:
        log.warning(
            "orphans of the engine will not be reaped: this is neither PID 1 nor a subreaper", error=lack
        )
    plan = decide(settings, path_exists=os.path.exists(settings.path))
    return _carry_out(Supervisor(loop, log, settings, engine_command(argv)), plan)


def _carry_out(supervisor: Supervisor, plan: Plan) -> int:
    if isinstance(plan, Cold):
        return _cold(supervisor, plan)
    if isinstance(plan, Create):
        from dynamo_entry.init.create import create  # noqa: PLC0415 - a cold start needs none of it

        return create(supervisor)
    from dynamo_entry.init.restore import restore  # noqa: PLC0415

    return restore(supervisor, plan)


def _cold(supervisor: Supervisor, plan: Cold) -> int:
    """A plain cold start is reported only on request: TERMINATION_LOG is the engine's own."""
    if not plan.reason and supervisor.settings.status_file == TERMINATION_LOG:
        return supervisor.cold()
    from dynamo_entry.protocol import Outcomes, Phases, Result  # noqa: PLC0415

    if plan.reason:
        return supervisor.fall_back(
            Result(
                Outcomes.FAILED, Phases.RESOLVE, reason=plan.reason, message=plan.message, retry=True,
                exit_code=StorageError.exit_code,
            )
        )  # fmt: skip
    message = "no checkpoint was asked for"
    supervisor.report(Result(Outcomes.COLD, Phases.RESOLVE, reason="NotAsked", message=message, retry=False))
    return supervisor.cold()


def _with_invalid_settings(loop: Loop, argv: list[str], mine: dict[str, str], error: SettingsError) -> int:
    """A creation with a wrong setting ends here; a worker pod serves all the same, unless told not to."""
    from dynamo_entry.protocol import Outcomes, Phases, Result  # noqa: PLC0415

    creates = PREFIX + "SIGNAL_FILE" in mine or mine.get(PREFIX + "MODE") == "create"
    must_fail = creates or mine.get(PREFIX + "ON_FAILURE") == "fail"
    settings = Settings(on_failure="fail" if must_fail else "cold")
    supervisor = Supervisor(loop, Log(), settings, engine_command(argv))
    return supervisor.fall_back(
        Result(
            Outcomes.FAILED, Phases.SETTINGS, reason=error.reason, message=str(error), retry=error.retry,
            exit_code=error.exit_code,
        )
    )  # fmt: skip
