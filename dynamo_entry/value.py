"""Typed, immutable values that cost next to nothing to import.

``Value`` is a frozen dataclass for PID 1: ``typing`` and ``dataclasses`` would cost it 10 ms or more. ``NamedTuple`` works like
that of ``typing``, which compiles code for every class and every field, and so takes 10 ms of a restore.
"""

from __future__ import annotations

__all__ = ["NamedTuple", "Value"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import (
        Any,
        NamedTuple,  # noqa: TID251 - type checkers take ours for this one
    )

    from typing_extensions import Self, dataclass_transform
else:
    from _operator import itemgetter  # nothing in PID 1 needs ``operator``, which is one more file

    def dataclass_transform(**_):  # noqa: ANN003, ANN202
        return lambda cls: cls

    class _Made(type):
        """Turns a class with annotations into one whose instances are tuples of these fields."""

        def __new__(cls, name, bases, body):  # noqa: ANN001, ANN204
            if any(getattr(base, "_fields", ()) for base in bases):
                raise TypeError(f"{name}: a named tuple with fields has no subclasses")
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


@dataclass_transform(frozen_default=True)
class Value:
    """Base of immutable values: annotations are the fields, class attributes are their defaults.

    Type checkers see a frozen dataclass. The helpers have the names that a named tuple gives them.
    """

    _fields: tuple[str, ...] = ()
    _defaults: Mapping[str, Any]

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)
        cls._defaults = {name: getattr(cls, name) for name in cls._fields if hasattr(cls, name)}

    def __init__(self, *given: Any, **named: Any) -> None:
        fields = {**self._defaults, **dict(zip(self._fields, given, strict=False)), **named}
        if len(given) > len(self._fields) or fields.keys() != set(self._fields):
            raise TypeError(f"{type(self).__name__} takes {', '.join(self._fields)}")
        self.__dict__.update({name: fields[name] for name in self._fields})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._asdict() == other._asdict()

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def _asdict(self) -> dict[str, Any]:
        """Return field names and values, in order."""
        return dict(self.__dict__)

    def _replace(self, **changes: Any) -> Self:
        """Return a copy with other values for some fields."""
        return type(self)(**{**self.__dict__, **changes})
