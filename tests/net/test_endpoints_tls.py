"""Connecting over real sockets, with real TLS: whom do we reach, and why not?"""

from __future__ import annotations

import shutil
import socket
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from twisted.application.internet import ClientService
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock, deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SkipTest, TestCase

from tests.net.network import Application, Applications, Names
from tests.net.servers import (
    Connection,
    FakeServer,
    Garbage,
    Memcached,
    Scripted,
    hang_up,
)
from tests.net.test_tls import OldServer
from tests.secrecy import USER, Witness, credentials, password, wrong_credentials
from txtlsmc.errors import (
    CertificateError,
    CertificateExpired,
    CertificateNotYetValid,
    CertificateUntrusted,
    CertificateWrongHost,
    ClientCertificateRefused,
    ConnectFailed,
    ConnectRefused,
    ConnectTimedOut,
    CredentialsRefused,
    InvalidSetting,
    MemcacheError,
    PinMismatch,
    PlaintextServer,
    RemoteProtocolError,
    SASLUnavailable,
    TLSFailed,
    TLSVersionRefused,
)
from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.net.endpoints import ReadyEndpoint, connect
from txtlsmc.settings import MECHANISMS, TLS, Credentials, InsecurePlaintext, Limits, Server
from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.opcodes import Opcode

VERSIONS = ("1.2", "1.3")
PLAIN, CRAM, SCRAM = MECHANISMS
SECONDS = Limits().connect_timeout
NOW = datetime.now(UTC).replace(microsecond=0)


@cache
def authority() -> Authority:
    return Authority()


@cache
def stranger() -> Authority:
    return Authority("somebody else")


@cache
def localhost() -> IssuedCertificate:
    return authority().issue("localhost")


def trusting() -> TLS:
    return TLS(ca=authority().pem)


def users() -> dict[str, str]:
    return {USER: password()}


def _over(options: CertificateOptions | None, server: FakeServer) -> Any:
    """Return what lets *server* listen; Twisted's annotations do not count TLS among these."""
    return server if options is None else TLSMemoryBIOFactory(options, False, server)


def next_turn() -> Deferred[None]:
    """Return a Deferred for when nothing calls us any more: a service must not be called back."""
    return deferLater(IReactorTime(reactor), 0)


class LoopbackTestCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.witness = Witness(self)
        self.factory = Applications()

    def listening(self, server: FakeServer, port: IListeningPort) -> None:
        self.addCleanup(server.all_gone)
        self.addCleanup(port.stopListening)

    def listen(
        self,
        server: FakeServer,
        options: CertificateOptions | None = None,
        interface: str = "127.0.0.1",
    ) -> int:
        """Let *server* listen, over TLS if there are *options*, and return the port."""
        port = IReactorTCP(reactor).listenTCP(0, _over(options, server), interface=interface)
        self.listening(server, port)
        address = port.getHost()
        assert isinstance(address, IPv4Address | IPv6Address)
        return address.port

    def endpoint(
        self,
        port: int,
        tls: TLS | InsecurePlaintext | None = None,
        credentials: Credentials | None = None,
        *,
        name: str = "localhost:11211",
    ) -> ReadyEndpoint:
        server = Server(name, address=f"127.0.0.1:{port}")
        return ReadyEndpoint(
            IReactorTime(reactor), server, tls=tls or trusting(), credentials=credentials
        )

    async def connected(self, endpoint: ReadyEndpoint) -> Application:
        """Return the protocol, whose connection ends with the test."""
        application = await endpoint.connect(self.factory)
        assert isinstance(application, Application)
        assert application.transport is not None
        self.addCleanup(self.hang_up, application)
        return application

    def hang_up(self, application: Application) -> None:
        if application.lost is None:
            application.transport.abortConnection()  # type: ignore[union-attr]  # it is connected

    async def refusal(
        self,
        connecting: Deferred[IProtocol],
        kind: type[MemcacheError],
        *words: str,
        server: FakeServer | None = None,
    ) -> MemcacheError:
        """Return what *connecting* fails with; it left nothing, and *server* was told nothing."""
        try:
            await connecting
        except MemcacheError as error:
            self.witness.examine(error)
            self.assertIs(type(error), kind, error)
            for word in words:
                self.assertIn(word, str(error))
            caught = error
        else:
            self.fail(f"no {kind.__name__}")
        self.assertEqual(self.factory.peers, [])
        if server is not None:
            await server.all_gone()
            self.assertNotEqual(server.connections, [])
            self.assertEqual(server.received, b"")
        return caught


class CertificateTests(LoopbackTestCase):
    async def refused(
        self,
        issued: IssuedCertificate,
        kind: type[CertificateError],
        *words: str,
        tls: TLS | None = None,
        name: str = "localhost:11211",
    ) -> CertificateError:
        """The certificate is refused before the password, or anything else, was sent."""
        for version in VERSIONS:
            server = Memcached(users())
            port = self.listen(server, issued.server_options(maximum_version=version))
            endpoint = self.endpoint(port, tls, credentials(), name=name)
            connecting = endpoint.connect(self.factory)
            caught = await self.refusal(connecting, kind, *words, server=server)
            assert isinstance(caught, CertificateError)
            self.assertEqual(caught.server, name)
            error = caught
        return error

    async def test_untrusted(self) -> None:
        """Who is vouched for by nobody that we trust gets no password."""
        await self.refused(stranger().issue("localhost"), CertificateUntrusted, "set ca")
        itself = authority().self_signed("localhost")
        await self.refused(itself, CertificateUntrusted, "nobody but itself vouches for")

    async def test_platform(self) -> None:
        """Without settings it is the platform that trusts, and it does not trust our authority."""
        server = Memcached()
        port = self.listen(server, localhost().server_options())
        connecting = connect(IReactorTime(reactor), f"localhost=127.0.0.1:{port}")
        await self.refusal(connecting, CertificateUntrusted, server=server)  # type: ignore[arg-type]  # any server

    async def test_expired(self) -> None:
        """An expired certificate is refused, and the error says since when."""
        end = NOW - timedelta(days=3)
        issued = authority().issue("localhost", not_after=end)
        error = await self.refused(issued, CertificateExpired, f"expired on {end:%Y-%m-%dT%H:%M}")
        self.assertEqual(error.not_after, end)

    async def test_not_yet_valid(self) -> None:
        """A certificate of the future is refused, and the error says from when it is good."""
        start = NOW + timedelta(days=3)
        issued = authority().issue("localhost", not_before=start)
        error = await self.refused(
            issued, CertificateNotYetValid, f"not valid until {start:%Y-%m-%dT%H:%M}", "clock"
        )
        self.assertEqual(error.not_before, start)

    async def test_wrong_host(self) -> None:
        """A certificate for others is refused, and the error says for whom it is."""
        issued = authority().issue("a.example", "10.0.0.1")
        error = await self.refused(
            issued, CertificateWrongHost, "is for a.example, 10.0.0.1, and not for localhost"
        )
        self.assertEqual(error.names, ("a.example", "10.0.0.1"))
        await self.refused(authority().common_name_only("localhost"), CertificateWrongHost)

    async def test_dialled_address(self) -> None:
        """A certificate for the dialled address is none for the server that was configured."""
        issued = authority().issue("localhost", "127.0.0.1")
        name = "mc1.example:11211"
        await self.refused(issued, CertificateWrongHost, "not for mc1.example", name=name)

    async def test_told(self) -> None:
        """Who wants to know of certificates is told of each that was accepted, and of no other."""
        told: list[CertificateFacts] = []
        for issued in (localhost(), stranger().issue("localhost")):
            port = self.listen(Memcached(users()), issued.server_options())
            endpoint = self.endpoint(port, credentials=credentials())
            endpoint.on_handshake = told.append
            for _ in range(2):
                try:
                    await self.connected(endpoint)
                except CertificateError:
                    self.assertIsNone(endpoint.peer)
                else:
                    self.assertIs(endpoint.peer, told[-1])
        self.assertEqual(len(told), 2)

    async def test_pin(self) -> None:
        """A server with another key than the pinned one is refused, though it is trusted."""
        issued = localhost()
        pinned = TLS(ca=authority().pem, pins=(authority().issue("localhost").pin,))
        await self.refused(issued, PinMismatch, issued.pin, "none of the pinned", tls=pinned)
        unverified = TLS(insecure_no_verify=True, pins=pinned.pins)
        server = Memcached()
        port = self.listen(server, issued.server_options())
        connecting = self.endpoint(port, unverified).connect(self.factory)
        await self.refusal(connecting, PinMismatch, server=server)

    async def test_server_name(self) -> None:
        """Whom the certificate is for can be told apart from the server's own name."""
        tls = TLS(ca=authority().pem, server_name="real.example")
        await self.refused(localhost(), CertificateWrongHost, "not for real.example", tls=tls)
        server = Memcached()
        port = self.listen(server, authority().issue("real.example").server_options())
        await self.connected(self.endpoint(port, tls))
        self.assertEqual(server.connection.server_name, b"real.example")

    async def test_anybody(self) -> None:
        """Who gave up verification shakes hands with anybody, and can send a password there."""
        tls = TLS(insecure_no_verify=True)
        for given in (None, credentials(insecure=True)):
            server = Memcached(users() if given else None)
            port = self.listen(server, stranger().expired("a.example").server_options())
            await self.connected(self.endpoint(port, tls, given))


class HandshakeTests(LoopbackTestCase):
    async def refused(
        self, server: FakeServer, kind: type[MemcacheError], *words: str, tls: TLS | None = None
    ) -> None:
        """The server, which does TLS itself if at all, is refused before any SASL."""
        endpoint = self.endpoint(self.listen(server), tls, credentials())
        await self.refusal(endpoint.connect(self.factory), kind, *words)
        await server.all_gone()
        self.assertEqual(server.received[:1], b"\x16")  # our hello, and nothing behind it

    async def test_plaintext(self) -> None:
        """A server that does not speak TLS is told apart, with a word on the port."""
        for words in (b"ERROR\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mx.example\r\n"):
            await self.refused(Garbage(words), PlaintextServer, "plaintext port", "tls_port")

    async def test_old_version(self) -> None:
        """A server that speaks nothing newer than TLS 1.1 is refused."""

        class Old(FakeServer):
            def opened(self, connection: Connection) -> None:
                self.tls = OldServer(localhost())
                assert connection.transport is not None
                self.tls.makeConnection(connection.transport)

            def came(self, connection: Connection, data: bytes) -> None:
                self.tls.dataReceived(data)

        await self.refused(Old(), TLSVersionRefused, "1.2 at least")

    async def test_minimum_version(self) -> None:
        """So is one with TLS 1.2, where 1.3 is asked for."""
        server = Memcached()
        port = self.listen(server, localhost().server_options(maximum_version="1.2"))
        tls = TLS(ca=authority().pem, minimum_version="1.3")
        connecting = self.endpoint(port, tls).connect(self.factory)
        await self.refusal(connecting, TLSVersionRefused, "1.3 at least", server=server)

    async def test_hang_up(self) -> None:
        """A server that hangs up in the middle of the handshake makes it fail, with an advice."""
        await self.refused(
            Garbage(b"", close=True), TLSFailed, "closed during the TLS handshake", "plaintext port"
        )

    async def test_hang_up_at_once(self) -> None:
        """So does one that hangs up before it was told anything."""
        server = Garbage(b"", first=True, close=True)
        endpoint = self.endpoint(self.listen(server), credentials=credentials())
        await self.refusal(
            endpoint.connect(self.factory), TLSFailed, "closed during the TLS handshake"
        )

    async def test_hang_up_after_it(self) -> None:
        """A server that hangs up when all is verified is told apart, whatever it was asked."""
        for version in VERSIONS:
            for given, server in (
                (None, Scripted({Opcode.NOOP: hang_up})),
                (credentials(), Scripted({Opcode.SASL_LIST: hang_up}, users())),
                (credentials(), Scripted({Opcode.SASL_AUTH: hang_up}, users())),
                (credentials(SCRAM), Scripted({Opcode.SASL_STEP: hang_up}, users(), [SCRAM])),
            ):
                port = self.listen(server, localhost().server_options(maximum_version=version))
                connecting = self.endpoint(port, credentials=given).connect(self.factory)
                await self.refusal(connecting, ConnectFailed, "after it had shown its certificate")
                await server.all_gone()

    async def test_client_certificate(self) -> None:
        """A server that wants a client certificate gets ours; without the right one it is told."""
        ours = TLS(ca=authority().pem, client_certificate=authority().client().pem)
        strange = TLS(ca=authority().pem, client_certificate=stranger().client().pem)
        for version in VERSIONS:
            options = localhost().server_options(authority().pem, maximum_version=version)
            for given in (None, credentials()):
                for tls, words in (
                    (trusting(), "wants a client certificate"),
                    (strange, "does not accept our client certificate"),
                ):
                    server = Memcached(users() if given else None)
                    port = self.listen(server, options)
                    connecting = self.endpoint(port, tls, given).connect(self.factory)
                    await self.refusal(connecting, ClientCertificateRefused, words, server=server)
                server = Memcached(users() if given else None)
                await self.connected(self.endpoint(self.listen(server, options), ours, given))
                self.factory.peers.clear()

    async def test_unusable_settings(self) -> None:
        """What TLS can not use is told when the endpoint is made."""
        for tls in (
            TLS(ca="/nonexistent/ca.pem"),
            TLS(ca=b"no PEM"),
            TLS(client_certificate=localhost().chain_pem),  # without its key
        ):
            with self.assertRaises(InvalidSetting):
                self.endpoint(1, tls)
        with self.assertRaises(InvalidSetting):
            ReadyEndpoint(IReactorTime(reactor), Server("unix:/run/mc.sock"), tls=trusting())


class SASLTests(LoopbackTestCase):
    async def test_accepted(self) -> None:
        """Every mechanism works over TLS of either version."""
        for version in VERSIONS:
            server = Memcached(users(), MECHANISMS)
            port = self.listen(server, localhost().server_options(maximum_version=version))
            for mechanism in MECHANISMS:
                await self.connected(self.endpoint(port, credentials=credentials(mechanism)))
                self.assertTrue(server.connections[-1].authenticated)

    async def test_refused(self) -> None:
        """A wrong password is refused over TLS as it is without."""
        for mechanism in MECHANISMS:
            server = Memcached(users(), MECHANISMS)
            port = self.listen(server, localhost().server_options())
            endpoint = self.endpoint(port, credentials=wrong_credentials(mechanism))
            connecting = endpoint.connect(self.factory)
            await self.refusal(connecting, CredentialsRefused, mechanism)
            await server.all_gone()

    async def test_unavailable(self) -> None:
        """So is a server without SASL."""
        server = Memcached()
        port = self.listen(server, localhost().server_options())
        connecting = self.endpoint(port, credentials=credentials()).connect(self.factory)
        await self.refusal(connecting, SASLUnavailable)
        await server.all_gone()
        self.assertEqual(server.requests, [Opcode.SASL_LIST, Opcode.SASL_AUTH])

    async def test_no_memcached(self) -> None:
        """So is one that speaks something else, whether it speaks first or not."""
        for first in (False, True):
            for given in (None, credentials()):
                server = Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n", first=first)
                port = self.listen(server, localhost().server_options())
                connecting = self.endpoint(port, credentials=given).connect(self.factory)
                await self.refusal(connecting, RemoteProtocolError)
                await server.all_gone()


class EndTests(LoopbackTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()

    async def started(self, server: FakeServer, tls: bool) -> Deferred[IProtocol]:
        """Connect to a server that gets stuck, by a clock of ours, and wait until it is."""
        port = self.listen(server, localhost().server_options() if tls else None)
        endpoint = ReadyEndpoint(
            self.clock,
            Server("localhost:11211"),
            tls=trusting(),
            credentials=credentials(),
            dial=TCP4ClientEndpoint(reactor, "127.0.0.1", port),
        )
        connecting = endpoint.connect(self.factory)
        await server.heard()
        return connecting

    async def ended(self, server: FakeServer) -> None:
        """The connection is closed, and nothing is left."""
        await server.all_gone()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.factory.peers, [])

    async def test_silent_handshake(self) -> None:
        """A server that accepts, and never answers TLS's hello, is given up on time."""
        server = FakeServer()
        connecting = await self.started(server, tls=False)
        self.clock.advance(SECONDS * 0.99)
        self.assertEqual(server.received[:1], b"\x16")
        self.assertFalse(connecting.called)
        self.clock.advance(SECONDS * 0.01)
        await self.refusal(
            connecting, ConnectTimedOut, "within 5 s: the TLS handshake is not finished"
        )
        await self.ended(server)

    async def test_silent_server(self) -> None:
        """So is one that shakes hands, and never answers SASL."""
        server = FakeServer()
        connecting = await self.started(server, tls=True)
        self.clock.advance(SECONDS)
        await self.refusal(connecting, ConnectTimedOut, "within 5 s: no answer")
        await self.ended(server)

    async def test_cancel(self) -> None:
        """Cancelling ends an attempt in the middle of TLS or SASL, and the connection with it."""
        for tls in (False, True):
            server = FakeServer()
            connecting = await self.started(server, tls)
            connecting.cancel()
            await self.assertFailure(connecting, CancelledError)
            await self.ended(server)

    async def test_cancel_at_once(self) -> None:
        """An attempt can be cancelled as soon as it began."""
        server = FakeServer()
        for name in ("localhost", "127.0.0.1"):
            endpoint = self.endpoint(self.listen(server), name=name)
            connecting = endpoint.connect(self.factory)
            connecting.cancel()
            await self.assertFailure(connecting, CancelledError)
        self.assertEqual(self.factory.peers, [])


class ConnectionTests(LoopbackTestCase):
    async def test_handed_over(self) -> None:
        """Over TLS too all that comes is the application's once it is ready, and so is the end."""
        for version in VERSIONS:
            server = Memcached(users())
            port = self.listen(server, localhost().server_options(maximum_version=version))
            application = await self.connected(self.endpoint(port, credentials=credentials()))
            self.assertEqual(application.made, 1)
            assert application.transport is not None
            noop = Request(Opcode.NOOP, opaque=7)
            heard = server.heard(len(server.received) + 24)
            application.transport.write(noop.encode())
            await heard
            self.assertEqual(server.connection.requests[-1], noop)
            server.connection.close()
            await application.gone
            answer = Response(Opcode.NOOP, opaque=7)
            self.assertEqual(application.received, answer.encode())
            assert application.lost is not None
            self.assertTrue(application.lost.check(ConnectionDone))

    async def test_socket_options(self) -> None:
        """Small writes are not delayed, and dead peers are noticed: on the real socket."""
        for tls in (trusting(), InsecurePlaintext()):
            options = localhost().server_options() if isinstance(tls, TLS) else None
            application = await self.connected(
                self.endpoint(self.listen(Memcached(), options), tls)
            )
            sock = application.transport.socket  # type: ignore[union-attr]  # it is connected
            self.assertTrue(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            self.assertTrue(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    async def test_name_sent(self) -> None:
        """The server is told its own name, whatever address is dialled, and never an address."""
        issued = authority().issue("mc1.example", "127.0.0.1")
        for name, sent in (
            ("mc1.example:11211", b"mc1.example"),
            ("127.0.0.1:11211", None),
        ):
            server = Memcached()
            port = self.listen(server, issued.server_options())
            application = await self.connected(self.endpoint(port, name=name))
            self.assertEqual(server.connection.server_name, sent)
            assert application.transport is not None
            self.assertEqual(application.transport.getPeer(), IPv4Address("TCP", "127.0.0.1", port))

    async def test_ipv6(self) -> None:
        """A server can have an IPv6 address, which its certificate must have."""
        server = Memcached()
        try:
            port = self.listen(server, authority().issue("::1").server_options(), "::1")
        except CannotListenError:
            raise SkipTest("this machine has no IPv6") from None
        endpoint = ReadyEndpoint(IReactorTime(reactor), Server(f"[::1]:{port}"), tls=trusting())
        await self.connected(endpoint)
        self.assertIsNone(server.connection.server_name)

    async def test_all_addresses(self) -> None:
        """A name is resolved at every dial, and when an address refuses the next one is tried."""
        names = Names({"mc1.example": ["127.0.0.2", "127.0.0.1"]})
        resolvers = IReactorPluggableNameResolver(reactor)
        self.addCleanup(resolvers.installNameResolver, resolvers.installNameResolver(names))
        server = Memcached()
        port = self.listen(server, authority().issue("mc1.example").server_options())
        endpoint = ReadyEndpoint(
            IReactorTime(reactor), Server(f"mc1.example:{port}"), tls=trusting()
        )
        for dials in (1, 2):
            await self.connected(endpoint)
            self.assertEqual(names.asked, ["mc1.example"] * dials)
        self.assertEqual(self.factory.peers, [IPv4Address("TCP", "127.0.0.1", port)] * 2)

    def test_closed_port(self) -> None:
        """That nobody listens on a port is told at once."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            endpoint = self.endpoint(nobody.getsockname()[1])
            refused = self.refusal(endpoint.connect(self.factory), ConnectRefused, "nobody listens")
        return Deferred.fromCoroutine(refused)  # type: ignore[return-value]  # nobody reads it


class UnixTests(LoopbackTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="txtlsmc-"))  # trial's own may be too long
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "memcached.sock"

    def listen_unix(self, server: FakeServer, options: CertificateOptions | None) -> None:
        self.path = self.path.with_suffix(f"{self.path.suffix}x")  # a new one each time
        unix = IReactorUNIX(reactor)
        self.listening(server, unix.listenUNIX(str(self.path), _over(options, server), mode=0o600))

    def unix_endpoint(self, tls: TLS | InsecurePlaintext) -> ReadyEndpoint:
        return ReadyEndpoint(IReactorTime(reactor), Server(f"unix:{self.path}"), tls=tls)

    async def test_unix(self) -> None:
        """A server can be reached by a Unix socket, over TLS as well."""
        options = localhost().server_options()
        verified = TLS(ca=authority().pem, server_name="localhost")
        for tls in (InsecurePlaintext(), verified):
            self.listen_unix(Memcached(), options if isinstance(tls, TLS) else None)
            await self.connected(self.unix_endpoint(tls))
        self.assertEqual(len(self.factory.peers), 2)

    async def test_wrong_host(self) -> None:
        """What is at the other end of the socket must have the right name."""
        server = Memcached()
        self.listen_unix(server, localhost().server_options())
        tls = TLS(ca=authority().pem, server_name="mc1.example")
        connecting = self.unix_endpoint(tls).connect(self.factory)
        await self.refusal(connecting, CertificateWrongHost, server=server)

    async def test_nobody(self) -> None:
        """A socket that is not there, or that nobody listens on, is told with its path."""
        connecting = self.unix_endpoint(InsecurePlaintext()).connect(self.factory)
        await self.refusal(connecting, ConnectRefused, f"no connection to unix:{self.path}")
        with socket.socket(socket.AF_UNIX) as nobody:
            nobody.bind(str(self.path))
        connecting = self.unix_endpoint(InsecurePlaintext()).connect(self.factory)
        await self.refusal(connecting, ConnectRefused, f"nobody listens on unix:{self.path}")


class ServiceTests(LoopbackTestCase):
    def service(self, endpoint: ReadyEndpoint) -> ClientService:
        """Return a service that tries again at once, and counts."""
        self.attempts: list[int] = []

        def at_once(attempt: int) -> float:
            self.attempts.append(attempt)
            return 0

        service = ClientService(endpoint, self.factory, at_once, reactor)
        self.addCleanup(lambda: next_turn().addCallback(lambda _: service.stopService()))
        return service

    async def assert_backs_off(self, endpoint: ReadyEndpoint, kind: type[MemcacheError]) -> None:
        service = self.service(endpoint)
        connected = service.whenConnected(failAfterFailures=5)
        service.startService()
        await self.refusal(connected, kind)
        await next_turn()
        await service.stopService()
        self.assertGreaterEqual(len(self.attempts), 4)
        self.assertEqual(self.attempts, list(range(1, len(self.attempts) + 1)))

    async def test_untrusted(self) -> None:
        """A service does not take the beginning of a handshake for success: it backs off."""
        server = Memcached(users())
        port = self.listen(server, stranger().issue("localhost").server_options())
        endpoint = self.endpoint(port, credentials=credentials())
        await self.assert_backs_off(endpoint, CertificateUntrusted)
        self.assertEqual(server.received, b"")

    async def test_wrong_password(self) -> None:
        """Nor does it take TLS for success, when the password is wrong."""
        server = Memcached(users())
        port = self.listen(server, localhost().server_options())
        endpoint = self.endpoint(port, credentials=wrong_credentials())
        await self.assert_backs_off(endpoint, CredentialsRefused)

    async def test_client_certificate(self) -> None:
        """Nor its own end of the handshake, when the server refuses at the other."""
        server = Memcached()
        port = self.listen(server, localhost().server_options(authority().pem))
        await self.assert_backs_off(self.endpoint(port), ClientCertificateRefused)

    async def test_lost(self) -> None:
        """A connection that is lost is made anew, with TLS and SASL."""
        server = Memcached(users())
        port = self.listen(server, localhost().server_options())
        service = self.service(self.endpoint(port, credentials=credentials()))
        service.startService()
        for times in (1, 2, 3):
            application = await service.whenConnected()
            assert isinstance(application, Application)
            self.assertEqual(len(server.connections), times)
            server.connections[-1].close()
            await application.gone
            await next_turn()
        await service.stopService()
        self.assertEqual(set(self.attempts), {1})

    async def test_stop(self) -> None:
        """It can be stopped in the middle of TLS or SASL, and leaves no connection."""
        for options in (None, localhost().server_options()):
            server = FakeServer()
            port = self.listen(server, options)
            service = self.service(self.endpoint(port, credentials=credentials()))
            waiter = service.whenConnected()
            service.startService()
            await server.heard()
            await service.stopService()
            await self.assertFailure(waiter, CancelledError)
            await server.all_gone()
        self.assertEqual(self.factory.peers, [])

    async def test_stop_connected(self) -> None:
        """It can be stopped when it is connected, which ends the connection."""
        server = Memcached(users())
        port = self.listen(server, localhost().server_options())
        service = self.service(self.endpoint(port, credentials=credentials()))
        service.startService()
        application = await service.whenConnected()
        assert isinstance(application, Application)
        await next_turn()
        await service.stopService()
        self.assertIsNotNone(application.lost)
        await server.all_gone()
        self.assertEqual(self.attempts, [])
