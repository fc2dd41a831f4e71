"""CRIU before the images are known to be good: it starts while this place is looked at, and gets none until then."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

from dynamo_entry.archive.streams import RESTORE_LOG
from dynamo_entry.checks import host, kept_connections
from dynamo_entry.criu import gate, lazy_pages, options, process
from dynamo_entry.criu.rewrite import stdio
from dynamo_entry.criu.streamer import Serve
from dynamo_entry.linux import pages, tasks, timens, userfault
from dynamo_entry.scratch import remove

if TYPE_CHECKING:
    from typing_extensions import Self

#: Gives an image by its name, or None.
_Images = Callable[[str], "Iterable[Any] | None"]


def needs_no_images(facts: Mapping[str, Any]) -> bool:
    """Whether this place and the manifest's ``facts`` alone decide what CRIU is called with."""
    return not timens.may_be_set() and not kept_connections.any_inside(facts.get("connections", {}))


class Standby:
    """A CRIU that waits for its first image; closing this ends it.

    CRIU takes 20 ms to start, most of it to learn what the kernel can do.
    """

    def __init__(
        self, work: str, *, keeps_connections: bool = False, clock: host.ClockOffsets | None = None
    ) -> None:
        places = options.Places(work, work, RESTORE_LOG)
        self.pid_file = options.pid_file(places)
        self._log = f"{work}/{places.log}"
        #: what went wrong with serving images
        self.failure: Exception | None = None
        self._images: _Images | None = None
        self._may_serve = threading.Event()
        #: where the kernel makes huge pages without being asked, filling small ones would cost more, not less
        by_fault = not pages.become_huge() and userfault.is_allowed()
        self.handover = lazy_pages.Handover(work) if by_fault else None
        with ExitStack() as stack:
            if self.handover:
                stack.callback(self.handover.close)
            self.held = stack.enter_context(closing(gate.Gate(work, gate.PRE_RESUME)))
            remove(self.pid_file)  # of an earlier restore, in a container that was started again
            Serve(work, self._image, self._note_failure)
            inherit = _own_stdio()
            argv = options.restore(
                places, inherit=inherit, keeps_connections=keeps_connections, lazy_pages=by_fault
            )
            self.criu = stack.enter_context(
                closing(
                    process.Restoring(
                        argv, self._log, keep=tuple(inherit), extra=self.held.environment,
                        before=partial(timens.enter_new, *clock) if clock else None,
                    )
                )
            )  # fmt: skip
            stack.callback(self.criu.kill)
            tasks.volunteer_for_oom()  # not before: the tasks would inherit it
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End CRIU, if it has not ended. Idempotent.

        The log of one that got no image says nothing, and must not take the place of one that is kept.
        """
        self._open.close()
        if self._images is None:
            remove(self._log)

    def serve(self, images: _Images) -> None:
        """From now on CRIU gets what it asks for, and makes tasks of it."""
        self._images = images
        self._may_serve.set()

    def _image(self, name: str) -> Iterable[Any] | None:
        self._may_serve.wait()
        assert self._images is not None
        return self._images(name)

    def _note_failure(self, error: Exception) -> None:
        self.failure = self.failure or error


def _own_stdio() -> dict[int, str]:
    """Our descriptors → what they replace of the engine's, if it has such: its lines go to our log."""
    inherit: dict[int, str] = {}
    for number, resource in stdio.NAMES.items():
        descriptor = os.dup(number)
        os.set_inheritable(descriptor, True)
        inherit[descriptor] = resource
    return inherit
