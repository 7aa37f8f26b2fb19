"""Pipelines, quiet runs, and streams that are cut at odd places or end inside a frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.integration.parity.exchange import (
    STORED,
    Exchange,
    framed,
    part,
    send,
    shown,
    stored,
)
from tests.integration.parity.operations import COUNT, NOOP, asked
from txtlsmc.wire.frames import HEADER_SIZE, Request
from txtlsmc.wire.opcodes import MAX_KEY, OPCODES, Key, Opcode, Quiet

_CUT: Final = (Opcode.SET, Opcode.GETK, Opcode.APPEND, Opcode.INCREMENT, Opcode.GATQ)


#: Is refused, and ends the connection.
_REFUSED: Final = framed(Opcode.GET, extras=b"x", key=b"refused")


def pipeline_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of many requests at once."""
    keys = [b"pipeline-%d" % number for number in range(200)]
    sets = [stored(key, b"value of " + key, opaque=number) for number, key in enumerate(keys)]
    gets = [Request(Opcode.GETK, key, opaque=number) for number, key in enumerate(keys)]
    yield Exchange("pipeline", "a pipeline of writes and reads", (send(*sets, *gets),))
    for name, says, last in (
        ("pipeline_quit", "QUIT in the middle of a pipeline", Request(Opcode.QUIT)),
        ("pipeline_quitq", "QUITQ in the middle of a pipeline", Request(Opcode.QUITQ)),
        ("pipeline_wrong_shape", "a wrong shape in the middle of a pipeline", _REFUSED),
    ):
        keys = [f"{name}-{number}".encode() for number in range(5)]
        both = [piece for key in keys for piece in (stored(key, b"value"), shown(key))]
        yield Exchange(name, says, (send(*both, last, *both), send(NOOP)))
    yield Exchange("nothing", "a connection without a request", ())
    yield Exchange("nothing_more", "a connection with one answer", (send(NOOP),))


def quiet_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of runs of quiet requests."""
    for name, says, fence in (
        ("quiet_reads", "a run of quiet reads", (NOOP,)),
        ("quiet_reads_unfenced", "a run of quiet reads without a NOOP", ()),
    ):
        keys = [f"{name}-{number}".encode() for number in range(7)]
        reads = [
            Request(Opcode.GETKQ if number % 3 else Opcode.GETQ, keys[number % 7], opaque=number)
            for number in range(300)
        ]
        some = [stored(keys[number], b"value") for number in (1, 4, 5)]
        yield Exchange(name, says, (send(*some), send(*reads, *fence)))
    keys = [b"quiet-write-%d" % number for number in range(20)]
    writes = [
        Request(opcode, key, STORED, b"1", opaque=opcode)
        for key in keys
        for opcode in (Opcode.ADDQ, Opcode.REPLACEQ, Opcode.SETQ, Opcode.ADDQ)
    ]
    flights = (send(*writes, NOOP), send(*map(shown, keys)))
    yield Exchange("quiet_writes", "a run of quiet writes", flights)
    for what, setup in {"missing": None, "text": b"text", "number": b"10"}.items():
        for cas in (0, 5):
            name = f"quiet_all_{what}_{cas}"
            key = name.encode()
            asks = [
                asked(row.opcode, key, cas=cas, opaque=row.opcode)
                for row in OPCODES.values()
                if row.quiet is not Quiet.NEVER and row.request.key is Key.REQUIRED
            ]
            before = () if setup is None else (send(stored(key, setup)),)
            everything = send(*asks, NOOP, *reversed(asks), NOOP)
            says = f"all quiet opcodes in a row on a {what} item, with the cas {cas}"
            yield Exchange(name, says, (*before, everything))


def cut_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges whose stream comes in pieces."""
    for opcode in _CUT:
        word = opcode.name.lower()
        for number, cut in enumerate((1, 8, 23, 24, 25, 28, 32, 36, -24, -1)):
            name = f"cut_{word}_{number}"
            key = name.encode()
            frames = (stored(key, b"10"), asked(opcode, key), shown(key), NOOP)
            stream = b"".join(frame.encode() for frame in frames)
            says = f"a stream with {opcode.name} that is cut at {cut}"
            yield Exchange(name, says, (part(stream[:cut]), send(stream[cut:])))
        name = f"cut_{word}_everywhere"
        frame = asked(opcode, name.encode()).encode()
        pieces = [part(frame[place : place + 1]) for place in range(len(frame))]
        says = f"{opcode.name} that comes byte by byte"
        yield Exchange(name, says, (*pieces, send(NOOP, shown(name.encode()))))
    for size, count in ((3, 12), (7, 12), (11, 12), (25, 12), (1000, 400)):
        name = f"cut_into_{size}"
        keys = [f"{name}-{number}".encode() for number in range(count)]
        stream = b"".join(stored(key, key * 3).encode() + shown(key).encode() for key in keys)
        *most, last = (stream[place : place + size] for place in range(0, len(stream), size))
        flights = (*map(part, most), send(last, NOOP))
        yield Exchange(name, f"a pipeline in pieces of {size} bytes", flights)


def unfinished_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges whose stream ends inside a frame."""
    for length in (1, 12, 23, 24, 30, 36, 50, 60, 91):
        for what, says in (
            ("alone", f"a stream of {length} bytes of a SET"),
            ("later", f"a stream of {length} bytes of a SET behind an answer"),
            ("at_once", f"a stream of a GETK and {length} bytes of a SET"),
        ):
            name = f"unfinished_{length}_{what}"
            key = f"{what}-{length}".encode()
            cut = Request(Opcode.SET, key, STORED, b"value" * 20).encode()[:length]
            flights = {
                "alone": (part(cut),),
                "later": (send(NOOP), part(cut)),
                "at_once": (send(stored(key, b"x")), part(shown(key), cut)),
            }[what]
            yield Exchange(name, says, flights)
    key = b"unfinished-key"
    for what, frame, more in (
        ("wrong_extras", framed(Opcode.GET, extras=b"x", key=key), 0),
        ("a_long_key", framed(Opcode.GET, key=b"k" * (MAX_KEY + 1)), 0),
        ("lengths_that_lie", framed(Opcode.GET, key=key, body_length=2), 0),
        ("an_unwanted_value", framed(Opcode.GET, key=key * 2, value=b"v" * 99), 2 * len(key)),
        ("an_unknown_opcode", framed(0x30, key=key), 0),
        ("an_unknown_opcode_and_value", framed(0x30, value=b"v" * 99), 0),
        ("a_wrong_magic", framed(Opcode.GET, magic=0x79), -1),
    ):
        says = f"a stream that ends inside a request with {what.replace('_', ' ')}"
        flights = (send(NOOP), part(frame[: HEADER_SIZE + more]))
        yield Exchange(f"unfinished_{what}", says, flights)


def held_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges that change what an answer which is not sent yet still holds."""
    for opcode in (Opcode.INCREMENT, Opcode.DECREMENT):
        name = f"held_{opcode.name.lower()}"
        key = name.encode()
        count = Request(opcode, key, COUNT.pack(1, 0, 0))
        yield Exchange(
            name,
            f"{opcode.name} in one flight behind a GETK",
            (send(stored(key, b"10")), send(shown(key), count, shown(key)), send(shown(key))),
        )
