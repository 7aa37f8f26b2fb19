"""Every operation: on a key that is there and on one that is not, with every kind of cas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import Final

from tests.integration.parity.exchange import (
    SASL,
    STORED,
    Alone,
    Exchange,
    Flight,
    Piece,
    last_cas,
    send,
    shown,
    stored,
)
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import OPCODES, Key, Opcode

#: Those whose effect all connections of the server see.
PUBLIC: Final = frozenset({Opcode.FLUSH, Opcode.FLUSHQ, Opcode.STAT})

NOOP: Final = Request(Opcode.NOOP, opaque=0x6E6F6F70)
COUNT: Final = Struct(">QQI")
#: Extras that are legal, by their length.
_EXTRAS: Final = {
    0: b"",
    4: (1000).to_bytes(4, "big"),
    8: b"\x0a\x0b\x0c\x0d" + bytes(4),
    20: COUNT.pack(3, 5, 0),
}
#: No version comes that far.
_FAR: Final = 0x0100_0000_0000_0000


def asked(opcode: int, key: bytes = b"", *, cas: int = 0, opaque: int = 0xABCDEF01) -> Request:
    """Return a request that is well formed, with a value where it may have one."""
    shape = OPCODES[opcode].request
    return Request(
        opcode,
        key if shape.key is Key.REQUIRED else b"",
        _EXTRAS[shape.extras[-1]],
        b"25" if shape.value is None else b"",
        cas,
        opaque,
    )


def keyed_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of all opcodes that are about one item."""
    for opcode, row in OPCODES.items():
        if row.request.key is Key.REQUIRED and opcode not in SASL:
            yield from _keyed(row.opcode)


def _keyed(opcode: Opcode) -> Iterator[Exchange]:
    for label, says, setup, ask in _SITUATIONS:
        name = f"{opcode.name.lower()}_{label}"
        key = name.encode()
        flights = [] if setup is None else [send(stored(key, setup))]
        flights += [send(*ask(opcode, key)), send(shown(key))]
        yield Exchange(name, f"{opcode.name} {says}", tuple(flights))
    for what, odd in (("longest", b"k" * 250), ("odd", b" \r\n\0\xff\xc3\x28")):
        name = f"{opcode.name.lower()}_{what}_key"
        key = (name.encode() + odd)[:250]
        request = asked(opcode, key)
        flights = [send(request), send(stored(key, b"7")), send(request, shown(key))]
        yield Exchange(name, f"{opcode.name} of the {what} key there is", tuple(flights))


def _once(opcode: int, key: bytes) -> list[Piece]:
    return [asked(opcode, key)]


def _twice(opcode: int, key: bytes) -> list[Piece]:
    return [asked(opcode, key), asked(opcode, key), NOOP]


def _any_cas(opcode: int, key: bytes) -> list[Piece]:
    return [asked(opcode, key, cas=99)]


def _right_cas(opcode: int, key: bytes) -> list[Piece]:
    return [lambda heard: asked(opcode, key, cas=last_cas(heard))]


def _wrong_cas(opcode: int, key: bytes) -> list[Piece]:
    return [lambda heard: asked(opcode, key, cas=last_cas(heard) + _FAR)]


def _same_cas(opcode: int, key: bytes) -> list[Piece]:
    return [*_right_cas(opcode, key), *_right_cas(opcode, key), NOOP]


#: For each opcode: the name, the sentence, what is there before, and what is asked.
_SITUATIONS: Final[Sequence[tuple[str, str, bytes | None, Callable[[int, bytes], list[Piece]]]]] = (
    ("missing", "of a key that is missing", None, _once),
    ("missing_cas", "of a missing key with a cas", None, _any_cas),
    ("missing_twice", "of a missing key, twice", None, _twice),
    ("present", "of a key that is there", b"10", _once),
    ("present_text", "of a text", b"text", _once),
    ("present_empty", "of an empty value", b"", _once),
    ("present_twice", "of a key that is there, twice", b"10", _twice),
    ("right_cas", "with the right cas", b"10", _right_cas),
    ("wrong_cas", "with a wrong cas", b"10", _wrong_cas),
    ("text_wrong_cas", "of a text with a wrong cas", b"text", _wrong_cas),
    ("empty_wrong_cas", "of an empty value with a wrong cas", b"", _wrong_cas),
    ("same_cas", "with the same cas twice", b"10", _same_cas),
)


def each_exchanges() -> Iterator[Exchange]:
    """Yield one exchange for each opcode, on a key that is there."""
    for opcode, row in OPCODES.items():
        name = f"each_{row.opcode.name.lower()}"
        key = name.encode()
        flights = (send(stored(key, b"10")), send(NOOP, asked(opcode, key)), send(shown(key)))
        yield Exchange(name, f"{row.opcode.name} between others", flights)


def keyless_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of opcodes without a key, and those of SASL where there is none."""
    for opcode, row in OPCODES.items():
        if opcode not in PUBLIC and (row.request.key is not Key.REQUIRED or opcode in SASL):
            name = row.opcode.name.lower()
            request = asked(opcode, b"PLAIN", cas=77)
            yield Exchange(name, row.opcode.name, (send(NOOP, request, NOOP),))
            request = asked(opcode, b"PLAIN", opaque=0xFFFFFFFF)
            yield Exchange(f"{name}_alone", f"{row.opcode.name} alone", (send(request),))
    for vbucket in (1, 0xFFFF):
        key = b"vbucket-%d" % vbucket
        pieces = (Request(Opcode.SET, key, STORED, b"v", vbucket=vbucket), shown(key))
        yield Exchange(f"vbucket_{vbucket}", f"the vbucket {vbucket}", (send(*pieces),))


def count_exchanges() -> Iterator[Exchange]:
    """
    Yield the exchanges of INCREMENT and DECREMENT: what a number is, and where it ends.

    They want a server that never held a minus sign, so those that have one get their own: with a
    number of 64 bits memcached looks for a sign behind the value too, in what was there before.
    """
    values = {
        "zero": b"0",
        "nine": b"9",
        "ten": b"10",
        "thousand": b"1000",
        "largest": b"18446744073709551615",
        "too_large": b"18446744073709551616",
        "half": b"9223372036854775808",
        "long_zeros": b"0" * 30 + b"5",
        "leading_zeros": b"007",
        "trailing_spaces": b"9   ",
        "only_spaces": b"   ",
        "leading_space": b" 5",
        "leading_tab": b"\t5",
        "vertical_tab": b"\v\f\r5",
        "plus": b"+5",
        "minus": b"-5",
        "minus_zero": b"-0",
        "minus_largest": b"-18446744073709551615",
        "two_signs": b"+-5",
        "letters": b"5x",
        "letters_later": b"5 x",
        "line_end": b"5\r\n",
        "nul": b"5\0x",
        "nul_first": b"\x005",
        "hexadecimal": b"0x10",
        "exponent": b"1e3",
        "point": b"1.5",
        "underscore": b"1_000",
        "half_and_minus": b"9223372036854775808 -",
        "non_ascii": "٣".encode(),
        "long_text": b"1 " + bytes(1000),
    }
    deltas = {"0": 0, "1": 1, "half": 2**63, "most": 2**64 - 1}
    for opcode in (Opcode.INCREMENT, Opcode.DECREMENT):
        word = opcode.name.lower()
        for what, value in values.items():
            name = f"{word}_{what}"
            yield _counted(name, opcode, f"of {value[:40]!r}"[0:60], value, deltas)
    for opcode in (Opcode.INCREMENT, Opcode.DECREMENT, Opcode.INCREMENTQ, Opcode.DECREMENTQ):
        word = opcode.name.lower()
        for initial in (0, 10, 2**64 - 1):
            for exptime in (0, 1000, 0xFFFFFFFF, 0xFFFFFFFE):
                key = b"%s_%d_%d" % (word.encode(), initial, exptime)
                count = Request(opcode, key, COUNT.pack(2, initial, exptime))
                yield Exchange(
                    f"{word}_initial_{initial}_{exptime:x}",
                    f"{opcode.name} from {initial} with exptime {exptime:#x}",
                    (send(count, NOOP), send(shown(key)), send(count, NOOP), send(shown(key))),
                )


def _counted(
    name: str, opcode: Opcode, says: str, value: bytes, deltas: dict[str, int]
) -> Exchange:
    flights: list[Flight] = []
    for delta in deltas.values():
        key = f"{name}_{delta}".encode()
        count = Request(opcode, key, COUNT.pack(delta, 0, 0))
        flights.append(send(stored(key, value)))
        flights += [send(count), send(shown(key)), send(count), send(shown(key))]
    alone = Alone.YES if b"-" in value else Alone.NO
    return Exchange(name, f"{opcode.name} {says}", tuple(flights), alone)


def joined_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of APPEND and PREPEND: what stays of the old item, and of the new one."""
    for opcode in (Opcode.APPEND, Opcode.PREPEND):
        key = opcode.name.lower().encode()
        for what, first, second in (
            ("nothing_to_nothing", b"", b""),
            ("nothing", b"old", b""),
            ("to_nothing", b"", b"new"),
            ("binary", bytes(range(256)), bytes(range(255, -1, -1))),
            ("digits", b"1", b"2"),
        ):
            own = key + b"-" + what.encode()
            join = Request(opcode, own, value=second)
            count = Request(Opcode.INCREMENT, own, COUNT.pack(1, 0, 0xFFFFFFFF))
            yield Exchange(
                f"{opcode.name.lower()}_{what}",
                f"{opcode.name} of {second[:9]!r} to {first[:9]!r}",
                (send(stored(own, first)), send(join, join, shown(own)), send(count, shown(own))),
            )
