"""
A tunnel as small as can be, to try the load and the controls on: TLS, and one pair for each local.

It is run as a program, with the options of the real one that it needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from twisted.internet import reactor, ssl
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IPushProducer)
class Brake:
    """Slows down one side for the other; to close it is left to `connectionLost`."""

    def __init__(self, transport: Any) -> None:
        self.pauseProducing = transport.pauseProducing
        self.resumeProducing = transport.resumeProducing

    def stopProducing(self) -> None:
        """Nothing: the side for which it was slowed down is lost."""


class Upstream(Protocol):
    """The dialled side of a pair."""

    transport: Any

    def __init__(self, local: Local) -> None:
        self.local = local

    def connectionMade(self) -> None:
        """Hand on what came meanwhile, and let each side slow down the other."""
        self.local.paired(self)
        self.transport.registerProducer(Brake(self.local.transport), True)
        self.local.transport.registerProducer(Brake(self.transport), True)

    def dataReceived(self, data: bytes) -> None:
        """Hand on an answer."""
        self.local.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Close the other side."""
        self.local.upstream = None
        self.local.transport.unregisterProducer()
        self.local.transport.loseConnection()


class Local(Protocol):
    """The accepted side of a pair."""

    transport: Any

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        self.upstream: Upstream | None = None
        self._early: list[bytes] = []
        self._gone = False

    def connectionMade(self) -> None:
        """Dial."""
        self.tunnel.locals.append(self)
        factory = Factory.forProtocol(lambda: Upstream(self))
        self.tunnel.endpoint().connect(factory).addErrback(self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        self.transport.abortConnection()

    def paired(self, upstream: Upstream) -> None:
        """Hand on what came before."""
        self.upstream = upstream
        if self._gone:
            upstream.transport.abortConnection()
        for data in self._early:
            upstream.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        """Hand on a request."""
        if self.upstream is None:
            self._early.append(data)
        else:
            self.upstream.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Close the other side."""
        self._gone = True
        self.tunnel.locals.remove(self)
        if self.upstream is not None:
            self.upstream.transport.abortConnection()


class Tunnel(ServerFactory):
    """Makes pairs."""

    noisy = False

    def __init__(self, server: str, ca: bytes) -> None:
        self.locals: list[Local] = []
        self._host, _, port = server.partition(":")
        self._port = int(port)
        trusted = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(ca)])
        self._options = ssl.optionsForClientTLS(self._host, trustRoot=trusted)

    def endpoint(self) -> Any:
        """Return what dials the server."""
        plain = HostnameEndpoint(reactor, b"127.0.0.1", self._port)
        return wrapClientTLS(self._options, plain)

    def buildProtocol(self, addr: object) -> Local:
        """Return the local side of a new pair."""
        return Local(self)


def main() -> None:
    """Listen until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", action="append", required=True)
    parser.add_argument("--server", action="append", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--mode")
    said = parser.parse_args()
    for listen, server in zip(said.listen, said.server, strict=True):
        tunnel = Tunnel(server, Path(said.ca).read_bytes())
        reactor.listenTCP(int(listen.partition(":")[2]), tunnel, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
