"""Statuses, rare answers that are legal, and answers in another protocol, as a table of cases."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from tests.hostile import Peer, good
from tests.net.hostile.case import (
    Case,
    Fails,
    broken,
    item,
)
from tests.net.hostile.making import (
    CONTROLS,
    LARGEST,
    add,
    always,
    append,
    cas,
    case,
    delete,
    flush_all,
    get,
    getk,
    header,
    incr,
    noop,
    refusal,
    set_,
    several,
    touch,
    version,
)
from txtlsmc.errors import (
    InvalidArguments,
    KeyExists,
    KeyNotFound,
    NonNumericValue,
    NotPermitted,
    NotStored,
    NotSupported,
    ServerBusy,
    ServerError,
    ServerInternalError,
    ServerOutOfMemory,
    TemporaryFailure,
    UnknownCommand,
    ValueTooLarge,
)
from txtlsmc.settings import Limits
from txtlsmc.wire.frames import Response
from txtlsmc.wire.operations import KeyedItem

# Statuses -----------------------------------------------------------------------------------

_STATUSES: Final[tuple[tuple[int, type[ServerError]], ...]] = (
    (0x01, KeyNotFound),
    (0x02, KeyExists),
    (0x03, ValueTooLarge),
    (0x04, InvalidArguments),
    (0x05, NotStored),
    (0x06, NonNumericValue),
    (0x20, NotPermitted),
    (0x81, UnknownCommand),
    (0x82, ServerOutOfMemory),
    (0x83, NotSupported),
    (0x84, ServerInternalError),
    (0x85, ServerBusy),
    (0x86, TemporaryFailure),
    # Nobody knows these; the last ones are success, and a refusal, to who reads only one byte.
    (0x07, ServerError),
    (0x22, ServerError),
    (0x80, ServerError),
    (0x87, ServerError),
    (0xFFFF, ServerError),
    (0x0100, ServerError),
    (0x2000, ServerError),
)


def status_cases() -> Iterator[Case]:
    """Yield the cases about statuses: each is an error of its own class, or a result."""
    for status, kind in _STATUSES:
        yield case(
            f"status 0x{status:04x} for a set",
            set_,
            partial(refusal, status=status),
            Fails(kind, opcode=1, status=status, text="no"),
        )
    yield header("status 0x21 for a set", "status", set_, status=0x21)
    yield header("status 0x21 for a noop", "status", noop, status=0x21)
    yield header("status 0x21 for a version", "status", version, status=0x21)

    for name, ask, status, result in (
        ("a get", get("b"), 1, None),
        ("a getk", getk, 1, None),
        ("an add", add, 2, False),
        ("a cas", cas, 2, False),
        ("a cas that is missing", cas, 1, False),
        ("a delete", delete, 1, False),
        ("a touch", touch, 1, False),
        ("an append", append, 5, False),
        ("an append that is missing", append, 1, False),
        ("an incr", incr, 1, None),
    ):
        yield case(
            f"{name} whose condition does not hold", ask, partial(refusal, status=status), result
        )
    for name, ask, status, kind in (
        ("a get", get("b"), 2, KeyExists),
        ("a get that is not permitted", get("b"), 0x20, NotPermitted),
        ("a get that is out of memory", get("b"), 0x82, ServerOutOfMemory),
        ("a get with an unknown status", get("b"), 0x99, ServerError),
        ("an incr of a text", incr, 6, NonNumericValue),
        ("an incr that says not stored", incr, 5, NotStored),
        ("a delete that says not stored", delete, 5, NotStored),
        ("a noop", noop, 1, KeyNotFound),
        ("a noop that is not permitted", noop, 0x20, NotPermitted),
        ("a flush that is not permitted", flush_all, 0x20, NotPermitted),
        ("a version", version, 0x81, UnknownCommand),
    ):
        yield case(
            f"{name} with status 0x{status:02x} is no miss",
            ask,
            partial(refusal, status=status),
            Fails(kind, status=status, text="no"),
        )
    for name, text in (("control characters", CONTROLS), ("64 KiB", b"\x1b" * 65536)):
        yield case(
            f"an error with a text of {name}",
            set_,
            partial(refusal, status=0x84, value=text),
            Fails(ServerInternalError, status=0x84),
        )
        yield case(
            f"a miss with a text of {name}", get("b"), partial(refusal, status=1, value=text), None
        )


# Legal, and rare ----------------------------------------------------------------------------


def legal_cases() -> Iterator[Case]:
    """Yield the cases that are legal, though hardly any server does so."""
    frame = Response(0, 0, 2, 0, bytes(4), b"", b"not yours").encode()
    yield case("a miss without a text", get("b"), partial(refusal, status=1, value=b""), None)
    yield case("an error that echoes the key", get("b"), partial(refusal, status=1, key=b"b"), None)
    yield case("a miss with a cas", get("b"), partial(refusal, status=1, cas=LARGEST[64]), None)
    yield case("an empty value", get("b"), lambda r: good(r, value=b""), item("b", b""))
    yield case(
        "a value that is a frame", get("b"), lambda r: good(r, value=frame), item("b", frame)
    )
    yield case(
        "flags largest",
        get("b"),
        lambda r: good(r, extras=b"\xff" * 4),
        item("b", flags=LARGEST[32]),
    )
    yield case("cas zero", get("b"), lambda r: good(r, cas=0), item("b", cas=0))
    yield case(
        "cas largest", get("b"), lambda r: good(r, cas=LARGEST[64]), item("b", cas=LARGEST[64])
    )
    yield case(
        "a body of exactly max_body",
        get("b"),
        lambda r: good(r, value=bytes(96)),
        item("b", bytes(96)),
        limits=Limits(timeout=30, connect_timeout=30, max_body=100),
    )
    yield case(
        "a body one larger than a small max_body",
        get("b"),
        lambda r: good(r, value=bytes(97)),
        broken("body length"),
        limits=Limits(timeout=30, connect_timeout=30, max_body=100),
    )
    yield case("a number of zero", incr, lambda r: good(r, value=bytes(8)), 0)
    yield case("a number largest", incr, lambda r: good(r, value=b"\xff" * 8), LARGEST[64])
    yield case("a touch without flags", touch, lambda r: good(r, extras=b""), True)
    yield case("a set with a cas", set_, lambda r: good(r, cas=LARGEST[64]), True)
    yield case("an empty version", version, lambda r: good(r, value=b""), "")
    yield case("a version that is no text", version, lambda r: good(r, value=b"\xff1"), "\\xff1")
    yield case("a getk with its key", getk, good, KeyedItem(b"b", *item("b")))

    async def one_byte(peer: Peer) -> None:
        requests = await peer.requests(3)
        await peer.spell(b"".join(good(request).encode() for request in requests))

    async def one_write(peer: Peer) -> None:
        for request in await peer.requests(3):
            for byte in good(request).encode():
                peer.say(bytes((byte,)))

    gets, items = tuple(get(key) for key in "abc"), tuple(item(key) for key in "abc")
    yield Case("records of one byte", one_byte, gets, items)
    yield Case("records of one byte in one go", one_write, gets, items)
    yield several("everything in one record", gets, lambda r: [good(x) for x in r], items)


# Something else -----------------------------------------------------------------------------

OTHER_PROTOCOLS: Final = (
    ("HTTP", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    ("the text protocol", b"ERROR\r\n"),
    ("SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    ("Redis", b"-ERR unknown command\r\n"),
    ("TLS", b"\x15\x03\x03\x00\x02\x02\x28"),
    ("zeros", bytes(4096)),
    ("one byte", b"\x00"),
)


def garbage_cases() -> Iterator[Case]:
    """Yield the cases of answers in another protocol."""
    for name, said in OTHER_PROTOCOLS:
        yield case(f"an answer that is {name}", get("b"), always(said), broken("magic"))
    yield case("the request as its answer", get("b"), lambda r: r.encode(), broken("magic"))
