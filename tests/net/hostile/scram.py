"""A SCRAM server that is no good, as a table of cases."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any, Final

from tests.hostile import Peer, Script, good
from tests.net.hostile.case import Case, Fails, broken, item
from tests.net.hostile.greetings import (
    CONTINUE,
    SCRAM,
    Step,
    authenticated,
    dialogue,
    sasl,
    saying,
    with_status,
)
from tests.net.hostile.making import (
    CONTROLS,
    get,
)
from tests.net.hostile.texts import password
from txtlsmc.errors import (
    CredentialsRefused,
    ServerNotProven,
)
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.sasl import server_exchange

# SCRAM --------------------------------------------------------------------------------------


def _nonce(auth: Request) -> bytes:
    return auth.value.rpartition(b"r=")[2]


def _challenge(auth: Request, template: bytes) -> Response:
    """Return a challenge; in *template* an ``@`` stands for the client's nonce."""
    return saying(auth, value=template.replace(b"@", _nonce(auth)))


#: A salt of 16 bytes.
_SALT: Final = b64encode(bytes(range(16)))
_GOOD: Final = b"r=@server,s=" + _SALT + b",i=4096"

_COUNTS: Final = (
    ("no iterations", b""),
    ("zero iterations", b"0"),
    ("one iteration", b"1"),
    ("one iteration too few", b"4095"),
    ("one iteration too many", b"1000001"),
    ("2147483648 iterations", b"2147483648"),
    ("18446744073709551616 iterations", b"18446744073709551616"),
    ("iterations of 5000 digits", b"9" * 5000),
    ("iterations below zero", b"-4096"),
    ("iterations with a plus", b"+4096"),
    ("iterations with a zero in front", b"04096"),
    ("iterations with a point", b"4096.0"),
    ("iterations with an underscore", b"4_096"),
    ("iterations with a space", b" 4096"),
    ("iterations with an exponent", b"1e9"),
    ("iterations in other digits", "\N{ARABIC-INDIC DIGIT FOUR}096".encode()),
)

_CHALLENGES: Final = (
    ("nothing", b""),
    ("control characters", CONTROLS),
    ("60000 control characters", b"\x1b" * 60000),
    ("a challenge over 16 KiB", _GOOD + b",x=" + b"1" * 16384),
    ("no nonce", b"s=" + _SALT + b",i=4096"),
    ("an empty nonce", b"r=,s=" + _SALT + b",i=4096"),
    ("our nonce and nothing of its own", b"r=@,s=" + _SALT + b",i=4096"),
    ("another nonce", b"r=server,s=" + _SALT + b",i=4096"),
    ("a nonce of control characters", b"r=@\x1b[2J,s=" + _SALT + b",i=4096"),
    ("no salt", b"r=@server,i=4096"),
    ("a salt that is no base64", b"r=@server,s=\x1b[2J,i=4096"),
    ("a salt of one character", b"r=@server,s=A,i=4096"),
    ("no count", b"r=@server,s=" + _SALT),
    ("the wrong order", b"i=4096,s=" + _SALT + b",r=@server"),
    ("an extension that must be understood", b"m=\x1b[2J," + _GOOD),
    ("the server's last words", b"v=" + _SALT),
)


def _scram_server(last: Callable[[Peer, Request, bytes], None]) -> Script:
    """Return the script of a server that knows the password, up to its signature."""

    async def script(peer: Peer) -> None:
        listing, auth = await peer.requests(2)
        server = server_exchange(SCRAM, {"alice": password()}, "server")
        peer.say(good(listing), saying(auth, value=server.step(auth.value).data))
        proof = await peer.request()
        last(peer, proof, server.step(proof.value).data)

    return script


def _knowing(
    name: str, last: Callable[[Peer, Request, bytes], None], expected: Fails | None, *then: Step
) -> Case:
    """Return the case of a server that knows the password, and *last* is what it does with it."""
    start = _scram_server(last)

    async def script(peer: Peer) -> None:
        await start(peer)
        for step in then:
            peer.say(step(await peer.request()))

    options: dict[str, Any] = {}
    if expected is None:
        options.update(asks=(get("a"),), expects=(item("a"),))
    name = f"{SCRAM}: {name}"
    return Case(name, script, connects=expected, greets=False, mechanism=SCRAM, **options)


def _spoiled(signature: bytes) -> bytes:
    # The first character of the base64: one bit of the last would be no base64 at all.
    return b"v=" + (b"B" if signature[2:3] == b"A" else b"A") + signature[3:]


def scram_cases() -> Iterator[Case]:
    """Yield the cases about SCRAM, where the server has to prove itself too."""
    scram = partial(sasl, mechanism=SCRAM)
    sasl_broken = broken("sasl", "SCRAM")
    for name, count in _COUNTS:
        challenge = partial(_challenge, template=_GOOD[:-4] + count)
        yield scram(name, authenticated(challenge), broken("sasl"))
    for name, template in _CHALLENGES:
        flight = authenticated(partial(_challenge, template=template))
        yield scram(f"{name} for a challenge", flight, broken("sasl"))
    flight = authenticated(partial(_challenge, template=_GOOD))
    again = partial(_challenge, template=_GOOD)
    unproven = Fails(ServerNotProven)
    refused = Fails(CredentialsRefused)
    yield dialogue("an endless dialogue of challenges", flight, unproven, repeat(again), SCRAM)
    yield scram("success at once", authenticated(good), unproven)
    yield scram(
        "success at once with a signature", authenticated(with_status(0, b"v=" + _SALT)), unproven
    )
    yield scram("success without a signature", flight, unproven, good)
    yield scram(
        "refused with an error",
        authenticated(with_status(CONTINUE, b"e=" + CONTROLS * 99)),
        refused,
    )
    for name, said in (
        ("no signature", b""),
        ("an empty signature", b"v="),
        ("a signature of something else", b"v=" + b64encode(bytes(32))),
        ("a signature of one byte", b"v=AA=="),
        ("a signature that is no base64", b"v=" + CONTROLS),
        ("words that are no signature", CONTROLS * 99),
    ):
        yield scram(f"{name} as a challenge", flight, unproven, with_status(CONTINUE, said), good)
        yield scram(f"{name} with success", flight, unproven, with_status(0, said))
    for name, status in (("a challenge", CONTINUE), ("success", 0), ("authentication error", 0x20)):
        text = b"e=other-error" + CONTROLS
        yield scram(f"an error with {name}", flight, refused, with_status(status, text))
    yield scram(
        "the proof as a signature",
        flight,
        unproven,
        lambda r: saying(r, CONTINUE, b"v=" + r.value.rpartition(b",p=")[2]),
    )
    yield scram("the proof refused", flight, refused, with_status(0x20))

    def says(status: int, make: Callable[[bytes], bytes]) -> Callable[[Peer, Request, bytes], None]:
        return lambda peer, request, signature: peer.say(saying(request, status, make(signature)))

    yield _knowing("a server that proves itself", says(CONTINUE, bytes), None, good)
    yield _knowing("a server that proves itself with success", says(0, bytes), None)
    yield _knowing("a spoiled signature as a challenge", says(CONTINUE, _spoiled), unproven, good)
    yield _knowing("a spoiled signature with success", says(0, _spoiled), unproven)
    yield _knowing(
        "refused by a server that proves itself", says(CONTINUE, bytes), refused, with_status(0x20)
    )
    yield _knowing(
        "a dialogue that goes on behind the signature",
        says(CONTINUE, bytes),
        sasl_broken,
        *[with_status(CONTINUE, b"v=AA==")] * 3,
    )
