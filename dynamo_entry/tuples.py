"""``typing.NamedTuple`` without the compiler, which that calls for every class and every field: 10 ms of a restore."""

from __future__ import annotations

__all__ = ["NamedTuple"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple  # noqa: TID251 - what ours is to a type checker
else:
    from operator import itemgetter

    class _Made(type):
        """Makes a class with annotations one whose instances are tuples of these fields."""

        def __new__(cls, name, bases, body):  # noqa: ANN001, ANN204
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body[field] for field in fields if field in body}
            getters = {field: property(itemgetter(at)) for at, field in enumerate(fields)}
            own = {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields, "__slots__": ()}
            return super().__new__(cls, name, bases, {**body, **getters, **own})

    class NamedTuple(tuple, metaclass=_Made):
        """As ``typing.NamedTuple``: annotations are the fields, class attributes are their defaults."""

        __slots__ = ()

        def __new__(cls, *given, **named):  # noqa: ANN002, ANN003, ANN204
            if named or len(given) != len(cls._fields):
                left, values = cls._fields[len(given) :], {**cls._field_defaults, **named}
                if len(given) > len(cls._fields) or not named.keys() <= {*left} <= values.keys():
                    raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
                given += tuple(values[field] for field in left)
            return tuple.__new__(cls, given)

        def __repr__(self) -> str:
            fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({fields})"

        def __getnewargs__(self) -> tuple:
            return tuple(self)

        def _asdict(self) -> dict:
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes):  # noqa: ANN003, ANN202
            return type(self)(**{**self._asdict(), **changes})
