"""
An exchange: what a client says on one fresh connection, flight by flight.

A flight is what is sent without waiting for an answer.  Behind one that ends where a frame ends,
whoever sends it asks for the version twice: that is answered to everybody and in order, so what
came before is everything.  Twice, because a server that lost its place in the stream may take one
for something else; the second then ends the connection.  A flight that ends inside a frame has
nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from txtlsmc.wire.frames import HEADER, HEADER_SIZE, REQUEST_MAGIC, Request, Response
from txtlsmc.wire.opcodes import MAX_KEY, OPCODES, Key, Opcode

SASL: Final = frozenset({Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP})

#: What is said: bytes as they are, a request, or something that rests on the answers so far.
Piece = bytes | Request | Callable[[Sequence[Response]], Request]

#: The opaques of what is asked behind a flight.
FENCES: Final = (0x46454E43, 0x46454E44)
FENCE: Final = b"".join(Request(Opcode.VERSION, opaque=opaque).encode() for opaque in FENCES)

#: What every item is stored with, unless it matters.
FLAGS: Final = 0x01020304
STORED: Final = FLAGS.to_bytes(4, "big") + bytes(4)


class Alone(Enum):
    """Whether an exchange may share its server with others."""

    NO = "together with others"
    YES = "on a server of its own"


@dataclass(frozen=True)
class Flight:
    """
    What is sent at once.

    Attributes:
        pieces: in this order, and in one write.
        whole: whether it ends where a frame ends.
        after: how many seconds to wait before.
    """

    pieces: tuple[Piece, ...]
    whole: bool = True
    after: float = 0

    def encode(self, heard: Sequence[Response]) -> bytes:
        """Return the bytes, given the answers so far."""
        data = []
        for piece in self.pieces:
            if callable(piece):
                piece = piece(heard)
            data.append(piece.encode() if isinstance(piece, Request) else piece)
        return b"".join(data)


@dataclass(frozen=True)
class Exchange:
    """
    One row of the table.

    Attributes:
        name: no two have the same; the test is called after it.
        says: the sentence that holds when both servers answer alike.
        flights: what the client sends.
        alone: whether it needs a server of its own, because what it does is seen by all.
        told: names of STAT that both servers must tell, with the same value.
        unsure: the number of a flight whose answers may be one or the other, and are left out.
    """

    name: str
    says: str
    flights: tuple[Flight, ...]
    alone: Alone = Alone.NO
    told: frozenset[bytes] = frozenset()
    unsure: int | None = None

    @property
    def waits(self) -> bool:
        """Whether there is a time in it when nothing is sent and nothing is expected."""
        return any(flight.after for flight in self.flights)

    def behind(self, *flights: Flight) -> Exchange:
        """Return the same exchange behind other flights."""
        return Exchange(
            self.name, self.says, (*flights, *self.flights), self.alone, self.told, self.unsure
        )


def send(*pieces: Piece) -> Flight:
    """Return a flight of whole frames."""
    return Flight(pieces)


def later(seconds: float, *pieces: Piece) -> Flight:
    """Return a flight of whole frames that is sent *seconds* after the answers to the last one."""
    return Flight(pieces, after=seconds)


def part(*pieces: Piece) -> Flight:
    """Return a flight that ends inside a frame."""
    return Flight(pieces, whole=False)


def framed(
    opcode: int,
    *,
    extras: bytes = b"",
    key: bytes = b"",
    value: bytes = b"",
    extras_length: int | None = None,
    key_length: int | None = None,
    body_length: int | None = None,
    data_type: int = 0,
    magic: int = REQUEST_MAGIC,
    opaque: int = 0,
) -> bytes:
    """Return a request whose header says what it is told, whatever the body is."""
    body = extras + key + value
    header = HEADER.pack(
        magic,
        opcode,
        len(key) if key_length is None else key_length,
        len(extras) if extras_length is None else extras_length,
        data_type,
        0,
        len(body) if body_length is None else body_length,
        opaque,
        0,
    )
    return header + body


def stored(key: bytes, value: bytes, *, exptime: int = 0, opaque: int = 0) -> Request:
    """Return the SET that puts *value* under *key*."""
    extras = FLAGS.to_bytes(4, "big") + exptime.to_bytes(4, "big")
    return Request(Opcode.SET, key, extras, value, opaque=opaque)


def shown(key: bytes) -> Request:
    """Return the GETK that shows what is under *key*."""
    return Request(Opcode.GETK, key, opaque=0x73686F77)


def last_cas(heard: Sequence[Response]) -> int:
    """Return the last version of an item that the server told."""
    return next(response.cas for response in reversed(heard) if response.cas)


def keys_of(exchange: Exchange) -> set[bytes]:
    """Return the keys of items that are asked for, up to where nobody can tell any more."""
    heard = [Response(Opcode.GET, cas=1)]
    stream = b"".join(flight.encode(heard) for flight in exchange.flights)
    keys, start = set(), 0
    while len(stream) - start >= HEADER_SIZE and stream[start] == REQUEST_MAGIC:
        _, opcode, key_length, extras_length, _, _, body, _, _ = HEADER.unpack_from(stream, start)
        key_start = start + HEADER_SIZE + extras_length
        row = OPCODES.get(opcode)
        if row is not None and row.request.key is Key.REQUIRED and opcode not in SASL:
            keys.add(stream[key_start : key_start + key_length])
        start += HEADER_SIZE + body
    return {key for key in keys if 0 < len(key) <= MAX_KEY}
