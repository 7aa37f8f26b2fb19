"""`MemoryServer`: a memcached in the process, for tests and demos."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory

from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import DEFAULT_PORT, Address, Server
from txtlsmc.testing.answers import Answers
from txtlsmc.testing.connection import Connection
from txtlsmc.testing.issued import IssuedCertificate
from txtlsmc.testing.memory import MemoryEndpoint
from txtlsmc.testing.options import ServerOptions
from txtlsmc.testing.registry import Registry
from txtlsmc.testing.statistics import Statistics
from txtlsmc.testing.store import Store

Certificate = IssuedCertificate | IOpenSSLServerConnectionCreator | CertificateOptions

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class MemoryServer:
    """
    A memcached in the process: the binary protocol, SASL and TLS, nothing on disk.

    ::

        server = MemoryServer(reactor, users={"alice": "secret"}, certificate=authority.issue())
        await server.listen()
        connection = await connect(reactor, server.server, tls=TLS(ca=authority.pem), …)
        …
        await server.stop()

    It answers what memcached 1.6.18 answers, byte for byte where it can.  What it is not: a server
    for production.  It is single-threaded, and it shows no limits but those listed below.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        *,
        users: Mapping[str, str] | None = None,
        mechanisms: Sequence[str] = ("PLAIN", "SCRAM-SHA-256"),
        certificate: Certificate | None = None,
        client_ca: bytes | None = None,
        name: str | None = None,
        max_bytes: int = 64 * 2**20,
        max_item: int = 2**20,
        max_body: int | None = None,
        max_connections: int = 1024,
        flush_enabled: bool = True,
        version: str = "1.6.18",
        wall_clock: Callable[[], float] = time.time,
        nonce: Callable[[], str] = secrets.token_urlsafe,
    ) -> None:
        """
        Args:
            reactor: what has the sockets, and the time by which items expire.  For `endpoint` a
                `twisted.internet.task.Clock` will do.
            users: passwords by name; SASL is required then.  It is looked at whenever somebody
                logs in, so it may change.  None: there is no SASL.
            mechanisms: of `txtlsmc.settings.MECHANISMS`, in the order in which they are listed.
            certificate: for TLS: one that an `Authority` issued, or whatever Twisted's TLS servers
                take.  None: there is no TLS.
            client_ca: the PEM of the authorities of which one must have issued the client's
                certificate.  Only with one that an `Authority` issued.
            name: what `server` is called, when it is not to be its address.
            max_bytes: of all items together, each by `txtlsmc.testing.store.item_size`: key and
                value and 59 bytes.  When there are more, those that were not used for longest go.
            max_item: of one item, likewise.
            max_body: of one request, four times *max_item* unless it is given.  What is larger is
                not collected, and then a SET that is refused leaves the old item alone.
            max_connections: further ones are closed at once.
            flush_enabled: without, FLUSH is refused, as under memcached's ``-F``.
            version: what VERSION tells.
            wall_clock: the Unix time, by which items expire that were given one.
            nonce: makes a random string for each CRAM-MD5 and SCRAM dialogue.

        Raises:
            InvalidSetting: one of them can not be right.
        """
        self._options = ServerOptions(
            users=users,
            mechanisms=tuple(mechanisms),
            tls=certificate is not None,
            max_bytes=max_bytes,
            max_item=max_item,
            max_body=4 * max_item if max_body is None else max_body,
            max_connections=max_connections,
            flush_enabled=flush_enabled,
            version=version,
            wall_clock=wall_clock,
            nonce=nonce,
        )
        self._reactor = reactor
        self._name = name
        self._address: Address | None = None
        self._ports: list[IListeningPort] = []
        self._registry = Registry(max_connections)
        self._store = Store(reactor.seconds, wall_clock, max_bytes=max_bytes, max_item=max_item)
        self._statistics = Statistics(
            self._options, self._store, reactor.seconds, lambda: self.connections
        )
        plain = _MemcacheFactory(self._options, self._store, self._statistics, self._registry)
        creator = _creator(certificate, client_ca)
        #: Builds the protocols of its connections, TLS included.  Whoever wraps it listens with the
        #: wrapper and closes that listener; the connections are still ours to close.
        self.factory: IProtocolFactory = (
            plain if creator is None else TLSMemoryBIOFactory(creator, False, plain, reactor)
        )

    def __repr__(self) -> str:
        return f"<MemoryServer {self.server}, {self.connections} connections>"

    # Where it is

    def listen(
        self, endpoint: str | IStreamServerEndpoint = "tcp:0:interface=127.0.0.1"
    ) -> Deferred[None]:
        """
        Accept connections, on one more address if it does already.

        Args:
            endpoint: a server endpoint, or the string for one; by default a free port on loopback.

        Returns:
            A Deferred that fires when it listens.

        Fails:
            CannotListenError: the address is not to be had.
        """
        chosen: IStreamServerEndpoint = (
            serverFromString(self._reactor, endpoint) if isinstance(endpoint, str) else endpoint
        )

        def listening(port: IListeningPort) -> None:
            self._registry.accepting = True
            if not self._ports:
                self._address = _dialled(port.getHost())
            self._ports.append(port)

        return chosen.listen(self.factory).addCallback(listening)

    def stop(self) -> Deferred[None]:
        """
        Close listeners and connections; what is stored stays, until it is gone itself.

        Returns:
            A Deferred that fires when all are gone, and nothing of it is left in the reactor.
        """
        self._registry.accepting = False
        ports, self._ports = self._ports, []
        closing: list[Deferred[None]] = [
            stopping for port in ports if (stopping := port.stopListening()) is not None
        ]
        self._registry.abort_all()
        closing.append(self._registry.when_empty())
        return gatherResults(closing, consumeErrors=True).addCallback(lambda _: None)

    @property
    def server(self) -> Server:
        """What to dial: the first address that it listened on."""
        address = self._address or Address("127.0.0.1", DEFAULT_PORT)
        return Server(self._name or str(address), self._address)

    def endpoint(self) -> IStreamClientEndpoint:
        """
        Return an endpoint that connects to it in memory, without a socket.

        It carries plain bytes; where the server has a certificate, wrap it with
        `twisted.internet.endpoints.wrapClientTLS` as any other.  `listen` is not needed for it.
        """
        return MemoryEndpoint(self._reactor, self.factory, self._registry)

    # What can go wrong with a server

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._registry)

    def drop_connections(self) -> None:
        """Close all connections at once, as a crash would; new ones are accepted."""
        self._registry.abort_all()

    def pause(self) -> None:
        """Fall silent: go on accepting, and neither read nor answer, until `resume`."""
        self._registry.pause_all()

    def resume(self) -> None:
        """Go on, with what came in the meantime first."""
        self._registry.resume_all()

    @property
    def stats(self) -> dict[str, int]:
        """The numbers of the general statistics, under memcached's names, as of now."""
        general = self._statistics.general()
        return {name: value for name, value in general.items() if isinstance(value, int)}


class _MemcacheFactory(Factory[Connection]):
    """Builds connections."""

    noisy = False

    def __init__(
        self, options: ServerOptions, store: Store, statistics: Statistics, registry: Registry
    ) -> None:
        self._options, self._store = options, store
        self._statistics, self._registry = statistics, registry

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """Return the server's side of a new connection."""
        answers = Answers(self._options, self._store, self._statistics)
        counters = self._statistics.counters
        connection = Connection(self._registry, answers, counters, self._options.max_body)
        connection.factory = self
        return connection


def _creator(
    certificate: Certificate | None, client_ca: bytes | None
) -> IOpenSSLServerConnectionCreator | CertificateOptions | None:
    if isinstance(certificate, IssuedCertificate):
        try:
            return certificate.server_options(client_ca)
        except ValueError as error:
            raise InvalidSetting(f"client_ca is no PEM of certificates: {error}") from None
    if client_ca is not None:
        raise InvalidSetting("client_ca goes with a certificate that an Authority issued only")
    return certificate


def _dialled(listening: IAddress) -> Address:
    if isinstance(listening, UNIXAddress):
        return Address(path=os.fsdecode(listening.name or b""))
    assert isinstance(listening, IPv4Address | IPv6Address)
    return Address(_ANYWHERE.get(listening.host, listening.host), listening.port)
