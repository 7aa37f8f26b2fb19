"""Values that say whose they are: key, number, length and checksum come with them."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

_DIGEST = 16


class Stamp(NamedTuple):
    """
    What a value says of itself.

    Attributes:
        key: whose it is.
        number: which one of that key.
    """

    key: bytes
    number: int


class Wrong(NamedTuple):
    """
    What is wrong with a value.

    Attributes:
        kind: ``"corrupt"`` or ``"short_value"``.
        words: what it is.
    """

    kind: str
    words: str


def make(key: bytes, number: int, length: int) -> bytes:
    """Return a value of about *length* bytes."""
    head = b"%s %d %d " % (key, number, length)
    block = blake2b(head, digest_size=64).digest()
    body = head + (block * (length // len(block) + 1))[:length]
    return body + _digest(body)


def read(value: bytes) -> Stamp | Wrong:
    """Return whose *value* is, or what is wrong with it."""
    body, digest = value[:-_DIGEST], value[-_DIGEST:]
    parts = value.split(b" ", 3)
    try:
        key, number, length = parts[0], int(parts[1]), int(parts[2])
    except (IndexError, ValueError):
        return Wrong("corrupt", f"a value of {len(value)} bytes that says nothing of itself")
    if _digest(body) == digest:
        return Stamp(key, number)
    whole = make(key, number, min(length, 2**24))
    if len(value) < len(whole) and whole.startswith(value):
        return Wrong("short_value", f"{len(value)} of the {len(whole)} bytes of a value")
    return Wrong("corrupt", f"a value of {len(value)} bytes with a wrong checksum")


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST).digest()
