"""Answers without an end, or with one that comes too soon, as a table of cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from tests.hostile import Peer, Script, changed, good
from tests.net.hostile.case import (
    CLOSED,
    LATE,
    ROOMY,
    SHORT,
    Afterwards,
    Case,
    Fails,
    broken,
    item,
)
from tests.net.hostile.making import (
    BOUNDLESS,
    CANCELLED,
    LARGEST,
    cancelled,
    case,
    get,
    quit_,
    refusal,
    several,
    stats,
)
from txtlsmc.errors import (
    ConnectionClosed,
    KeyNotFound,
    ServerInternalError,
    ServerSilent,
)
from txtlsmc.settings import Limits
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.session import MAX_STATISTICS

# Statistics ---------------------------------------------------------------------------------

_SMALL: Final = Limits(timeout=30, connect_timeout=30, max_body=10_000)


def _stat(request: Request, key: bytes, value: bytes = b"1") -> Response:
    return good(request, key=key, value=value)


def _endless(value: bytes, pieces: int) -> Script:
    async def script(peer: Peer) -> None:
        request = await peer.request()
        piece = b"".join(_stat(request, b"%d" % n, value).encode() for n in range(pieces))
        while True:
            peer.say(piece)
            await peer.turn()

    return script


def statistics_cases() -> Iterator[Case]:
    """Yield the cases about STAT, whose answers are a run that the server ends."""
    yield case("no statistics at all", stats, good, {})
    yield case(
        "a statistic twice",
        stats,
        lambda r: b"".join(x.encode() for x in (_stat(r, b"x"), _stat(r, b"x", b"2"), good(r))),
        {b"x": b"2"},
    )
    yield case(
        "an error behind a statistic",
        stats,
        lambda r: _stat(r, b"x").encode() + refusal(r, 0x84).encode(),
        Fails(ServerInternalError, status=0x84),
    )
    yield case(
        "no such statistics", stats, partial(refusal, status=1), Fails(KeyNotFound, status=1)
    )
    yield case(
        "an end of the statistics with a value",
        stats,
        lambda r: _stat(r, b"x").encode() + good(r, value=b"x").encode(),
        broken("value"),
    )
    yield case(
        "a statistic with extras",
        stats,
        lambda r: good(r, key=b"x", extras=bytes(4)),
        broken("extras length"),
    )
    yield several(
        "statistics that end twice",
        (stats, get("b")),
        lambda r: [good(r[0]), good(r[0]), good(r[1])],
        ({}, broken("opaque")),
    )
    yield several(
        "statistics that never end, and a neighbour's answer",
        (stats, get("b")),
        lambda r: [_stat(r[0], b"x"), good(r[1])],
        (broken("opaque"), broken("opaque")),
    )
    yield several(
        "statistics cut short are no statistics",
        (stats,),
        lambda r: [_stat(r[0], b"x"), _stat(r[0], b"y")],
        (CLOSED,),
        close=True,
    )
    yield several(
        "statistics and then silence",
        (stats,),
        lambda r: [_stat(r[0], b"x")],
        (LATE,),
        limits=SHORT,
    )
    yield Case(
        f"statistics without an end, over {MAX_STATISTICS}",
        _endless(b"", 8192),
        (stats,),
        (broken("key"),),
    )
    yield Case(
        "statistics without an end, too large in sum",
        _endless(bytes(1000), 8),
        (stats,),
        (broken("body length"),),
        limits=_SMALL,
    )
    yield Case(
        "statistics without an end that nobody waits for",
        _endless(bytes(1000), 8),
        (cancelled(stats), get("b")),
        (CANCELLED, broken("body length")),
        limits=_SMALL,
    )


# The end of the stream ----------------------------------------------------------------------

_FRAME: Final = good(Request(0, b"b", opaque=1)).encode()
#: Behind each field of the header, and inside and at both ends of each part of the body.
_PLACES: Final = (0, 1, 2, 4, 5, 6, 8, 12, 16, 23, 24, 26, 28, 29, len(_FRAME) - 1)


def _part(cut: int) -> str:
    return f"after {cut} of {len(_FRAME)} bytes"


def truncation_cases() -> Iterator[Case]:
    """Yield the cases of an answer that ends too soon, at each place and in each way."""

    def ended(name: str, cut: int, end: Callable[[Peer], None], **options: Any) -> Case:
        async def script(peer: Peer) -> None:
            before, asked = await peer.requests(2)
            peer.say(good(before), good(asked).encode()[:cut])
            await peer.turn()
            end(peer)

        words = "inside an answer" if cut else ""
        closed = Fails(ConnectionClosed, sent=True, words=words)
        return Case(name, script, (get("a"), get("b")), (item("a"), closed), **options)

    for cut in range(len(_FRAME)):
        yield ended(f"the connection is closed {_part(cut)}", cut, Peer.close)
    for cut in _PLACES:
        yield ended(f"TLS ends without its goodbye {_part(cut)}", cut, Peer.cut, tls=True)

    async def reset(peer: Peer, cut: int) -> None:
        peer.say(good(await peer.request()).encode()[:cut])
        await peer.turn()
        peer.reset()

    # Whether what was said before a reset still arrives is up to the machine.
    for cut in (0, 1, 24, len(_FRAME) - 1):
        script = partial(reset, cut=cut)
        yield Case(f"the connection is reset {_part(cut)}", script, (get("b"),), (CLOSED,))

    async def silent(peer: Peer, cut: int) -> None:
        peer.say(good(await peer.request()).encode()[:cut])

    quiet = Fails(ServerSilent, sent=True)
    for cut in (0, 1, 23, 24, len(_FRAME) - 1):
        script = partial(silent, cut=cut)
        yield Case(f"silence {_part(cut)}", script, (get("b"),), (LATE,), limits=SHORT)
    yield Case(
        "silence that the request itself would bear",
        partial(silent, cut=24),
        (lambda protocol: protocol.get("b", timeout=30),),
        (quiet,),
        limits=SHORT,
    )

    def below(name: str, record: bytes) -> Case:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say_below(record)
            peer.cut()

        return Case(f"TLS: {name}", script, (get("b"),), (CLOSED,), tls=True)

    yield below("an answer in plaintext", _FRAME)
    yield below("a record that no key opens", b"\x17\x03\x03\x00\x20" + bytes(32))
    yield below("a record that is cut short", b"\x17\x03\x03\x40\x00" + bytes(100))
    yield below("a record longer than records are", b"\x17\x03\x03\xff\xff" + bytes(100))
    yield below("an alert in plaintext", b"\x15\x03\x03\x00\x02\x02\x28")

    def quitting(name: str, *said: bytes, expected: object) -> Case:
        async def script(peer: Peer) -> None:
            request = await peer.request()
            peer.say(*[good(request)] if said else [], *said)
            peer.close()

        gone = Afterwards.GONE
        return Case(f"quit: {name}", script, (quit_,), (expected,), afterwards=gone)

    yield quitting("no answer", expected=CLOSED)
    yield quitting("an answer", b"", expected=True)
    yield quitting("an answer and another", _FRAME, expected=True)


# Announced, and more than was asked for -----------------------------------------------------


def _announcing(size: int) -> Script:
    async def script(peer: Peer) -> None:
        asked = await peer.request()
        peer.say(changed(good(asked), body_length=size))
        for _ in range(20):
            peer.say(b"x")
            await peer.turn()
        peer.close()

    return script


async def _trickling(peer: Peer) -> None:
    asked = await peer.request()
    peer.say(changed(good(asked), body_length=LARGEST[32]))
    while True:
        peer.say(b"x")
        await peer.turn(0.01)


async def _flooding(peer: Peer) -> None:
    peer.say(changed(good(await peer.request()), body_length=LARGEST[32]))
    for _ in range(16):
        peer.say(bytes(65536))
        await peer.turn()


def announcement_cases() -> Iterator[Case]:
    """Yield the cases of a body that is announced, and never comes: they must cost no memory."""
    inside = Fails(ConnectionClosed, sent=True, words="inside an answer")
    over = broken("body length")
    once = (get("b"),)
    four, max_body = LARGEST[32], ROOMY.max_body
    yield Case("4 GiB announced, a trickle and the end", _announcing(four), once, (over,))
    yield Case(
        "4 GiB announced where that is allowed, a trickle and the end",
        _announcing(four),
        once,
        (inside,),
        limits=BOUNDLESS,
    )
    yield Case("max_body announced, a trickle and the end", _announcing(max_body), once, (inside,))
    yield Case("4 GiB announced and a flood", _flooding, once, (over,))
    yield Case(
        "4 GiB announced where that is allowed, and an endless trickle",
        _trickling,
        (lambda protocol: protocol.get("b", timeout=0.1),),
        (LATE,),
        limits=BOUNDLESS,
        afterwards=Afterwards.UNKNOWN,
    )
