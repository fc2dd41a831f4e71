"""An ELF file that the engine runs: its build id is looked for."""

import struct

from dynamo_entry.linux import elf

REFUSALS = ()

_NOTE = struct.pack("=III", 4, 8, 3) + b"GNU\0" + b"buildid!"
_ELF = (
    b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("=Q", 64) + bytes(16) + struct.pack("=H", 1) + bytes(6)
    + struct.pack("=I4xQ16xQ16x", 4, 120, len(_NOTE)) + _NOTE
)  # fmt: skip

SEEDS = [{"program": _ELF}]


def feed(case, place):
    """It is found or not."""
    with open(f"{place}/program", "wb") as file:
        file.write(case["program"])
    found = elf.build_id(f"{place}/program")
    assert found == b"buildid!" or case["program"] != _ELF
