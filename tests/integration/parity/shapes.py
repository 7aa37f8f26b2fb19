"""Every wrong shape of every opcode, opcodes that nobody knows, and headers that lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tests.integration.parity.exchange import Exchange, Flight, framed, part, send
from tests.integration.parity.operations import PUBLIC
from txtlsmc.wire.frames import HEADER_SIZE, Request
from txtlsmc.wire.opcodes import MAX_KEY, OPCODES, Key, Opcode, OpcodeRow

#: Answered by everybody, before anything else: so there is something to be lost.
_BEFORE: Final = Request(Opcode.VERSION, opaque=0x62656672)
_NOOP: Final = Request(Opcode.NOOP).encode()
_LONG: Final = (MAX_KEY + 1, 16_000, 2**16 - 1)
#: Neither known to memcached nor to anybody else; 0x1b is the specification's VERBOSITY.
_UNKNOWN: Final = (0x1B, 0x1F, 0x25, 0x30, 0xFF)


def shape_exchanges() -> Iterator[Exchange]:
    """Yield an exchange for each wrong shape of each opcode, and for the right one."""
    for row in OPCODES.values():
        name, says = f"shape_{row.opcode.name.lower()}", row.opcode.name
        for what, frame in _shapes(row):
            yield Exchange(f"{name}_{what}", f"{says} with {_words(what)}", _behind(frame))
        for what, frame, length in _lies(row):
            # What the header announces comes first, so that it is answered before the rest.
            end = HEADER_SIZE + length
            stream = frame + _NOOP
            flights = (send(_BEFORE), part(stream[:end]), send(stream[end:]))
            yield Exchange(f"{name}_{what}", f"{says} with {_words(what)}", flights)


def unknown_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of opcodes that memcached does not know."""
    for opcode in _UNKNOWN:
        for what, frame in {
            "nothing_else": framed(opcode, opaque=7),
            "a_value": framed(opcode, value=b"v" * 100),
            "a_noop_as_value": framed(opcode, value=_NOOP),
            "a_key": framed(opcode, key=b"key"),
            "a_key_of_24_bytes": framed(opcode, key=b"k" * 24),
            "extras": framed(opcode, extras=bytes(4)),
            "extras_of_24_bytes": framed(opcode, extras=bytes(24)),
            "everything": framed(opcode, extras=bytes(8), key=b"key", value=b"value"),
            "a_key_of_251_bytes": framed(opcode, key=b"k" * (MAX_KEY + 1)),
            "a_body_length_within_the_key": framed(opcode, key=b"key", body_length=2),
        }.items():
            yield Exchange(
                f"unknown_{opcode:02x}_{what}",
                f"the opcode 0x{opcode:02x} with {_words(what)}",
                _behind(frame),
            )


def header_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges with other odd headers."""
    for data_type in (1, 0xFF):
        for opcode in (Opcode.NOOP, Opcode.GET):
            name = f"data_type_{data_type}_{opcode.name.lower()}"
            key = name.encode() if opcode == Opcode.GET else b""
            yield Exchange(
                name,
                f"{opcode.name} with the data type {data_type}",
                _behind(framed(opcode, key=key, data_type=data_type)),
            )
    for magic in (0x00, 0x7F, 0x81, 0x16, 0xFF):
        frame = framed(Opcode.NOOP, magic=magic)
        for what, says, flights in (
            ("later", "behind a request", _behind(frame)),
            ("at_once", "in one flight with a request", (send(_BEFORE, frame),)),
            ("first", "at first", (send(frame),)),
        ):
            yield Exchange(f"magic_{magic:02x}_{what}", f"the magic 0x{magic:02x} {says}", flights)


def _behind(frame: bytes) -> tuple[Flight, ...]:
    return (send(_BEFORE), send(frame))


def _words(what: str) -> str:
    return what.replace("_", " ")


def _shapes(row: OpcodeRow) -> Iterator[tuple[str, bytes]]:
    shape = row.request
    longest = shape.extras[-1]
    if row.opcode not in PUBLIC:
        yield _shape(row, "nothing_wrong")
    for what, length in (
        ("no_extras", 0),
        ("short_extras", longest - 1),
        ("long_extras", longest + 1),
        ("the_largest_extras", 255),
    ):
        if length >= 0 and length not in shape.extras:
            yield _shape(row, what, extras=bytes(length))
    if shape.key is Key.REQUIRED:
        yield _shape(row, "no_key", key=b"")
    if shape.key is Key.NONE:
        yield _shape(row, "a_key", key=b"k")
    for length in _LONG:
        yield _shape(row, f"a_key_of_{length}_bytes", key=b"k" * length)
    if shape.value == 0:
        yield _shape(row, "a_value", value=b"v")
        yield _shape(row, "a_long_value", value=b"v" * 1000)
        yield _shape(row, "a_noop_as_value", value=_NOOP)
    if shape.key is Key.REQUIRED and longest:
        for what, more in (("a_shorter_key_length", -1), ("a_longer_key_length", 1)):
            yield _shape(row, what, key_length=len(_parts(row, what).key) + more)
        yield _shape(row, "an_extras_length_of_0", extras_length=0)


def _lies(row: OpcodeRow) -> Iterator[tuple[str, bytes, int]]:
    for what in (
        "a_body_length_of_0",
        "a_body_length_within_the_key",
        "a_body_length_too_small",
        "a_body_length_too_large",
    ):
        extras, key, value = _parts(row, what)
        before_value = len(extras) + len(key)
        length = {
            "a_body_length_of_0": 0,
            "a_body_length_within_the_key": before_value - 1,
            "a_body_length_too_small": before_value + len(value) - 1,
            "a_body_length_too_large": before_value + len(value) + 1,
        }[what]
        if 0 <= length != before_value + len(value):
            yield *_shape(row, what, body_length=length), length


class _Parts(NamedTuple):
    extras: bytes
    key: bytes
    value: bytes


def _parts(row: OpcodeRow, what: str) -> _Parts:
    # What is right for the opcode, with a key that no other exchange has.
    shape = row.request
    return _Parts(
        bytes(shape.extras[-1]),
        f"{row.opcode:02x}-{what}".encode() if shape.key is Key.REQUIRED else b"",
        b"value" if shape.value is None else b"",
    )


def _shape(row: OpcodeRow, what: str, **changes: Any) -> tuple[str, bytes]:
    return what, framed(row.opcode, **(_parts(row, what)._asdict() | changes))
