"""Small engines, written where they are tested: ready at once, and what they say after the wait says a restored one."""

from textwrap import dedent

from launcher import FALLBACK, published, restore, restored

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
        return published(self.containers, command=self.command, limit_s=120, **how)

    def restored(self, **how):
        """A restore that succeeded, and whose engine went on."""
        container = restored(self.containers, command=self.command, **how)
        container.wait_for_text("DONE")
        return container

    def refused(self, phase="check", **how):
        """Why a restore was given up."""
        container = restore(self.containers, command=self.command, **how)
        event = container.wait_for_event(FALLBACK)
        assert event["phase"] == phase, container.output()
        container.kill()
        return event
