"""Values: what PID 1 has instead of dataclasses behaves as they do."""

import pytest

from dynamo_entry.value import Value


class Point(Value):
    x: int
    y: int = 2


def test_fields_are_given_by_position_or_by_name():
    assert Point(1) == Point(x=1, y=2) == Point(1, 2)
    assert (Point(1).x, Point(1).y) == (1, 2)


@pytest.mark.parametrize(("given", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 3})])
def test_a_missing_or_unknown_field_is_a_type_error(given, named):
    with pytest.raises(TypeError, match="x, y"):
        Point(*given, **named)


def test_values_do_not_change():
    with pytest.raises(AttributeError):
        Point(1).x = 2
    assert Point(1)._replace(y=5) == Point(1, 5)


def test_equal_values_of_one_class_are_equal_and_hash_alike():
    class Other(Value):
        x: int
        y: int = 2

    assert Point(1) != Other(1)
    assert len({Point(1), Point(1, 2), Point(2)}) == 2


def test_a_value_shows_its_fields_in_order():
    assert repr(Point(y=3, x=1)) == "Point(x=1, y=3)"
    assert list(Point(y=3, x=1)._asdict()) == ["x", "y"]
