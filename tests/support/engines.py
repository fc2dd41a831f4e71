"""Small engines, written where they are tested: ready at once, and what they say after the wait says a restored one."""

from textwrap import dedent

from containers import RESTORE
from launcher import FALLBACK, SETTINGS, create

_HEAD = """
import os, sys, time, glob, pathlib
def wait():
    if signal := os.environ.get("DYNAMO_CHECKPOINT_SIGNAL_FILE"):
        pathlib.Path(signal).touch()
    while not glob.glob("/run/dynamo_entry/context.json") + glob.glob("/tmp/dynamo_entry/context.json"):
        time.sleep(.1)
def done(*words):
    print("after", *words, "DONE", flush=True)
    time.sleep(60)
"""


class Engine:
    """One script, created and restored with the same command."""

    def __init__(self, containers, text, *arguments):
        containers.checkpoints.chmod(0o777)
        (containers.checkpoints / "engine.py").write_text(_HEAD + dedent(text))
        self.containers = containers
        self.command = ("python3", "-u", "/checkpoints/engine.py", *arguments)

    def created(self, **how):
        """A creation that succeeded."""
        creator = create(self.containers, command=self.command, **how)
        assert creator.exit_code(120) == 0, creator.output()
        return creator

    def restored(self, **how):
        """A restore that succeeded, and whose engine went on."""
        container = self._restore(**how)
        container.wait(lambda: container.event("Restored") or container.event(FALLBACK), "end")
        assert container.event("Restored"), container.output()
        container.wait_for_text("DONE")
        return container

    def _restore(self, *, settings=None, options=RESTORE, **how):
        return self.containers.start(
            *self.command, settings={**SETTINGS, **(settings or {})}, options=options, **how
        )

    def refused(self, phase="check", **how):
        """Why a restore was given up."""
        container = self._restore(**how)
        event = container.wait_for_event(FALLBACK)
        assert event["phase"] == phase, container.output()
        container.kill()
        return event
