"""The register of things. A thing is a function that sets something up and returns the check that it works.

A check raises where it does not. It may be called any number of times.
"""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[], object]

THINGS: dict[str, Callable[[], Check]] = {}


def thing(function: Callable[[], Check]) -> Callable[[], Check]:
    """Register a thing under the name of its function."""
    THINGS[function.__name__] = function
    return function


def equal(found: object, expected: object) -> None:
    """Raise where the two differ, and show both."""
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")
