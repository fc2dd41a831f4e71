"""Starts CRIU before its images are known to be good: it loads while this place is checked, and gets its first image after that."""

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
        # Where the kernel makes huge pages by default, a userfaultfd would be slower: it fills small pages.
        by_fault = not pages.are_huge_by_default() and userfault.is_allowed()
        self.handover = lazy_pages.Handover(work) if by_fault else None
        with ExitStack() as stack:
            if self.handover:
                stack.callback(self.handover.close)
            self.held = stack.enter_context(closing(gate.Gate(work, gate.PRE_RESUME)))
            remove(self.pid_file)  # an earlier restore's, if the container was started again
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
            tasks.volunteer_for_oom()  # only now: CRIU's tasks would inherit the score
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End CRIU, if it has not ended. Idempotent.

        The log of a CRIU that got no image says nothing, and must not replace a log that is kept.
        """
        self._open.close()
        if self._images is None:
            remove(self._log)

    def serve(self, images: _Images) -> None:
        """Give CRIU the images that it asks for from now on: it makes tasks of them."""
        self._images = images
        self._may_serve.set()

    def _image(self, name: str) -> Iterable[Any] | None:
        self._may_serve.wait()
        assert self._images is not None
        return self._images(name)

    def _note_failure(self, error: Exception) -> None:
        self.failure = self.failure or error


def _own_stdio() -> dict[int, str]:
    """Copies of our stdout and stderr → what they replace of the engine's, so that its lines go to our log."""
    inherit: dict[int, str] = {}
    for number, resource in stdio.NAMES.items():
        descriptor = os.dup(number)
        os.set_inheritable(descriptor, True)
        inherit[descriptor] = resource
    return inherit
