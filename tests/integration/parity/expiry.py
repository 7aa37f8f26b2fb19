"""Items whose time is over: at once, or while the exchange goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.integration.parity.exchange import (
    FLAGS,
    Exchange,
    Piece,
    last_cas,
    later,
    send,
    shown,
    stored,
)
from tests.integration.parity.operations import COUNT, NOOP, asked
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import OPCODES, Key, Opcode

#: When what was to be over within two seconds is so: memcached's clock ticks once in a second.
OVER: Final = 2.3
_DAYS: Final = 30 * 24 * 3600
_TIMED: Final = (
    *(Opcode.SET, Opcode.SETQ, Opcode.ADD, Opcode.ADDQ, Opcode.REPLACE, Opcode.REPLACEQ),
    *(Opcode.TOUCH, Opcode.GAT, Opcode.GATQ, Opcode.GATK, Opcode.GATKQ),
    *(Opcode.INCREMENT, Opcode.DECREMENTQ),
)
_CREATING: Final = frozenset({Opcode.ADD, Opcode.ADDQ, Opcode.INCREMENT, Opcode.DECREMENTQ})


def timed(opcode: int, key: bytes, exptime: int) -> Request:
    """Return a request that gives the item under *key* an exptime."""
    lengths = OPCODES[opcode].request.extras
    last = exptime.to_bytes(4, "big")
    if lengths == (20,):
        return Request(opcode, key, COUNT.pack(1, 7, 0)[:16] + last)
    if lengths == (8,):
        return Request(opcode, key, FLAGS.to_bytes(4, "big") + last, b"new")
    return Request(opcode, key, last)


def from_now(seconds: int, make: Callable[[int], Request]) -> Piece:
    """Return what *make* makes of the Unix time *seconds* from when it is sent."""
    return lambda heard: make(int(time.time()) + seconds)


def exptime_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of exptimes that are over at once, or not soon."""
    exptimes = {
        "never": 0,
        "1000_seconds": 1000,
        "30_days": _DAYS,
        "30_days_and_1": _DAYS + 1,
        "1980": 315_532_800,
        "2038": 2**31,
        "minus_2": 2**32 - 2,
        "minus_1": 2**32 - 1,
    }
    for opcode in _TIMED:
        for what, exptime in exptimes.items():
            name = f"exptime_{opcode.name.lower()}_{what}"
            key = name.encode()
            ask = timed(opcode, key, exptime)
            says = f"{opcode.name} with an exptime of {what.replace('_', ' ')}"
            yield _timed(name, says, opcode, ask)
        for what, seconds in (("past", -10), ("future", 1000)):
            name = f"exptime_{opcode.name.lower()}_{what}"
            piece = from_now(seconds, _maker(opcode, name.encode()))
            yield _timed(name, f"{opcode.name} with a Unix time in the {what}", opcode, piece)


def waiting_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges that wait until an item is over; all wait equally long."""
    for opcode in _TIMED:
        for what, exptime in (("1_second", 1), ("1000_seconds", 1000)):
            name = f"wait_{opcode.name.lower()}_{what}"
            key = name.encode()
            setup = [] if opcode in _CREATING else [send(stored(key, b"old"))]
            flights = (*setup, send(timed(opcode, key, exptime)), later(OVER, shown(key)))
            says = f"an item that {opcode.name} gave {what.replace('_', ' ')}, later"
            yield Exchange(name, says, flights)
        name = f"wait_{opcode.name.lower()}_unix"
        key = name.encode()
        setup = [] if opcode in _CREATING else [send(stored(key, b"old"))]
        piece = from_now(1, _maker(opcode, key))
        says = f"an item that {opcode.name} gave a Unix time of soon, later"
        yield Exchange(name, says, (*setup, send(piece), later(OVER, shown(key))))
    yield from _kept()
    yield from _over()


def _timed(name: str, says: str, opcode: Opcode, ask: Piece) -> Exchange:
    key = name.encode()
    setup = [] if opcode in _CREATING else [send(stored(key, b"old"))]
    return Exchange(name, says, (*setup, send(ask, NOOP), send(shown(key))))


def _maker(opcode: Opcode, key: bytes) -> Callable[[int], Request]:
    return lambda exptime: timed(opcode, key, exptime)


def _kept() -> Iterator[Exchange]:
    # What changes an item leaves its time alone, and only what sets a new one prolongs it.
    for opcode in (Opcode.APPEND, Opcode.PREPENDQ, Opcode.INCREMENT, Opcode.DECREMENT, Opcode.GET):
        name = f"wait_kept_{opcode.name.lower()}"
        key = name.encode()
        first = send(stored(key, b"99", exptime=1), asked(opcode, key), shown(key))
        says = f"an item with a second to live behind {opcode.name}, later"
        # It may be over as soon as it is there, so what came first is not looked at.
        yield Exchange(name, says, (first, later(OVER, shown(key))), unsure=0)
    for opcode in _TIMED:
        if opcode in _CREATING:
            continue
        name = f"wait_prolonged_{opcode.name.lower()}"
        key = name.encode()
        first = send(stored(key, b"99", exptime=2), timed(opcode, key, 0))
        says = f"an item that had two seconds to live and {opcode.name} gave more"
        yield Exchange(name, says, (first, later(OVER, shown(key))))


def _over() -> Iterator[Exchange]:
    for row in OPCODES.values():
        opcode = row.opcode
        if row.request.key is not Key.REQUIRED or opcode in (Opcode.SASL_AUTH, Opcode.SASL_STEP):
            continue
        name = f"wait_over_{opcode.name.lower()}"
        key = name.encode()
        yield Exchange(
            name,
            f"{opcode.name} of an item whose time is over",
            (
                send(stored(key, b"10", exptime=1)),
                later(OVER, asked(opcode, key), NOOP, shown(key)),
            ),
        )
        key += b"-cas"
        yield Exchange(
            f"{name}_cas",
            f"{opcode.name} of an item whose time is over, with its cas",
            (
                send(stored(key, b"10", exptime=1)),
                later(OVER, _with_cas(opcode, key), NOOP, shown(key)),
            ),
        )


def _with_cas(opcode: Opcode, key: bytes) -> Piece:
    return lambda heard: asked(opcode, key, cas=last_cas(heard))
