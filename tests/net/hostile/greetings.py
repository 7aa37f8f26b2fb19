"""First words of a server, with SASL and without, as a table of cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from typing import Any, Final

from tests.hostile import Peer, changed, good
from tests.net.hostile.case import SHORT_CONNECT, Case, Fails, broken, item
from tests.net.hostile.making import (
    CONTROLS,
    LARGEST,
    always,
    get,
    refusal,
)
from tests.net.hostile.statuses import OTHER_PROTOCOLS
from txtlsmc.errors import (
    AuthenticationError,
    ConnectFailed,
    ConnectTimedOut,
    CredentialsRefused,
    CredentialsRequired,
    MechanismNotOffered,
    SASLUnavailable,
)
from txtlsmc.wire.frames import Request, Response

CONTINUE: Final = 0x21
CRAM, SCRAM = "CRAM-MD5", "SCRAM-SHA-256"
#: The connection ended too soon.
CUT: Final = Fails(ConnectFailed, words="before it was ready")

#: What a server answers to LIST and to AUTH, which come in one flight.
Flight = Callable[[Request, Request], list[Response | bytes]]
#: … and to each STEP.
Step = Callable[[Request], Response | bytes]


def saying(request: Request, status: int = CONTINUE, value: bytes = b"", **others: Any) -> Response:
    return Response(request.opcode, status, request.opaque, value=value, **others)


def sasl(
    name: str,
    flight: Flight,
    expected: Fails | None,
    *steps: Step,
    mechanism: str = "PLAIN",
    close: bool = False,
    **options: Any,
) -> Case:
    """Return the case in which *flight* answers LIST and AUTH, and each of *steps* a STEP."""
    return dialogue(name, flight, expected, steps, mechanism, close, **options)


def dialogue(
    name: str,
    flight: Flight,
    expected: Fails | None,
    steps: Iterable[Step],
    mechanism: str,
    close: bool = False,
    **options: Any,
) -> Case:
    """Return the same, with *steps* that need not end."""

    async def script(peer: Peer) -> None:
        listing, auth = await peer.requests(2)
        peer.say(*flight(listing, auth))
        for step in steps:
            peer.say(step(await peer.request()))
        if close:
            peer.close()

    if expected is None:
        options.update(asks=(get("a"),), expects=(item("a"),))
    name = f"{mechanism}: {name}"
    return Case(name, script, connects=expected, greets=False, mechanism=mechanism, **options)


def authenticated(step: Step) -> Flight:
    """Return the flight in which LIST is answered well, and AUTH by *step*."""
    return lambda listing, auth: [good(listing), step(auth)]


def with_status(status: int, value: bytes = b"") -> Step:
    return partial(saying, status=status, value=value)


# PLAIN, and what every mechanism begins with ------------------------------------------------


def listing_cases() -> Iterator[Case]:
    """Yield the cases about the answers to LIST and AUTH, and their order."""
    refused = Fails(CredentialsRefused)

    def listed(value: bytes) -> Flight:
        return lambda listing, auth: [good(listing, value=value), saying(auth, 0x20)]

    def both(name: str, field: str, flight: Flight, words: str = "") -> Case:
        return sasl(name, flight, broken(field, words))

    def announcing(name: str, size: int) -> Case:
        def flight(listing: Request, auth: Request) -> list[Response | bytes]:
            return [changed(good(listing), body_length=size), bytes(1000)]

        return both(f"a list of {name} announced", "body length", flight)

    def only(said: bytes) -> Flight:
        return lambda listing, auth: [said]

    not_offered = partial(Fails, MechanismNotOffered, mechanism="PLAIN")
    yield sasl("accepted", authenticated(good), None)
    yield sasl(
        "accepted by a server that lists nothing", lambda x, y: [saying(x, 0x81), good(y)], None
    )
    yield sasl("refused", authenticated(with_status(0x20)), refused)
    yield sasl("refused with a text", authenticated(with_status(0x20, CONTROLS * 1000)), refused)
    yield sasl("no list and refused", lambda x, y: [saying(x, 0x20), saying(y, 0x20)], refused)
    yield sasl("nothing offered", listed(b""), not_offered(offered=()))
    yield sasl("something else offered", listed(b"cram-md5"), not_offered(offered=("CRAM-MD5",)))
    yield sasl("offered in another case", listed(b"plain"), refused)
    yield sasl("a list of control characters", listed(CONTROLS), not_offered())
    yield sasl("a list of 64000 bytes", listed(b"\x1b" * 64000), not_offered())
    yield sasl("a list of 30000 names", listed(b"X\x07 " * 20000), not_offered())
    yield both("a list over 64 KiB", "body length", listed(b"X" * 65537))
    yield both("a list with extras", "extras length", lambda x, y: [good(x, extras=b"x"), good(y)])
    yield both("a list with a key", "key length", lambda x, y: [good(x, key=b"x"), good(y)])
    yield both("a list that goes on", "status", lambda x, y: [saying(x), good(y)])
    yield both("two lists", "opaque", lambda x, y: [good(x), good(x), good(y)])
    yield both("no list", "opaque", lambda x, y: [good(y)])
    yield both("AUTH before LIST", "opaque", lambda x, y: [good(y), good(x)])
    yield both("the opcode of STEP", "opcode", lambda x, y: [good(x), good(y, opcode=0x22)])
    yield both("the opcode of NOOP", "opcode", lambda x, y: [good(x), good(y, opcode=0x0A)])
    yield both("an opaque never asked for", "opaque", lambda x, y: [good(x), good(y, opaque=99)])
    yield both("success with extras", "extras length", lambda x, y: [good(x), good(y, extras=b"x")])
    yield both("success with a key", "key length", lambda x, y: [good(x), good(y, key=b"PLAIN")])
    yield both("success twice", "opaque", lambda x, y: [good(x), good(y), good(y)])
    yield both("success and half an answer", "opaque", lambda x, y: [good(x), good(y), b"\x81"])
    yield both("success and a text", "magic", lambda x, y: [good(x), good(y), b"OK\r\n"])
    yield both("its request as the answer", "magic", lambda x, y: [x.encode(), y.encode()])
    yield announcing("4 GiB", LARGEST[32])
    yield announcing("65537 bytes", 65537)
    for name, said in OTHER_PROTOCOLS:
        yield both(f"{name} instead of a list", "magic", only(said))
    yield sasl(
        "unknown to a server without SASL",
        lambda x, y: [saying(x, 0x81), saying(y, 0x81)],
        Fails(SASLUnavailable),
    )
    yield sasl("unknown though listed", authenticated(with_status(0x81)), Fails(SASLUnavailable))
    for status in (0x01, 0x04, 0x82, 0x99, 0x100, 0xFFFF):
        yield sasl(
            f"status 0x{status:04x} for AUTH",
            authenticated(with_status(status, CONTROLS * 100)),
            Fails(AuthenticationError, words=f"0x{status:02x}"),
        )
    yield sasl(
        "an error that repeats the password",
        authenticated(lambda r: saying(r, 0x84, r.value)),
        Fails(AuthenticationError, words="0x84"),
    )
    yield sasl(
        "a challenge that repeats the password",
        authenticated(lambda r: saying(r, CONTINUE, r.value)),
        broken("sasl"),
    )
    yield sasl(
        "success that repeats the password for 20000 bytes",
        authenticated(lambda r: saying(r, 0, r.value * 1000)),
        broken("sasl"),
    )
    yield sasl(
        "the end in the midst of a list", lambda x, y: [good(x).encode()[:30]], CUT, close=True
    )
    yield sasl(
        "the end in the midst of AUTH",
        lambda x, y: [good(x), good(y).encode()[:23]],
        CUT,
        close=True,
    )
    yield sasl("silence", lambda x, y: [good(x)], Fails(ConnectTimedOut), limits=SHORT_CONNECT)


def plain_cases() -> Iterator[Case]:
    """Yield the cases of a server that wants more than PLAIN has to say."""
    yield dialogue(
        "an endless dialogue", authenticated(saying), broken("sasl"), repeat(saying), "PLAIN"
    )
    more = with_status(CONTINUE, CONTROLS)
    yield sasl("a challenge of control characters", authenticated(more), broken("sasl"))
    yield sasl(
        "success with more words than fit",
        authenticated(with_status(0, bytes(16385))),
        broken("sasl"),
    )
    yield sasl("success with words", authenticated(with_status(0, CONTROLS)), None)


def cram_cases() -> Iterator[Case]:
    """Yield the cases about CRAM-MD5, where the server speaks first."""
    challenge = with_status(CONTINUE, b"<1896.697170952@postoffice.reston.mci.net>")
    cram = partial(sasl, mechanism=CRAM)
    yield cram("accepted", authenticated(challenge), None, good)
    yield cram("refused", authenticated(challenge), Fails(CredentialsRefused), with_status(0x20))
    yield dialogue(
        "an endless dialogue", authenticated(challenge), broken("sasl"), repeat(challenge), CRAM
    )
    yield cram("success without a challenge", authenticated(good), broken("sasl"))
    for name, said in (
        ("no words", b""),
        ("garbage", CONTROLS),
        ("a challenge without brackets", b"1896.697170952@postoffice.reston.mci.net"),
        ("a challenge with a space", b"<1 2@host>"),
        ("a challenge with a line feed", b"<1@host>\n"),
        ("a challenge over 16 KiB", b"<" + b"1" * 16383 + b">"),
        ("a challenge of 60000 control characters", b"\x1b" * 60000),
    ):
        yield cram(
            f"{name} for a challenge", authenticated(with_status(CONTINUE, said)), broken("sasl")
        )
    yield cram(
        "the opcode of AUTH for a STEP",
        authenticated(challenge),
        broken("opcode"),
        lambda r: good(r, opcode=0x21),
    )
    yield cram(
        "status 0x0084 for a STEP",
        authenticated(challenge),
        Fails(AuthenticationError, words="0x84"),
        with_status(0x84, CONTROLS),
    )
    yield cram(
        "an error that repeats the proof",
        authenticated(challenge),
        Fails(AuthenticationError, words="0x84"),
        lambda r: saying(r, 0x84, r.value),
    )
    yield cram(
        "a challenge that repeats the proof",
        authenticated(challenge),
        broken("sasl"),
        lambda r: saying(r, CONTINUE, r.value),
    )
    yield cram("the end behind the proof", authenticated(challenge), CUT, lambda r: b"", close=True)
    yield cram(
        "silence behind the proof",
        authenticated(challenge),
        Fails(ConnectTimedOut),
        lambda r: b"",
        limits=SHORT_CONNECT,
    )


# Without credentials ------------------------------------------------------------------------


def noop_cases() -> Iterator[Case]:
    """Yield the cases of a client without credentials, whose first word is a NOOP."""

    def first(
        name: str, make: Step, expected: Fails, *, close: bool = False, **options: Any
    ) -> Case:
        async def script(peer: Peer) -> None:
            peer.say(make(await peer.request()))
            if close:
                peer.close()

        return Case(f"NOOP: {name}", script, connects=expected, greets=False, **options)

    required = Fails(CredentialsRequired)
    yield first("credentials wanted", with_status(0x20), required)
    yield first("credentials wanted with a text", with_status(0x20, CONTROLS * 999), required)
    for status in (0x01, CONTINUE, 0x81, 0x82, 0x100, 0xFFFF):
        yield first(f"status 0x{status:04x}", with_status(status, CONTROLS), broken("status"))
    yield first("a value", lambda r: good(r, value=b"x"), broken("value"))
    yield first("extras", lambda r: good(r, extras=b"x"), broken("extras length"))
    yield first("a key", lambda r: good(r, key=b"x"), broken("key length"))
    yield first("an opaque never asked for", lambda r: good(r, opaque=5), broken("opaque"))
    yield first("another opcode", lambda r: good(r, opcode=0x0B), broken("opcode"))
    yield first("two answers", lambda r: good(r).encode() * 2, broken("opaque"))
    yield first("one answer and a half", lambda r: good(r).encode() + b"\x81", broken("opaque"))
    yield first("one answer and a text", lambda r: good(r).encode() + b"x", broken("magic"))
    yield first("the request itself", lambda r: r.encode(), broken("magic"))
    yield first("4 GiB", lambda r: changed(good(r), body_length=LARGEST[32]), broken("body length"))
    for name, said in OTHER_PROTOCOLS:
        yield first(name, always(said), broken("magic"))
    for cut in (0, 1, 23):
        whole = good(Request(0x0A)).encode()
        yield first(f"the end after {cut} bytes", always(whole[:cut]), CUT, close=True)
    yield first("silence", lambda r: b"", Fails(ConnectTimedOut), limits=SHORT_CONNECT)
    yield first(
        "an error with another status behind it", lambda r: refusal(r, 0x20).encode() * 2, required
    )

    async def early(peer: Peer) -> None:
        peer.say(Response(0x0A, 0, 7))

    yield Case(
        "NOOP: an answer before anything was asked", early, connects=broken("opaque"), greets=False
    )

    async def banner(peer: Peer) -> None:
        peer.say(b"220 ready\r\n")

    yield Case("NOOP: a banner", banner, connects=broken("magic"), greets=False)

    async def trickle(peer: Peer) -> None:
        request = await peer.request()
        peer.say(changed(good(request), body_length=65536))
        while True:
            peer.say(b"x")
            await peer.turn(0.01)

    yield Case(
        "NOOP: an endless trickle",
        trickle,
        connects=Fails(ConnectTimedOut),
        greets=False,
        limits=SHORT_CONNECT,
    )
