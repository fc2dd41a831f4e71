"""Ranges behave like the sets of numbers that they stand for."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dynamo_entry.fill import ranges

NUMBERS = st.sets(st.integers(0, 40))


def as_ranges(numbers):
    return ranges.union((number, number + 1) for number in numbers)


def as_set(found):
    assert all(start < end for start, end in found)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(found)), "disjoint, apart"
    return {number for start, end in found for number in range(start, end)}


@given(NUMBERS)
def test_union_makes_one_of_what_touches(numbers):
    assert as_set(as_ranges(numbers)) == numbers


@given(NUMBERS, NUMBERS)
def test_intersection(first, second):
    assert as_set(ranges.intersection(as_ranges(first), as_ranges(second))) == first & second


@given(NUMBERS, NUMBERS)
def test_difference(first, second):
    assert as_set(ranges.difference(as_ranges(first), as_ranges(second))) == first - second


def test_empty_and_overlapping_ranges():
    assert ranges.union([(5, 5), (3, 6), (1, 4)]) == [(1, 6)]
