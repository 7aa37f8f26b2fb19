"""Connections over verified TLS, and sessions that are taken up again, with Python's TLS server."""

from __future__ import annotations

import socket
import ssl
import time
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorTCP, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.net.network import Application, Applications
from txtlsmc.errors import (
    CertificateUntrusted,
    ConnectRefused,
    ConnectTimedOut,
    PinMismatch,
    PlaintextServer,
)
from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.net.secure import SecureEndpoint
from txtlsmc.settings import TLS, InsecurePlaintext, Limits, Server
from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
DAY = 86400.0


@cache
def authority() -> Authority:
    return Authority()


@cache
def localhost() -> IssuedCertificate:
    return authority().issue("localhost")


def server_context(version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    with TemporaryDirectory() as folder:
        context.load_cert_chain(*localhost().write_to(folder))
    return context


class Greeting(Protocol):
    """Says hello when the handshake is complete, and remembers what it was told."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shaken = False
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self._incoming.write(data)
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
                self._tls.write(b"hello")
            said = self._tls.read(2**16)
            self.received += said
            if not said:  # the client's goodbye
                self.transport.loseConnection()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.transport.loseConnection()
        self.transport.write(self._outgoing.read())


class Hearing(Application):
    """Closes the connection when it was greeted."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        assert self.transport is not None
        self.transport.loseConnection()


class SecureTestCase(TestCase):
    timeout = 60

    def listen(self, factory: Any) -> int:
        factory.noisy = False
        port = IReactorTCP(reactor).listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        address = port.getHost()
        assert isinstance(address, IPv4Address)
        return address.port

    def greeting(self, version: str) -> int:
        self.context = server_context(version)
        self.greetings: list[Greeting] = []

        def build() -> Greeting:
            self.greetings.append(Greeting(self.context))
            return self.greetings[-1]

        return self.listen(Factory.forProtocol(build))

    def endpoint(
        self, port: int, tls: TLS | None = None, *, resume: bool = True, connect_timeout: float = 30
    ) -> SecureEndpoint:
        self.now = time.time()
        return SecureEndpoint(
            IReactorTime(reactor),
            Server.parse(f"localhost:{port}"),
            tls=TLS(ca=authority().pem) if tls is None else tls,
            limits=Limits(connect_timeout=connect_timeout),
            resume=resume,
            wall_clock=lambda: self.now,
        )

    async def visit(self, endpoint: SecureEndpoint) -> None:
        """Connect, be greeted, close."""
        hearing = await endpoint.connect(Factory.forProtocol(Hearing))
        assert isinstance(hearing, Hearing)
        self.assertEqual(hearing.made, 1)
        await hearing.gone
        self.assertEqual(hearing.received, b"hello")

    @property
    def hits(self) -> int:
        """How many sessions the server took up again, as it counts them."""
        return self.context.session_stats()["hits"]


class SecureEndpointTests(SecureTestCase):
    async def test_connect(self) -> None:
        """Connected means that the server is verified, and nothing was said to it yet."""
        for version in VERSIONS:
            endpoint = self.endpoint(self.greeting(version), resume=False)
            told: list[CertificateFacts] = []
            endpoint.on_handshake = told.append
            await self.visit(endpoint)
            self.assertEqual([each.pin for each in told], [localhost().pin])
            self.assertEqual(told, [endpoint.peer])
            self.assertEqual([each.received for each in self.greetings], [b""])

    async def test_untrusted(self) -> None:
        """Nobody is connected to a server that is not trusted, and no session is kept of it."""
        for version in VERSIONS:
            endpoint = self.endpoint(self.greeting(version), TLS(ca=Authority("other").pem))
            applications = Applications()
            for _ in range(2):
                await self.assertFailure(endpoint.connect(applications), CertificateUntrusted)
            self.assertEqual((endpoint.peer, applications.peers, self.hits), (None, [], 0))

    async def test_failures(self) -> None:
        """What goes wrong fails as it does with the client: refused, too late, no TLS, no pin."""
        silent = self.listen(Factory.forProtocol(Protocol))
        late = self.endpoint(silent, connect_timeout=0.05)
        await self.assertFailure(late.connect(Applications()), ConnectTimedOut)
        port = self.greeting("1.3")
        pinned = self.endpoint(port, TLS(ca=authority().pem, pins=("0" * 64,)))
        await self.assertFailure(pinned.connect(Applications()), PinMismatch)

        class Plain(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"ERROR\r\n")
                self.transport.loseConnection()

        plain = self.endpoint(self.listen(Factory.forProtocol(Plain)))
        await self.assertFailure(plain.connect(Applications()), PlaintextServer)
        with socket.socket() as unused:  # bound, but nobody listens
            unused.bind(("127.0.0.1", 0))
            nobody = self.endpoint(unused.getsockname()[1])
            await self.assertFailure(nobody.connect(Applications()), ConnectRefused)

    async def test_plaintext(self) -> None:
        """Without TLS it is connected when TCP is, and there is no certificate to tell of."""

        class Hello(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(b"hello")

        endpoint = SecureEndpoint(
            IReactorTime(reactor),
            Server.parse(f"localhost:{self.listen(Factory.forProtocol(Hello))}"),
            tls=InsecurePlaintext(),
        )
        await self.visit(endpoint)
        self.assertIsNone(endpoint.peer)


class ResumptionTests(SecureTestCase):
    async def test_resumed(self) -> None:
        """A session is taken up again, and it is still known with whom."""
        for version in VERSIONS:
            endpoint = self.endpoint(self.greeting(version))
            for number in range(3):
                await self.visit(endpoint)
                self.assertEqual((endpoint.resumed, self.hits), (number > 0, number), version)
                assert endpoint.peer is not None
                self.assertEqual(endpoint.peer.pin, localhost().pin)

    async def test_while_open(self) -> None:
        """The session of a connection that still lives, and was greeted, can be taken up."""
        for version in VERSIONS:
            endpoint = self.endpoint(self.greeting(version))
            first = await endpoint.connect(Factory.forProtocol(Application))
            assert isinstance(first, Application) and first.transport is not None
            while not first.received:
                await deferLater(IReactorTime(reactor), 0)
            await self.visit(endpoint)
            self.assertEqual((endpoint.resumed, self.hits), (True, 1))
            first.transport.loseConnection()
            await first.gone

    async def test_not_asked_for(self) -> None:
        """Unless it is asked for, every connection begins a session of its own."""
        for version in VERSIONS:
            endpoint = self.endpoint(self.greeting(version), resume=False)
            for _ in range(2):
                await self.visit(endpoint)
            self.assertEqual((endpoint.resumed, self.hits), (False, 0))

    async def test_expired(self) -> None:
        """A session is not taken up when the certificate that it began with is not valid now."""
        for version in VERSIONS:
            for away in (91 * DAY, -1 * DAY):
                endpoint = self.endpoint(self.greeting(version))
                await self.visit(endpoint)
                self.now += away
                await self.visit(endpoint)
                self.assertEqual((endpoint.resumed, self.hits), (False, 0))

    async def test_nobody_verified(self) -> None:
        """Where nobody is verified no session is kept."""
        for version in VERSIONS:
            endpoint = self.endpoint(self.greeting(version), TLS(insecure_no_verify=True))
            for _ in range(2):
                await self.visit(endpoint)
            self.assertEqual((endpoint.resumed, self.hits), (False, 0))

    async def test_forgotten(self) -> None:
        """A server that has forgotten the session is verified anew."""
        for version in VERSIONS:
            port = self.greeting(version)
            endpoint = self.endpoint(port)
            await self.visit(endpoint)
            self.context = server_context(version)
            await self.visit(endpoint)
            self.assertEqual((endpoint.resumed, self.hits), (False, 0))
            await self.visit(endpoint)
            self.assertEqual((endpoint.resumed, self.hits), (True, 1))
