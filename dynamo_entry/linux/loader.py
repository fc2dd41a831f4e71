"""Variables that make programs load other files than those they came with: ld.so(8), protobuf. Standard library only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

#: protobuf ends the program at a value that it does not know. The protobuf of pycriu has C++ code alone: other values make it slow.
_PROTOBUF = b"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"

_OTHERS = frozenset((b"GLIBC_TUNABLES", b"GCONV_PATH", b"LOCPATH", _PROTOBUF))


def variables(names: Iterable[bytes], kept: Collection[str] = ()) -> list[bytes]:
    """The loader's variables among ``names``, which are meant for the engine; not those ``kept`` for the launcher."""
    ours = {name.encode() for name in kept}
    return sorted(name for name in names if (name.startswith(b"LD_") or name in _OTHERS) and name not in ours)
