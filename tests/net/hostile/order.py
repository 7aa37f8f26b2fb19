"""Answers that are right in themselves and in the wrong place, as a table of cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.hostile import Peer, good
from tests.net.hostile.case import (
    CLOSED,
    LATE,
    SHORT,
    Afterwards,
    Ask,
    Case,
    Fails,
    broken,
    item,
)
from tests.net.hostile.making import (
    CANCELLED,
    LARGEST,
    cancelled,
    delete_multi,
    get,
    get_multi,
    getk_multi,
    noop,
    refusal,
    set_,
    set_multi,
    several,
)
from txtlsmc.errors import (
    ConnectionClosed,
    ServerOutOfMemory,
    ValueTooLarge,
)
from txtlsmc.wire.frames import Request, Response

# Opaques and order --------------------------------------------------------------------------


def order_cases() -> Iterator[Case]:
    """Yield the cases of answers that are right in themselves, and in the wrong place."""
    gets, items = tuple(get(key) for key in "abc"), tuple(item(key) for key in "abc")
    lost = broken("opaque")
    yield several(
        "two answers swapped", gets, lambda r: [good(r[1]), good(r[0]), good(r[2])], (lost,) * 3
    )
    yield several(
        "the last two answers swapped",
        gets,
        lambda r: [good(r[0]), good(r[2]), good(r[1])],
        (items[0], lost, lost),
    )
    yield several("answers in reverse", gets, lambda r: [good(x) for x in reversed(r)], (lost,) * 3)
    yield several(
        "the values of two answers swapped is for the server to say",
        gets[:2],
        lambda r: [good(r[0], value=b"1"), good(r[1], value=b"2")],
        (item("a", b"1"), item("b", b"2")),
    )
    yield several(
        "the opaques of two answers swapped",
        gets[:2],
        lambda r: [good(r[0], opaque=r[1].opaque), good(r[1], opaque=r[0].opaque)],
        (lost, lost),
    )
    yield several(
        "answers to different operations swapped",
        (get("a"), set_),
        lambda r: [good(r[1]), good(r[0])],
        (lost, lost),
    )
    yield several(
        "an answer left out", gets, lambda r: [good(r[0]), good(r[2])], (items[0], lost, lost)
    )
    yield several(
        "the first answer twice",
        gets,
        lambda r: [good(r[0]), good(r[0]), good(r[1]), good(r[2])],
        (items[0], lost, lost),
    )
    yield several(
        "the last answer twice",
        gets,
        lambda r: [*map(good, r), good(r[2])],
        items,
        afterwards=Afterwards.GONE,
    )
    yield several(
        "a good answer twice with another value",
        gets[:2],
        lambda r: [good(r[0]), good(r[0], value=b"other"), good(r[1])],
        (items[0], lost),
    )
    yield several(
        "the answer to the next request in advance",
        gets[:1],
        lambda r: [good(r[0]), good(r[0], opaque=r[0].opaque + 1)],
        items[:1],
        afterwards=Afterwards.GONE,
    )
    yield several(
        "an answer and a request",
        gets[:2],
        lambda r: [good(r[0]), Request(0, b"a", opaque=r[1].opaque).encode()],
        (items[0], broken("magic")),
    )

    async def later(peer: Peer) -> None:
        (request,) = await peer.requests(1)
        peer.say(good(request))
        await peer.turn()
        peer.say(good(request))

    yield Case(
        "an answer twice in two turns", later, gets[:1], items[:1], afterwards=Afterwards.GONE
    )

    unasked = Fails(ConnectionClosed, sent=False, words="broke the protocol")
    idle: tuple[tuple[str, bytes], ...] = (
        ("an answer", Response(0, 0, 0, 0, bytes(4), b"", b"x").encode()),
        ("an answer to a NOOP", Response(0x0A, 0, 0).encode()),
        ("an answer with the largest opaque", Response(0x0A, 0, LARGEST[32]).encode()),
        ("a text", b"ERROR\r\n"),
    )
    for name, frame in idle:

        async def unsolicited(peer: Peer, frame: bytes = frame) -> None:
            peer.say(frame)

        yield Case(
            f"{name} before anything was asked", unsolicited, gets[:1], (unasked,), patient=True
        )

    yield several(
        "an answer to a request that was cancelled is dropped",
        (cancelled(get("a")), get("b")),
        lambda r: [good(r[0]), good(r[1])],
        (CANCELLED, item("b")),
    )
    yield several(
        "a wrong answer to a request that was cancelled",
        (cancelled(get("a")), get("b")),
        lambda r: [good(r[0], opcode=1), good(r[1])],
        (CANCELLED, broken("opcode")),
    )
    yield several(
        "the answer to a cancelled request under the opaque of its neighbour",
        (cancelled(set_), get("b")),
        lambda r: [good(r[0], opaque=r[1].opaque), good(r[1])],
        (CANCELLED, lost),
    )


# Quiet runs ---------------------------------------------------------------------------------


def quiet_cases() -> Iterator[Case]:
    """Yield the cases about quiet requests, whose silence means something."""

    def run(
        name: str,
        build: Callable[[list[Request]], list[Response | bytes]],
        expected: object,
        ask: Ask = get_multi,
        **options: Any,
    ) -> Case:
        return several(f"a quiet run: {name}", (ask,), build, (expected,), count=4, **options)

    found = {key: item(key) for key in "abc"}
    yield run("all hits", lambda r: [good(x) for x in r], found)
    yield run("all silent", lambda r: [good(r[3])], {})
    yield run("one hit", lambda r: [good(r[1]), good(r[3])], {"b": item("b")})
    yield run(
        "a miss that is told",
        lambda r: [refusal(r[0], 1), good(r[1]), refusal(r[2], 1), good(r[3])],
        {"b": item("b")},
    )
    yield run(
        "an error is no miss",
        lambda r: [good(r[0]), refusal(r[1], 0x82), good(r[3])],
        Fails(ServerOutOfMemory, status=0x82),
    )
    yield run(
        "a hit twice",
        lambda r: [good(r[0]), good(r[0]), good(r[3])],
        broken("opaque"),
    )
    yield run("hits swapped", lambda r: [good(r[1]), good(r[0]), good(r[3])], broken("opaque"))
    yield run(
        "a hit under the opcode of its loud twin",
        lambda r: [good(r[0], opcode=0), good(r[3])],
        broken("opcode"),
    )
    yield run(
        "the opaque of the fence for a hit",
        lambda r: [good(r[0], opaque=r[3].opaque), good(r[3])],
        broken("opcode"),
    )
    yield run("a fence that failed", lambda r: [refusal(r[3], 0x81)], broken("status"))
    yield run("a fence with a value", lambda r: [good(r[3], value=b"x")], broken("value"))
    yield run("no fence and the end", lambda r: [good(r[0])], CLOSED, close=True)
    yield run("nothing and the end", lambda r: [], CLOSED, close=True)
    yield run("half a fence and the end", lambda r: [good(r[3]).encode()[:23]], CLOSED, close=True)
    yield run("no fence and silence", lambda r: [good(r[0])], LATE, limits=SHORT)
    yield run(
        "the key of a neighbour",
        lambda r: [good(r[0]), good(r[1], key=b"c"), good(r[3])],
        broken("key"),
        lambda protocol: getk_multi(protocol).addCallback(_raised),
    )
    yield run("stored and told", lambda r: [good(x) for x in r], [], set_multi)
    yield run("stored in silence", lambda r: [good(r[3])], [], set_multi)
    yield run(
        "one was too large",
        lambda r: [refusal(r[1], 3), good(r[3])],
        Fails(ValueTooLarge, status=3),
        set_multi,
    )
    yield run(
        "a set answered with a value",
        lambda r: [good(r[0], value=b"x")],
        broken("value"),
        set_multi,
    )
    yield run("stored perhaps and the end", lambda r: [], CLOSED, set_multi, close=True)
    yield run("one was missing", lambda r: [refusal(r[1], 1), good(r[3])], ["b"], delete_multi)
    yield several(
        "a quiet run: a neighbour behind it under its opaque",
        (get_multi, get("d")),
        lambda r: [good(r[4], opaque=r[2].opaque)],
        (broken("opcode"), broken("opcode")),
        count=5,
    )


def _raised(outcomes: list[Any]) -> Any:
    """Return the outcomes, or raise the first that is an error."""
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


# What can not be told, or is not ------------------------------------------------------------


def limit_cases() -> Iterator[Case]:
    """
    Yield the cases in which a wrong order is noticed only after something was taken for right.

    That is a run whose fence is answered too early: silence before it is believed.
    """
    gone = Afterwards.GONE
    yield several(
        "a quiet run: the fence before a hit",
        (get_multi,),
        lambda r: [good(r[3]), good(r[0])],
        ({},),
        count=4,
        afterwards=gone,
    )
    yield several(
        "a quiet run: the last hit before the others",
        (get_multi,),
        lambda r: [good(r[2]), good(r[1]), good(r[0]), good(r[3])],
        (broken("opaque"),),
        count=4,
    )

    async def again(peer: Peer) -> None:
        greeting = await peer.request()
        peer.say(good(greeting))
        asked = await peer.request()
        peer.say(good(greeting), good(asked))

    yield Case(
        "a second answer to the greeting, for a NOOP",
        again,
        (noop,),
        (broken("opaque"),),
        greets=False,
    )
    yield Case(
        "a second answer to the greeting, for a get",
        again,
        (get("a"),),
        (broken("opaque"),),
        greets=False,
    )
