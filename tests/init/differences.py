"""Where the inits differ from what the suite asks for: test → why. An entry that holds no more fails its test.

Read it as: what `dynamo_entry` does on purpose that tini 0.19, dumb-init 1.2.5 and catatonit 0.1.7 do not.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    why: str
    always: bool = True  # a race is lost now and then


USAGE = Difference("its own options, and its own exit code for a wrong command line")
SETTINGS = Difference("has no settings; ours come by environment variables and are withheld from the engine")
ONE_CODE = Difference("one exit code for whatever keeps a command from running; ours are the shell's")
INTERPRETER = Difference("says ENOENT about a script that is there; ours says what is missing")
DESCRIPTORS = Difference("passes on what leaked into it; a dump must not hold files that nobody knows of")
NO_PIPE = Difference("waits for signals alone; ours waits for a worker as well, and has a pipe to wait on")
GRACE = Difference(
    "ends with the engine: what is left is killed by the kernel, or lives on where this is not PID 1"
)
INHERITS = Difference("passes ignored and blocked signals on as exec does; ours starts every engine alike")
SAME_SESSION = Difference(
    "leaves the engine in its own session; a restored engine leads one, so ours always does"
)
JOB_CONTROL = Difference("does not stop with its engine, and ignores TTIN and TTOU; ours does as dumb-init")
ABORT = Difference("dies of SIGABRT; ours forwards it, since it is asked for to get a core or a traceback")
FORK_RACE = Difference("a signal between fork and setpgid or setsid finds no group and is lost", always=False)
EPERM = Difference("says nothing where a signal may not be delivered, or ends")
FORK_FAILS = Difference(
    "exits with 1 where nothing can be forked; ours is the code of what cannot be executed"
)
NO_READER = Difference("dies of SIGPIPE when nobody reads its message; ours still exits with the right code")
STEALS = Difference("takes the terminal from a shell that started it in the background")
KEEPS = Difference("leaves the terminal to a group that is gone, and the next reader is stopped")
STOPPED = Difference("does not stop with its engine, and the shell above waits for ever")
FROZEN = Difference("an engine stopped by Ctrl-Z stays so, although no shell is there to resume it")
OWN_TERMINAL = Difference("gives the engine a session without a terminal when a shell above has it")

_NOT_OURS = {
    "test_no_command*": USAGE,
    "test_an_unknown_option*": USAGE,
    "test_help_and_version*": USAGE,
    "test_a_missing_interpreter*": INTERPRETER,
    "test_it_holds_a_pipe*": NO_PIPE,
    "test_the_launchers_own_variables*": SETTINGS,
    "test_a_settings_mistake*": SETTINGS,
    "test_status_file*": SETTINGS,
    "test_no_other_descriptor*": DESCRIPTORS,
    "test_what_is_left*": GRACE,
    "test_what_ignores_term*": GRACE,
    "test_a_signal_during_the_grace_period*": GRACE,
    "test_nothing_survives*": GRACE,
    "test_readers_of_standard_error*": NO_READER,
    "test_no_more_processes*": FORK_FAILS,
    "test_an_engine_of_another_user*": EPERM,
}

_ONE_CODE = {
    "test_a_command_that_is_not*": ONE_CODE,
    "test_the_path_is_searched*": ONE_CODE,
    "test_readers_of_standard_error*": ONE_CODE,
}

DIFFERENCES: dict[str, dict[str, Difference]] = {
    "dynamo_entry": {},
    "tini": {
        **_NOT_OURS,
        "test_it_never_wakes_up*": Difference("wakes up every second (sigtimedwait)"),
        "test_default_dispositions*": INHERITS,
        "test_signals_that_were_blocked*": INHERITS,
        "test_children_are_noticed*": Difference(
            "with SIGCHLD ignored it never learns of the end of its engine"
        ),
        "test_what_was_closed*closed[034]]": Difference("cannot run with standard input closed"),
        "test_without_dev*": Difference("cannot run with standard input closed"),
        "test_its_own_session*": SAME_SESSION,
        "test_every_plain_signal*": ABORT,
        "test_a_burst_of_different*": ABORT,
        "test_a_signal_before*": FORK_RACE,
        "test_a_signal_at_any_moment*": FORK_RACE,
        "test_a_hang_up*": FORK_RACE,
        "test_job_control*-2[12]]": JOB_CONTROL,
        "test_job_control*child-20]": JOB_CONTROL,
        "test_ctrl_z_does_not_freeze*": FROZEN,
        "test_ctrl_z_gives*": STOPPED,
        "test_in_the_background*": STEALS,
        "test_who_comes_after*": KEEPS,
    },
    "dumb-init": {
        **_NOT_OURS,
        **_ONE_CODE,
        "test_a_signal_before*": FORK_RACE,
        "test_a_signal_at_any_moment*": FORK_RACE,
        "test_a_hang_up*": FORK_RACE,
        "test_a_fault*pid1*": Difference("forwards the signals of a fault, its own included"),
        "test_a_launcher_without_the_foreground*": Difference("forwards TTIN and TTOU with a terminal, too"),
        "test_ctrl_z_gives*": OWN_TERMINAL,
        "test_in_the_background*": OWN_TERMINAL,
    },
    "catatonit": {
        **_NOT_OURS,
        **_ONE_CODE,
        "test_default_dispositions*": INHERITS,
        "test_signals_that_were_blocked*": INHERITS,
        "test_children_are_noticed*": Difference(
            "with SIGCHLD ignored it never learns of the end of its engine"
        ),
        "test_its_own_session*": SAME_SESSION,
        "test_every_plain_signal*": ABORT,
        "test_a_burst_of_different*": ABORT,
        "test_the_group_gets_it*group*": Difference("forwards to the engine alone, always"),
        "test_job_control*": JOB_CONTROL,
        "test_ctrl_z_gives*": STOPPED,
        "test_in_the_background*": STEALS,
        "test_who_comes_after*": KEEPS,
    },
}
