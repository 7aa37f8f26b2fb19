"""What a memcached keeps under a key, how much that counts for, and when it is over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

#: What an item costs besides its key and value in memcached on 64 bits: 48 bytes of header, 8 of
#: cas, a NUL behind the key and a line end behind the value.  Flags other than 0 cost 4 more.
ITEM_OVERHEAD: Final = 48 + 8 + 1 + 2
_FLAGS_COST: Final = 4

#: Numbers that are counted with are smaller.
MODULUS: Final = 2**64
#: What strtoull takes for a number: whatever stands behind it and a space is not looked at.
_NUMBER: Final = re.compile(rb"[ \t\n\v\f\r]*([+-]?)([0-9]+)(?:[ \t\n\v\f\r\0]|\Z)")


class Deadline(NamedTuple):
    """
    When something is over.

    Attributes:
        at: the time, which itself is over already.
        wall: whether it is a Unix time on the wall clock.
    """

    at: float
    wall: bool


NEVER: Final = Deadline(inf, False)
AT_ONCE: Final = Deadline(-inf, False)


@dataclass(slots=True)
class Item:
    """
    What is stored under a key.

    Attributes:
        value, flags: as they came.
        deadline: when it is gone.
        cas: its version.
    """

    value: bytes
    flags: int
    deadline: Deadline
    cas: int = 0


def item_size(key: bytes, value_length: int, flags: int = 0) -> int:
    """Return the bytes that an item counts for, as memcached counts them."""
    return ITEM_OVERHEAD + len(key) + value_length + (_FLAGS_COST if flags else 0)


def parse_number(value: bytes) -> int | None:
    """Return the number that memcached sees in *value*, or None."""
    found = _NUMBER.match(value)
    if found is None:
        return None
    number = int(found[2])
    if number >= MODULUS:
        return None
    if found[1] == b"-":
        number = -number % MODULUS  # as C wraps it round
    # A large one may be a wrapped one, so memcached looks for any sign then.
    return None if number >= MODULUS // 2 and b"-" in value.partition(b"\0")[0] else number
