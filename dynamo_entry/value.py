"""Typed, immutable values for PID 1, without ``typing`` and ``dataclasses``, which would cost it 10 ms or more."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_):  # noqa: ANN003, ANN201
        return lambda cls: cls


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
