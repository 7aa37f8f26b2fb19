"""SASL: every mechanism, right and wrong, and what may be asked before, between and behind."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from typing import Final

from tests.integration.parity.exchange import Exchange, Flight, Piece, send, shown, stored
from tests.integration.parity.operations import NOOP, asked
from tests.integration.parity.words import (
    CRAM,
    LIST,
    PLAIN,
    RIGHT,
    SCRAM,
    SCRAM_FIRST,
    VERSION,
    WORDS,
    WRONG,
    auth,
    plain,
    step,
)
from txtlsmc.settings import Credentials
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.opcodes import MAX_MECHANISM, OPCODES, Opcode
from txtlsmc.wire.sasl import client_exchange

Flights = tuple[Flight, ...]


def by_plain() -> Flights:
    """Return what logs in by PLAIN."""
    return (send(RIGHT),)


def by_scram(password: str = "secret", user: str = "alice") -> Flights:
    """Return what logs in by SCRAM-SHA-256."""
    credentials = Credentials(user, password, "SCRAM-SHA-256")

    def proof(heard: Sequence[Response]) -> Request:
        if not heard[-1].value.startswith(b"r=clientnonce"):
            return step(SCRAM, b"c=biws")
        exchange = client_exchange(credentials, "clientnonce")
        exchange.start()
        return step(SCRAM, exchange.step(heard[-1].value))

    first = client_exchange(credentials, "clientnonce").start()
    return (
        send(auth(SCRAM, first)),
        send(proof),
        send(step(SCRAM)),
    )


def by_cram(password: str = "secret", user: str = "alice") -> Flights:
    """Return what logs in by CRAM-MD5."""

    def digest(heard: Sequence[Response]) -> Request:
        made = hmac.new(password.encode(), heard[-1].value, "md5").hexdigest()
        return step(CRAM, f"{user} {made}".encode())

    return (send(auth(CRAM)), send(digest))


def nobody_exchanges() -> Iterator[Exchange]:
    """Yield every opcode, well formed, from somebody who is not logged in."""
    for opcode, row in OPCODES.items():
        for place, says, before, behind in (
            ("alone", "of nobody", (), ()),
            ("behind_version", "of nobody, behind VERSION", (VERSION,), ()),
            ("before_login", "of nobody, at once with a login", (), (RIGHT,)),
            ("behind_wrong", "at once with a wrong password", (WRONG,), ()),
        ):
            name = f"nobody_{row.opcode.name.lower()}_{place}"
            request = asked(opcode, name.encode())
            flights = (send(*before, request, *behind), send(NOOP))
            yield Exchange(name, f"{row.opcode.name} {says}", flights)
        name = f"nobody_{row.opcode.name.lower()}_after_wrong"
        later = (send(WRONG), send(asked(opcode, name.encode())), send(NOOP))
        yield Exchange(name, f"{row.opcode.name} behind a wrong password", later)


def word_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of what is said at once, at every place where it may be said."""
    for name, what, pieces in WORDS:
        said = send(*pieces)
        yield Exchange(f"first_{name}", what, (said, send(NOOP)))
        twice = (said, said, send(RIGHT), send(NOOP))
        yield Exchange(f"twice_{name}", f"{what}, twice, and then a login", twice)
        for place, says, before, behind in _PLACES:
            if name in _COMMON or place == "after_plain":
                yield Exchange(f"{place}_{name}", f"{what}, {says}", (*before, said, *behind))


def dialogue_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of dialogues, and of what may come behind one."""
    for name, what, flights in _DIALOGUES:
        key = name.encode()
        yield Exchange(name, what, (*flights, send(stored(key, b"value"), shown(key), NOOP)))
        for label, says, behind in _BEHIND:
            flights_behind = (*behind, send(NOOP), *behind, send(NOOP))
            yield Exchange(
                f"{name}_{label}", f"{what}, and then {says}", (*flights, *flights_behind)
            )


def long_word_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges of words that are far longer than any that make sense."""
    for mechanism in (PLAIN, SCRAM, b"NOSUCH", b"M" * (MAX_MECHANISM + 1)):
        for length in (20_000, 500_000, 600_000, 5 * 2**20):
            word = mechanism.decode().lower().replace("-", "_")
            pieces = (
                _long(Opcode.SASL_AUTH, mechanism, length),
                _long(Opcode.SASL_STEP, mechanism, length),
            )
            yield Exchange(
                f"long_{word}_{length}",
                f"{mechanism.decode()} with {length} bytes",
                (*map(send, pieces), send(RIGHT), send(NOOP)),
            )


def _long(opcode: int, mechanism: bytes, length: int) -> Piece:
    return lambda heard: Request(opcode, mechanism, value=b"x" * length)


#: The words that are said at all places; the others only where they are worth the time.
_COMMON: Final = frozenset(
    (
        *("list", "version", "right", "right_and_step", "wrong", "wrong_and_right", "empty"),
        *("empty_and_step", "step", "unknown", "name_33", "scram_empty", "scram_other", "cram"),
    )
)
_AGAIN: Final = (send(NOOP), send(RIGHT), send(NOOP), send(RIGHT), send(NOOP))
#: Where else they are said: the name, what it is, and the flights before and behind.
_PLACES: Final[Sequence[tuple[str, str, Flights, Flights]]] = (
    ("after_plain", "behind a login by PLAIN", by_plain(), _AGAIN),
    ("after_cram", "behind a login by CRAM-MD5", by_cram(), _AGAIN),
    ("after_scram", "behind a login by SCRAM-SHA-256", by_scram(), _AGAIN),
    (
        "after_half_a_scram",
        "within a login by SCRAM-SHA-256",
        by_scram()[:1],
        (send(step(SCRAM, b"x")), *_AGAIN),
    ),
    ("after_wrong", "behind a wrong password", (send(WRONG),), _AGAIN),
)
_BEHIND: Final[Sequence[tuple[str, str, Flights]]] = (
    ("then_list", "LIST", (send(LIST),)),
    ("then_plain", "a login by PLAIN", by_plain()),
    ("then_cram", "a login by CRAM-MD5", by_cram()),
    ("then_scram", "a login by SCRAM-SHA-256", by_scram()),
    ("then_wrong", "a wrong password", (send(WRONG),)),
    ("then_step", "a STEP", (send(step(PLAIN, plain())),)),
    ("then_empty_step", "an empty STEP", (send(step(PLAIN)),)),
)
_DIALOGUES: Final[Sequence[tuple[str, str, tuple[Flight, ...]]]] = (
    ("plain", "a login by PLAIN", by_plain()),
    (
        "plain_step",
        "a login by PLAIN in a STEP",
        (send(auth(PLAIN)), send(step(PLAIN, plain()))),
    ),
    ("scram", "a login by SCRAM-SHA-256", by_scram()),
    (
        "scram_late",
        "a login by SCRAM-SHA-256 that begins without words",
        (
            send(auth(SCRAM)),
            send(step(SCRAM, SCRAM_FIRST)),
            *by_scram()[1:],
        ),
    ),
    ("scram_wrong", "SCRAM-SHA-256 with a wrong password", by_scram("wrong")),
    ("scram_unproven", "SCRAM-SHA-256 without the last STEP", by_scram()[:2]),
    ("scram_half", "SCRAM-SHA-256 without a proof", by_scram()[:1]),
    (
        "scram_words",
        "SCRAM-SHA-256 with words in the last STEP",
        (*by_scram()[:2], send(step(SCRAM, b"x"))),
    ),
    (
        "scram_other_step",
        "SCRAM-SHA-256 with another name in the last STEP",
        (*by_scram()[:2], send(step(PLAIN))),
    ),
    (
        "scram_interrupted",
        "SCRAM-SHA-256 with LIST before the proof",
        (by_scram()[0], send(LIST), send(step(SCRAM, b"c=biws"))),
    ),
    ("cram", "a login by CRAM-MD5", by_cram()),
    ("cram_wrong", "CRAM-MD5 with a wrong password", by_cram("wrong")),
    ("cram_unknown", "CRAM-MD5 of an unknown user", by_cram(user="bob")),
    ("cram_half", "CRAM-MD5 without a digest", by_cram()[:1]),
    ("wrong", "a wrong password", (send(WRONG),)),
    ("nothing", "no login", ()),
)
