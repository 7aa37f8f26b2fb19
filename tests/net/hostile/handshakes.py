"""TLS handshakes that come to nothing, as a table of cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests.hostile import Peer
from tests.net.hostile.case import SHORT_CONNECT, Case, Fails
from tests.net.hostile.making import (
    CONTROLS,
)
from txtlsmc.errors import (
    ConnectFailed,
    ConnectTimedOut,
    PlaintextServer,
    TLSFailed,
)
from txtlsmc.wire.frames import Response

# Below TLS ----------------------------------------------------------------------------------


def tls_cases() -> Iterator[Case]:
    """Yield the cases of a server that does not shake hands as it should."""

    def hello(
        name: str, said: bytes, kind: type[Exception], *, close: bool = False, **options: Any
    ) -> Case:
        async def script(peer: Peer) -> None:
            await peer.heard()
            peer.say(said)
            if close:
                peer.close()

        return Case(
            f"TLS: {name}",
            script,
            connects=Fails(kind),
            greets=False,
            tls=True,
            below_tls=True,
            **options,
        )

    answer = Response(0x0A).encode()
    yield hello("a plaintext server", answer, PlaintextServer)
    yield hello("HTTP for a handshake", b"HTTP/1.1 400 Bad Request\r\n\r\n", PlaintextServer)
    yield hello("control characters for a handshake", CONTROLS * 99, PlaintextServer)
    yield hello("an alert for a handshake", b"\x15\x03\x03\x00\x02\x02\x28", TLSFailed)
    yield hello("the end for a handshake", b"", TLSFailed, close=True)
    yield hello("half a record and the end", b"\x16\x03\x03\x40\x00\x02", TLSFailed, close=True)
    yield hello("silence for a handshake", b"", ConnectTimedOut, limits=SHORT_CONNECT)

    async def trickle(peer: Peer) -> None:
        await peer.heard()
        peer.say(b"\x16\x03\x03\x40\x00\x02\x00\xff\xff")
        while True:
            peer.say(b"\x00")
            await peer.turn(0.01)

    yield Case(
        "TLS: an endless handshake",
        trickle,
        connects=Fails(ConnectTimedOut),
        greets=False,
        tls=True,
        below_tls=True,
        limits=SHORT_CONNECT,
    )

    async def ends(peer: Peer, end: Callable[[Peer], None]) -> None:
        await peer.request()
        end(peer)

    after = Fails(ConnectFailed)
    for name, end in (("is cut", Peer.cut), ("is closed", Peer.close), ("is reset", Peer.reset)):
        yield Case(
            f"TLS: a connection that {name} before it is ready",
            partial(ends, end=end),
            connects=after,
            greets=False,
            tls=True,
        )
