"""How a stream of unknown length is cut into the parts of a multipart upload.

Limits of S3: 10 000 parts of 5 MiB (the last one: of any size) to 5 GiB, 50 TB in all.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
"""

from __future__ import annotations

LIMIT = 10_000

_MIB = 1 << 20

#: Small enough for eight in flight, large enough that the requests do not count.
SMALLEST = 16 * _MIB
_LARGEST = 5 << 30

#: An object of the expected size leaves so many parts for one that turns out larger.
_SPARE = 1_000

#: What no one expected to be larger has parts of the smallest size up to here.
_UNKNOWN = 32 << 30

#: Beyond, parts grow by this share of what came after: with all parts that are left that reaches 5 TB, the limit of
#: most servers; with the spare ones, several times what was expected.
_GROWTH_UNKNOWN, _GROWTH = 1_480, 100

#: What parts in flight may take together, unless two alone take more.
_IN_FLIGHT_BYTES = 128 * _MIB
_FEWEST, _MOST = 2, 8


def size(done: int, expected: int) -> int:
    """The size of the next part, when ``done`` bytes are in earlier ones and ``expected`` in all of them."""
    start, growth = (expected, _GROWTH) if expected > _UNKNOWN else (_UNKNOWN, _GROWTH_UNKNOWN)
    wanted = max(SMALLEST, expected // (LIMIT - _SPARE)) + max(0, done - start) // growth
    return min(_LARGEST, -(-wanted // _MIB) * _MIB)


def in_flight(part_size: int) -> int:
    """How many parts of that size may be in memory, the one that is being filled included."""
    return max(_FEWEST, min(_MOST, _IN_FLIGHT_BYTES // part_size))
