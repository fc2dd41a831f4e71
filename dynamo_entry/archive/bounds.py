"""What an archive may make a reader hold, decided before it holds it."""

from __future__ import annotations


def check_items(document: bytes, most: int) -> None:
    """Raises ValueError for a JSON document that may have more than ``most`` values, each of which takes memory."""
    items = sum(document.count(mark) for mark in (b",", b"[", b"{"))
    if items > most:
        raise ValueError(f"it has {items} items, at most {most} are taken")
