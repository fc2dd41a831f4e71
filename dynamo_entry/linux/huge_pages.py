"""Transparent huge pages: what the kernel makes of memory that did not ask for them."""

from __future__ import annotations

_SETTING = "/sys/kernel/mm/transparent_hugepage/enabled"


def are_made_everywhere() -> bool:
    """Whether memory becomes huge pages unless it asks for small ones."""
    try:
        with open(_SETTING, encoding="ascii") as file:
            return "[always]" in file.read()
    except OSError:
        return False
