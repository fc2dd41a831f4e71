"""Named tuples are what ``typing`` would make of the same class."""

import copy
import pickle
import typing

import pytest

from dynamo_entry.value import NamedTuple


class Ours(NamedTuple):
    """A range."""

    start: int
    end: int
    flags: int = 7

    @property
    def length(self) -> int:
        return self.end - self.start


class Theirs(typing.NamedTuple):
    """A range."""

    start: int
    end: int
    flags: int = 7

    @property
    def length(self) -> int:
        return self.end - self.start


BOTH = pytest.mark.parametrize("kind", [Ours, Theirs])


@BOTH
def test_made_used_and_changed(kind):
    one = kind(1, end=5)
    assert one == (1, 5, 7) == kind(1, 5, 7) == kind(flags=7, end=5, start=1)
    assert (one.start, one.end, one.flags, one.length) == (1, 5, 7, 4)
    assert isinstance(one, tuple) and hash(one) == hash((1, 5, 7)) and one < kind(2, 0)
    assert one._replace(end=9) == (1, 9, 7) and type(one._replace(end=9)) is kind
    assert one._asdict() == {"start": 1, "end": 5, "flags": 7}
    assert kind._fields == ("start", "end", "flags") and kind._field_defaults == {"flags": 7}
    assert repr(one) == f"{kind.__name__}(start=1, end=5, flags=7)"
    start, *rest = one
    assert (start, rest) == (1, [5, 7])
    match one:
        case kind(first, last):
            assert (first, last) == (1, 5)
    for again in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert again == one and type(again) is kind


@BOTH
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2, 3, 4), {}),
        ((1, 2), {"start": 1}),
        ((1,), {"flags": 2}),
        ((1, 2), {"more": 3}),
    ],
)
def test_wrong_fields_are_refused(kind, given, named):
    with pytest.raises(TypeError):
        kind(*given, **named)


@BOTH
@pytest.mark.parametrize("name", ["start", "flags", "more"])
def test_immutable(kind, name):
    with pytest.raises(AttributeError):
        setattr(kind(1, 2), name, 3)


def test_a_subclass_which_would_have_other_fields_is_refused():
    with pytest.raises(TypeError, match="Further"):

        class Further(Ours):
            pass
