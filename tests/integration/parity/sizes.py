"""Values at the limit of the largest item, above it, and far above."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.integration.parity.exchange import (
    FLAGS,
    STORED,
    Exchange,
    Flight,
    Piece,
    framed,
    part,
    send,
    shown,
    stored,
)
from tests.integration.parity.operations import COUNT, NOOP
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode

#: What an item costs besides its key and its value: without flags, and for flags.
_OVERHEAD: Final = 59
_FLAGS_COST: Final = 4
_NO_FLAGS: Final = bytes(8)


def size_exchanges(limit: int) -> Iterator[Exchange]:
    """
    Yield the exchanges about the size of items.

    Args:
        limit: of one item, as the servers are set up.
    """
    for opcode in (Opcode.SET, Opcode.SETQ, Opcode.ADD, Opcode.REPLACE):
        for extras, cost in ((_NO_FLAGS, 0), (STORED, _FLAGS_COST)):
            for more in (0, 1):
                name = f"size_{opcode.name.lower()}_{cost}_{more}"
                key = name.encode()
                write = _large(opcode, key, limit - _OVERHEAD - cost - len(key) + more, extras)
                yield Exchange(
                    name,
                    f"{opcode.name} of {more} bytes above the limit, with {cost} for its flags",
                    (*_before(opcode, key), send(write, NOOP), send(shown(key))),
                )
    for opcode in (Opcode.APPEND, Opcode.PREPENDQ):
        word = opcode.name.lower()
        for more in (0, 1):
            name = f"size_{word}_{more}"
            key = name.encode()
            first = limit // 2
            write = _large(opcode, key, limit - first - _OVERHEAD - _FLAGS_COST - len(key) + more)
            yield Exchange(
                name,
                f"{opcode.name} that makes it {more} bytes above the limit",
                (send(_large(Opcode.SET, key, first, STORED)), send(write, NOOP, shown(key))),
            )
        name = f"size_{word}_alone"
        key = name.encode()
        write = _large(opcode, key, limit)
        yield Exchange(
            name,
            f"{opcode.name} of more than an item may have",
            (send(write, NOOP), send(stored(key, b"old")), send(write, NOOP, shown(key))),
        )
    for times in (2, 5):
        name = f"size_times_{times}"
        key = name.encode()
        write = _large(Opcode.SET, key, times * limit, STORED)
        yield Exchange(
            name,
            f"SET of {times} times the limit",
            (send(stored(key, b"old")), send(write, NOOP), send(shown(key))),
        )
    key = b"largest"
    yield Exchange(
        "size_read",
        "reading a large value twice, and counting with it",
        (
            send(_large(Opcode.SET, key, limit - 100, STORED)),
            send(shown(key), shown(key), NOOP),
            send(Request(Opcode.INCREMENT, key, COUNT.pack(1, 1, 0))),
        ),
    )


def announced_exchanges(limit: int) -> Iterator[Exchange]:
    """Yield the exchanges that announce a value which is too large, and do not send it."""
    for what, length in (("once", limit), ("times_5", 5 * limit), ("half_a_gib", 2**29)):
        name = f"announced_{what}"
        key = name.encode()
        frame = framed(Opcode.SET, extras=STORED, key=key, body_length=8 + len(key) + length)
        yield Exchange(
            name,
            f"a SET that announces {length} bytes and sends ten",
            (send(stored(key, b"old")), part(frame, b"0123456789")),
        )


def flags_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges about flags."""
    for flags in (0, 1, FLAGS, 2**31, 2**32 - 1):
        key = b"flags-%x" % flags
        write = Request(Opcode.SET, key, flags.to_bytes(4, "big") + bytes(4), b"value")
        name = f"flags_{flags:x}"
        yield Exchange(name, f"the flags {flags:#x}", (send(write), send(shown(key))))


def _before(opcode: Opcode, key: bytes) -> tuple[Flight, ...]:
    return () if opcode is Opcode.ADD else (send(stored(key, b"old")),)


def _large(opcode: int, key: bytes, length: int, extras: bytes = b"") -> Piece:
    # Made when it is sent: the table lives as long as the tests.
    return lambda heard: Request(opcode, key, extras, bytes(length))
