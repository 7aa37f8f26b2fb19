"""The part of ``tlsmc demo`` with the tunnel: a client that has neither TLS nor a password."""

from __future__ import annotations

import socket
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from txtlsmc.cli.show import Show
from txtlsmc.settings import TLS, ClientSettings, Credentials
from txtlsmc.testing import Authority, MemoryServer
from txtlsmc.tunnel.gateway import Gateway
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.settings import TunnelSettings

_SECONDS: Final = 10.0
_TRIES: Final = 100
_HEADER: Final = Struct(">BBHBBHIIQ")
_GET, _SET = 0x00, 0x01
_CLOSED: Final = "closed, without an answer"


class _Plain:
    """Somebody else's client: a socket and the binary protocol, and nothing of this package."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)

    def ask(self, opcode: int, key: bytes, extras: bytes = b"", value: bytes = b"") -> bytes | None:
        """Return the value of the answer; None when the connection was closed instead."""
        body = extras + key + value
        head = _HEADER.pack(0x80, opcode, len(key), len(extras), 0, 0, len(body), 7, 0)
        try:
            self._socket.sendall(head + body)
            fields = _HEADER.unpack(self._read(_HEADER.size))
            return (
                self._read(fields[6])[fields[3] :] if fields[5] == 0 else b"status %d" % fields[5]
            )
        except ConnectionError:
            return None

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError
            data += piece
        return data

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


async def show_tunnel(
    reactor: Any, show: Show, authority: Authority, credentials: Credentials
) -> None:
    """
    Start a server with TLS and SASL and the tunnel before it, and show what a client sees.

    Args:
        reactor: the reactor.
        show: takes what comes out.
        authority: issues the certificate of the server.
        credentials: what the tunnel has, and the server wants; the client does not know them.
    """
    users = {credentials.username: credentials.password}
    server = MemoryServer(reactor, users=users, certificate=authority.issue())
    await server.listen()
    client = ClientSettings(
        servers=(server.server,), tls=TLS(ca=authority.pem), credentials=credentials
    )
    gateway = Gateway(reactor, server.server, TunnelSettings(client), Hub.make())
    gateway.start()
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(gateway.factory)
    try:
        await _through(port.getHost().port, server, reactor, show)
    finally:
        await port.stopListening()
        await gateway.drain(1.0)
        await server.stop()


async def _through(port: int, server: MemoryServer, reactor: Any, show: Show) -> None:
    show.title("A client that knows neither TLS nor the password, through the tunnel")
    plain = await _apart(lambda: _Plain(port))
    try:
        stored = await _apart(lambda: plain.ask(_SET, b"song", bytes(8), b"la la"))
        show.result("set song, in plain text to this machine", _said(stored), stored == b"")
        items = server.stats["curr_items"]
        show.result(f"items on {server.server}, over TLS", items, items == 1)
        got = await _get(plain)
        show.result("get song", _said(got), got == b"la la")

        show.title("The tunnel's server is killed")
        address = f"tcp:{server.server.address.port}:interface=127.0.0.1"
        await server.stop()
        got = await _get(plain)
        show.result("get song, which is no miss", _said(got), got is None)
    finally:
        plain.close()

    show.title("It comes back, and the client connects again, as it would to a server")
    await server.listen(address)
    got = None
    for _ in range(_TRIES):
        again = await _apart(lambda: _Plain(port))
        got = await _get(again)
        again.close()
        if got is not None:
            break
        await deferLater(reactor, _SECONDS / _TRIES)
    show.result("get song", _said(got), got == b"la la")


def _get(plain: _Plain) -> Deferred[bytes | None]:
    return _apart(lambda: plain.ask(_GET, b"song"))


def _apart(ask: Callable[[], Any]) -> Deferred[Any]:
    """Run *ask*, which waits for a socket, where it holds nobody up."""
    return deferToThread(ask)


def _said(value: bytes | None) -> str:
    return _CLOSED if value is None else "done" if not value else repr(value)
