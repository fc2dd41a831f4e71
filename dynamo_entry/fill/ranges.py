"""Sets of numbers as sorted lists of disjoint half-open ranges."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


def union(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers as sorted ranges; ranges that touch or overlap are joined."""
    result: list[Range] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif start < end:
            result.append((start, end))
    return result


def intersection(first: list[Range], second: list[Range]) -> list[Range]:
    """What is in both."""
    result: list[Range] = []
    i = j = 0
    while i < len(first) and j < len(second):
        start = max(first[i][0], second[j][0])
        end = min(first[i][1], second[j][1])
        if start < end:
            result.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return result


def difference(first: list[Range], second: list[Range]) -> list[Range]:
    """What is in the first and not in the second."""
    result: list[Range] = []
    j = 0
    for start, end in first:
        at = start
        while j < len(second) and second[j][1] <= at:
            j += 1
        k = j
        while k < len(second) and second[k][0] < end:
            if at < second[k][0]:
                result.append((at, second[k][0]))
            at = max(at, second[k][1])
            k += 1
        if at < end:
            result.append((at, end))
    return result
