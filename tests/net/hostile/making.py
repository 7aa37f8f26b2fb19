"""How a case is made of what is asked and what is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred

from tests.hostile import Peer, changed, good
from tests.net.hostile.case import (
    Ask,
    Case,
    Fails,
    broken,
    item,
)
from txtlsmc.errors import (
    RemoteProtocolError,
)
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import Limits
from txtlsmc.wire import operations
from txtlsmc.wire.frames import Request, Response

LARGEST: Final = {8: 0xFF, 16: 0xFFFF, 32: 0xFFFFFFFF, 64: 0xFFFFFFFFFFFFFFFF}
#: Takes whatever can be announced.
BOUNDLESS: Final = Limits(timeout=30, connect_timeout=30, max_body=LARGEST[32])
#: What a terminal would obey.
CONTROLS: Final = b"\x1b[2J\x1b]0;owned\x07\r\n\0\x7f\xc2\x9b31m\xe2\x80\xae\xff"

Build = Callable[[Request], Response | bytes]


# What is asked ------------------------------------------------------------------------------


def get(key: str) -> Ask:
    return lambda protocol: protocol.get(key)


def getk(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.perform(operations.getk("b"))


def set_(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.set("b", b"new")


def add(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.add("b", b"new")


def cas(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.cas("b", b"new", 1)


def append(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.append("b", b"more")


def delete(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.delete("b")


def incr(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.incr("b")


def touch(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.touch("b", 10)


def noop(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.noop()


def version(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.version()


def flush_all(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.flush_all()


def stats(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.stats()


def get_multi(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.get_multi(["a", "b", "c"])


def set_multi(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.set_multi({"a": b"1", "b": b"2", "c": b"3"})


def delete_multi(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.delete_multi(["a", "b", "c"])


def getk_multi(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.perform_all([operations.getk(key, quiet=True) for key in "abc"])


def quit_(protocol: MemcacheProtocol) -> Deferred[Any]:
    return protocol.quit()


def cancelled(ask: Ask) -> Ask:
    def cancel(protocol: MemcacheProtocol) -> Deferred[Any]:
        done = ask(protocol)
        done.cancel()
        return done

    return cancel


CANCELLED: Final = Fails(CancelledError)


# How a case is made -------------------------------------------------------------------------


def case(name: str, ask: Ask, build: Build, expected: object, **options: Any) -> Case:
    """Return the case in which what *build* makes is the answer to *ask*, between two gets."""

    async def script(peer: Peer) -> None:
        before, asked, behind = await peer.requests(3)
        peer.say(good(before), build(asked), good(behind))

    fatal = isinstance(expected, Fails) and expected.kind is RemoteProtocolError
    expects = (item("a"), expected, expected if fatal else item("c"))
    return Case(name, script, (get("a"), ask, get("c")), expects, **options)


def header(name: str, field: str, ask: Ask | None = None, **fields: int) -> Case:
    """Return the case in which *fields* of the header are others; *field* is said to be wrong."""
    return case(name, ask or get("b"), lambda r: changed(good(r), **fields), broken(field))


def parts(name: str, field: str, ask: Ask, **others: Any) -> Case:
    """Return the case in which *others* are parts of an answer that fits in itself."""
    return case(name, ask, lambda r: good(r, **others), broken(field))


def several(
    name: str,
    asks: tuple[Ask, ...],
    build: Callable[[list[Request]], list[Response | bytes]],
    expects: tuple[object, ...],
    *,
    count: int | None = None,
    close: bool = False,
    **options: Any,
) -> Case:
    """Return the case in which *build* makes all that is said, once *count* requests came."""

    async def script(peer: Peer) -> None:
        peer.say(*build(await peer.requests(count or len(asks))))
        if close:
            peer.close()

    return Case(name, script, asks, expects, **options)


def always(said: bytes) -> Build:
    """Return what answers *said* to whatever is asked."""
    return lambda request: said


def refusal(request: Request, status: int, value: bytes = b"no", **others: Any) -> Response:
    """Return the answer that is an error."""
    return Response(request.opcode, status, request.opaque, value=value, **others)
