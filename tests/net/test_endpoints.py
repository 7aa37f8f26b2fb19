"""When is a connection ready, and why not?  In memory, by a clock; TLS has a module of its own."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoRouteError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.net.fakes import Wire
from tests.net.network import Application, Applications, Building, DeafDial, Network
from tests.net.servers import (
    Answer,
    Connection,
    FakeServer,
    Garbage,
    Memcached,
    Scripted,
    hang_up,
    nothing,
    status,
)
from tests.secrecy import USER, Witness, credentials, password, wrong_credentials
from txtlsmc.errors import (
    AuthenticationError,
    ConnectFailed,
    ConnectRefused,
    ConnectTimedOut,
    CredentialsRefused,
    CredentialsRequired,
    InsecurePassword,
    InvalidSetting,
    MechanismNotOffered,
    MemcacheError,
    NameNotFound,
    RemoteProtocolError,
    SASLUnavailable,
    ServerNotProven,
    TLSFailed,
)
from txtlsmc.net.endpoints import ReadyEndpoint, connect
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import (
    MECHANISMS,
    TLS,
    Credentials,
    InsecurePlaintext,
    Limits,
    Server,
)
from txtlsmc.testing.authority import Authority
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.opcodes import Opcode

PLAINTEXT = InsecurePlaintext()
PLAIN, CRAM, SCRAM = MECHANISMS
SECONDS = Limits().connect_timeout
FIRST_FLIGHT = [Opcode.SASL_LIST, Opcode.SASL_AUTH]


def users() -> dict[str, str]:
    return {USER: password()}


class MemoryTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.witness = Witness(self)
        self.reactor = Network({"mc1.example": ["10.0.0.1"]})
        self.factory = Applications()

    def endpoint(
        self,
        credentials: Credentials | None = None,
        *,
        server: str = "10.0.0.1:11211",
        dial: IStreamClientEndpoint | None = None,
    ) -> ReadyEndpoint:
        return ReadyEndpoint(
            self.reactor, Server(server), tls=PLAINTEXT, credentials=credentials, dial=dial
        )

    def connect(
        self, credentials: Credentials | None = None, *, server: str = "10.0.0.1:11211"
    ) -> Deferred[IProtocol]:
        return self.endpoint(credentials, server=server).connect(self.factory)

    def met(
        self, server: FakeServer, credentials: Credentials | None = None
    ) -> Deferred[IProtocol]:
        """Connect to *server*, and let both talk."""
        connecting = self.connect(credentials)
        self.reactor.accept(server)
        return connecting

    def application(self, connecting: Deferred[IProtocol]) -> Application:
        application = self.successResultOf(connecting)
        assert isinstance(application, Application)
        return application

    def assert_nothing_left(self, server: FakeServer | None = None) -> None:
        """Nothing waits for anything, and nothing was ever built."""
        self.assertEqual(self.reactor.waiting, [])
        self.assertEqual([c for c in self.reactor.connectors if not c.stoppedConnecting], [])
        self.assertEqual(self.factory.peers, [])
        for connection in server.connections if server else ():
            self.assertIsNotNone(connection.lost)

    def assert_fails(
        self, connecting: Deferred[IProtocol], kind: type[MemcacheError], *words: str
    ) -> MemcacheError:
        failure = self.failureResultOf(connecting)
        try:
            failure.raiseException()
        except Exception as error:
            self.witness.examine(error)
            self.assertIs(type(error), kind, error)
            for word in words:
                self.assertIn(word, str(error))
            assert isinstance(error, MemcacheError)
            return error
        raise AssertionError


class PasswordRuleTests(MemoryTestCase):
    unsafe = (
        (PLAINTEXT, "without TLS"),
        (TLS(insecure_no_verify=True), "verifies nobody"),
        (TLS(insecure_no_verify=True, pins=("0" * 64,)), "verifies nobody"),
    )

    def test_refused(self) -> None:
        """A password that could be stolen on the way is refused before anything is dialled."""
        server = Server("mc1.example")
        for tls, words in self.unsafe:
            for mechanism in MECHANISMS:
                for call in (ReadyEndpoint, connect):
                    with self.assertRaises(InsecurePassword) as caught:
                        call(self.reactor, server, tls=tls, credentials=credentials(mechanism))
                    self.witness.examine(caught.exception)
                    self.assertIn("mc1.example", str(caught.exception))
                    self.assertIn(words, str(caught.exception))
                    self.assertIn("insecure_password", str(caught.exception))
        self.assertEqual(self.reactor.names.asked, [])
        self.assertEqual(self.reactor.dialled, [])
        self.assert_nothing_left()

    def test_first_of_all(self) -> None:
        """The password is refused before files are read: no other error hides that one."""
        tls = TLS(ca="/nonexistent/ca.pem", insecure_no_verify=True)
        with self.assertRaises(InsecurePassword):
            ReadyEndpoint(self.reactor, Server("mc1"), tls=tls, credentials=credentials())

    def test_allowed(self) -> None:
        """Who writes insecure_password can send it anywhere."""
        for tls, _ in self.unsafe:
            for mechanism in MECHANISMS:
                allowed = credentials(mechanism, insecure=True)
                ReadyEndpoint(self.reactor, Server("mc1"), tls=tls, credentials=allowed)

    def test_nothing_to_steal(self) -> None:
        """Verified TLS is good for any password, and any way is good without one."""
        for mechanism in MECHANISMS:
            given = credentials(mechanism)
            for tls in (TLS(ca=Authority().pem), TLS(ca=Authority().pem, pins=("0" * 64,))):
                ReadyEndpoint(self.reactor, Server("mc1"), tls=tls, credentials=given)
        for tls_or_not, _ in self.unsafe:
            ReadyEndpoint(self.reactor, Server("mc1"), tls=tls_or_not)


class SettingsTests(MemoryTestCase):
    def test_told_at_once(self) -> None:
        """Settings that can not be used raise when the endpoint is made, not at every dial."""
        for tls in (TLS(ca="/nonexistent/ca.pem"), TLS(client_certificate=b"no PEM")):
            with self.assertRaises(InvalidSetting):
                ReadyEndpoint(self.reactor, Server("mc1"), tls=tls)
        with self.assertRaises(InvalidSetting) as caught:
            self.endpoint(Credentials(USER, password() + "\x07", SCRAM, insecure_password=True))
        self.witness.examine(caught.exception)
        self.assert_nothing_left()

    def test_repr(self) -> None:
        """The endpoint says whose it is: services write it to the log at every retry."""
        endpoint = self.endpoint(credentials(insecure=True), server="mc1.example:11211")
        self.assertEqual(repr(endpoint), "<ReadyEndpoint mc1.example:11211>")


class DialTests(MemoryTestCase):
    def test_name_not_found(self) -> None:
        """A name without an address is an error that has the name in it."""
        error = self.assert_fails(
            self.connect(server="mc2.example:11211"),
            NameNotFound,
            "mc2.example:11211: ",
            "'mc2.example'",
        )
        assert isinstance(error, ConnectFailed)
        self.assertEqual(error.server, "mc2.example:11211")
        self.assertEqual(self.reactor.names.asked, ["mc2.example"])
        self.assert_nothing_left()

    def test_impossible_name(self) -> None:
        """What can not be a name in the DNS was not found either."""
        for name in ("a..b", "x" * 64 + ".example"):
            self.assert_fails(self.connect(server=name), NameNotFound, name)
        self.assert_nothing_left()

    def test_failures(self) -> None:
        """What the operating system says becomes a class, and stays in the message."""
        for cause, kind, words in (
            (ConnectionRefusedError(111, "nope"), ConnectRefused, "nobody listens on 10.0.0.1:11"),
            (NoRouteError(101, "nope"), ConnectRefused, "there is no way to 10.0.0.1:11211"),
            (ConnectError(13, "nope"), ConnectRefused, "no connection to 10.0.0.1:11211"),
            (OSError(24, "nope"), ConnectRefused, "no connection to 10.0.0.1:11211"),
            (TCPTimedOutError(110, "nope"), ConnectTimedOut, "no connection to 10.0.0.1:11211"),
            (TimeoutError("nope"), ConnectTimedOut, "no connection to 10.0.0.1:11211"),
            (RuntimeError("no\x1bpe"), ConnectFailed, "RuntimeError for 10.0.0.1:11211: no\\x1bpe"),
        ):
            connecting = self.connect()
            self.reactor.refuse(cause)
            error = self.assert_fails(connecting, kind, words, "10.0.0.1:11211: ")
            self.assertRegex(str(error), r"no(\\x1b)?pe")
        self.assert_nothing_left()

    def test_refused_at_once(self) -> None:
        """That nobody listens on an address is known without any delay."""
        for server in ("10.0.0.1:11211", "[::1]:11211"):
            connecting = self.connect(server=server)
            self.reactor.refuse()
            self.assert_fails(connecting, ConnectRefused, f"nobody listens on {server}")
        self.assertEqual(self.reactor.names.asked, [])

    def test_at_once(self) -> None:
        """An endpoint that fails before it returns is no different."""

        @implementer(IStreamClientEndpoint)
        class Broken:
            def connect(
                self,
                protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
            ) -> Deferred[IProtocol]:
                return fail(ConnectionRefusedError())

        connecting = self.endpoint(dial=Broken()).connect(self.factory)
        self.assert_fails(connecting, ConnectRefused)
        self.assert_nothing_left()

    def test_all_addresses(self) -> None:
        """All addresses of a name are tried, and the last one may be the right one."""
        self.reactor.names.table["mc1.example"] = ["2001:db8::1", "10.0.0.1", "10.0.0.2"]
        connecting = self.connect(server="mc1.example:11219")
        self.assertEqual(self.reactor.dialled, [("2001:db8::1", 11219)])
        for address in ("10.0.0.1", "10.0.0.2"):
            self.reactor.refuse()
            self.assertNoResult(connecting)
            self.reactor.advance(1)
            self.assertEqual(self.reactor.dialled, [(address, 11219)])
        self.reactor.accept(Memcached())
        self.application(connecting)
        self.assertEqual(self.factory.peers, [IPv4Address("TCP", "10.0.0.2", 11219)])
        self.assertEqual(self.reactor.waiting, [])

    def test_no_address_answers(self) -> None:
        """When all addresses refuse, that is what is told."""
        self.reactor.names.table["mc1.example"] = ["10.0.0.1", "10.0.0.2"]
        connecting = self.connect(server="mc1.example:11219")
        for _ in range(2):
            self.reactor.refuse()
            self.reactor.advance(1)
        self.assert_fails(connecting, ConnectRefused, "nobody listens on mc1.example:11219")
        self.assert_nothing_left()

    def test_resolved_anew(self) -> None:
        """A name is resolved at every dial: a server may move."""
        endpoint = self.endpoint(server="mc1.example:11211")
        for address in ("10.0.0.1", "10.0.0.7"):
            self.reactor.names.table["mc1.example"] = [address]
            connecting = endpoint.connect(self.factory)
            self.assertEqual(self.reactor.dialled, [(address, 11211)])
            self.reactor.accept(Memcached())
            self.application(connecting)
        self.assertEqual(self.reactor.names.asked, ["mc1.example", "mc1.example"])

    def test_address(self) -> None:
        """The server's address is dialled, whatever its name is; errors have both."""
        server = Server("mc1.example:11211", address="10.9.9.9:11219")
        connecting = ReadyEndpoint(self.reactor, server, tls=PLAINTEXT).connect(self.factory)
        self.assertEqual(self.reactor.dialled, [("10.9.9.9", 11219)])
        self.reactor.refuse()
        self.assert_fails(connecting, ConnectRefused, "mc1.example:11211: ", "10.9.9.9:11219")

    def test_black_hole(self) -> None:
        """A host that never answers is given up on time."""
        for server in ("10.0.0.1", "mc1.example"):
            connecting = self.connect(server=server)
            self.reactor.pump([SECONDS / 100] * 99)
            self.assertNoResult(connecting)
            self.reactor.advance(SECONDS / 100 * 1.01)
            self.assert_fails(connecting, ConnectTimedOut, "not ready within 5 s: no connection")
            self.assert_nothing_left()

    def test_silent_resolver(self) -> None:
        """A resolver that never answers is given up on time, and its late answer is nothing."""
        self.reactor.names.hangs = True
        connecting = self.connect(server="mc1.example")
        self.reactor.advance(SECONDS)
        self.assert_fails(connecting, ConnectTimedOut, "no connection")
        self.reactor.names.hanging[0]()
        self.assertEqual(self.reactor.dialled, [])
        self.assert_nothing_left()

    def test_cancel(self) -> None:
        """Cancelling ends an attempt that resolves a name or dials."""
        self.reactor.names.hangs = True
        resolving = self.connect(server="mc1.example")
        dialling = self.connect()
        for connecting in (resolving, dialling):
            self.assertNoResult(connecting)
            connecting.cancel()
            self.failureResultOf(connecting, CancelledError)
        self.reactor.names.hanging[0]()
        self.assertEqual(self.reactor.dialled, [("10.0.0.1", 11211)])
        self.assert_nothing_left()


class LateTests(MemoryTestCase):
    def late_connection(self, tls: TLS | InsecurePlaintext, end: Callable[..., object]) -> Wire:
        dial = DeafDial()
        endpoint = ReadyEndpoint(
            self.reactor,
            Server("localhost"),
            tls=tls,
            credentials=credentials(insecure=True),
            dial=dial,
        )
        connecting = endpoint.connect(self.factory)
        end(connecting)
        self.failureResultOf(connecting)
        assert dial.factory is not None
        protocol = dial.factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 11211))
        assert protocol is not None
        wire = Wire()
        protocol.makeConnection(wire)
        return wire

    def test_late_connection(self) -> None:
        """A connection that comes after the end of its attempt is closed without a word."""
        for end in (Deferred.cancel, lambda _: self.reactor.advance(SECONDS)):
            wire = self.late_connection(PLAINTEXT, end)
            self.assertEqual(wire.value(), b"")
            self.assertEqual(wire.aborted, 1)
            wire = self.late_connection(TLS(ca=Authority().pem), end)
            self.assertNotIn(b"\x80", wire.value()[:1])
            self.assertEqual(wire.aborted, 1)
        self.assert_nothing_left()

    def test_lost_connection(self) -> None:
        """A connection that is gone is left alone: to abort it again would be an error."""
        for tls in (PLAINTEXT, TLS(ca=Authority().pem)):
            dial = DeafDial()
            endpoint = ReadyEndpoint(self.reactor, Server("localhost"), tls=tls, dial=dial)
            connecting = endpoint.connect(self.factory)
            assert dial.factory is not None
            protocol = dial.factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 11211))
            assert protocol is not None
            wire = Wire()
            protocol.makeConnection(wire)
            wire.gone = True
            protocol.connectionLost(Failure(ConnectionLost()))
            kind, words = (
                (ConnectFailed, "non-clean") if tls is PLAINTEXT else (TLSFailed, "handshake")
            )
            self.assert_fails(connecting, kind, "closed", words)
            self.assertEqual(wire.aborted, 0)
        self.assert_nothing_left()

    def test_not_verified(self) -> None:
        """Should TLS ever be complete without a verdict on the certificate, nothing is said."""
        dial = DeafDial()
        tls = TLS(ca=Authority().pem)
        endpoint = ReadyEndpoint(
            self.reactor, Server("localhost"), tls=tls, credentials=credentials(), dial=dial
        )
        connecting = endpoint.connect(self.factory)
        assert dial.factory is not None
        protocol = dial.factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 11211))
        assert isinstance(protocol, TLSMemoryBIOProtocol)
        wire = Wire()
        protocol.makeConnection(wire)
        self.assertEqual(wire.value()[:1], b"\x16")  # its hello, which is no secret
        greeter = protocol.wrappedProtocol
        assert IHandshakeListener.providedBy(greeter)
        greeter.handshakeCompleted()
        self.assert_fails(connecting, TLSFailed, "was not looked at")
        self.assertEqual(wire.aborted, 1)
        self.assert_nothing_left()


def broken() -> Protocol:
    raise ZeroDivisionError


class ReadyTests(MemoryTestCase):
    def test_noop(self) -> None:
        """Without credentials a connection is ready when the server has answered a NOOP."""
        connecting = self.connect()
        server = Scripted({Opcode.NOOP: nothing})
        pump = self.reactor.accept(server)
        self.assertEqual(server.requests, [Opcode.NOOP])
        self.assertNoResult(connecting)
        self.assertEqual(self.factory.peers, [])
        server.connection.answer(server.connection.requests[0])
        self.assertNoResult(connecting)
        pump.flush()
        self.assertEqual(self.application(connecting).made, 1)
        self.assertEqual(self.factory.peers, [IPv4Address("TCP", "10.0.0.1", 11211)])
        self.assertEqual(self.reactor.waiting, [])

    def test_auth(self) -> None:
        """With credentials it is ready when the server has accepted them, and not before."""
        for mechanism in MECHANISMS:
            connecting = self.connect(credentials(mechanism, insecure=True))
            server = Memcached(users(), MECHANISMS)
            pump = self.reactor.accept(server, flush=False)
            carried = []
            while not server.connections[0].authenticated:
                self.assertNoResult(connecting)
                carried.append(pump.pump())
            self.assertNoResult(connecting)
            pump.flush()
            self.assertEqual(self.application(connecting).made, 1)
            self.assertEqual(self.reactor.waiting, [])
        self.assertEqual(len(self.factory.peers), len(MECHANISMS))

    def test_first_flight(self) -> None:
        """Nothing but SASL is sent before its answer: a server without it would run the rest."""
        server = FakeServer()
        connecting = self.met(server, credentials(insecure=True))
        self.reactor.advance(SECONDS * 0.9)
        self.assertEqual(server.requests, FIRST_FLIGHT)
        self.assertNoResult(connecting)
        connecting.cancel()
        self.failureResultOf(connecting)

    def test_any_cut(self) -> None:
        """Where the network cuts the answers does not matter."""
        for mechanism in (None, *MECHANISMS):
            given = None if mechanism is None else credentials(mechanism, insecure=True)
            connecting = self.connect(given)
            server = Memcached(users() if given else None, MECHANISMS)
            pump = self.reactor.accept(server, flush=False)
            while said := pump.clientIO.getOutBuffer():
                pump.serverIO.bufferReceived(said)
                answers = pump.serverIO.getOutBuffer()
                for start in range(len(answers)):
                    self.assertNoResult(connecting)
                    pump.clientIO.bufferReceived(answers[start : start + 1])
            self.assertEqual(self.application(connecting).received, b"")

    def test_handed_over(self) -> None:
        """From then on all that comes and goes is the application's, and so is the end."""
        server = Memcached(users())
        connecting = self.connect(credentials(insecure=True))
        pump = self.reactor.accept(server)
        application = self.application(connecting)
        assert application.transport is not None
        for opaque in (7, 8):
            noop = Request(Opcode.NOOP, opaque=opaque)
            application.transport.write(noop.encode())
            pump.flush()
            self.assertEqual(server.connection.requests[-1], noop)
            self.assertEqual(len(application.received), 24 * (opaque - 6))
        server.connection.say(b"not even memcache")
        pump.flush()
        self.assertEqual(application.received[48:], b"not even memcache")
        self.assertIsNone(application.lost)
        server.connection.close()
        pump.flush()
        assert application.lost is not None
        self.assertTrue(application.lost.check(ConnectionDone))
        self.assertEqual(self.reactor.waiting, [])

    def test_many_times(self) -> None:
        """One endpoint connects as often as it is asked to, each time from the start."""
        endpoint = self.endpoint(credentials(SCRAM, insecure=True))
        server = Memcached(users(), MECHANISMS)
        connecting = [endpoint.connect(self.factory) for _ in range(3)]
        pumps = [self.reactor.accept(server, flush=False) for _ in connecting]
        while sum(pump.pump() for pump in pumps):  # each, one step
            pass
        self.assertEqual(len({self.application(each) for each in connecting}), 3)
        nonces = {connection.requests[1].value for connection in server.connections}
        self.assertEqual(len(nonces), 3)

    def test_no_protocol(self) -> None:
        """A factory that builds no protocol makes the connection fail, and it is closed."""
        server = Memcached()
        connecting = self.endpoint().connect(Building(lambda: None))
        self.reactor.accept(server)
        self.assert_fails(connecting, ConnectFailed, "the factory built no protocol")
        self.assert_nothing_left(server)

    def test_broken_factory(self) -> None:
        """What a factory raises is what the attempt fails with; the connection is closed."""
        server = Memcached()
        connecting = self.endpoint().connect(Building(broken))
        self.reactor.accept(server)
        self.failureResultOf(connecting, ZeroDivisionError)
        self.assert_nothing_left(server)

    def test_broken_protocol(self) -> None:
        """So is what a protocol raises when it gets its connection; nobody waits for ever."""

        class Broken(Protocol):
            def connectionMade(self) -> None:
                raise ZeroDivisionError

        server = Memcached()
        connecting = self.endpoint().connect(Building(Broken))
        self.reactor.accept(server)
        self.failureResultOf(connecting, ZeroDivisionError)
        self.assert_nothing_left(server)

    def test_cancelled_by_the_factory(self) -> None:
        """Who cancels while the protocol is built or connected gets no connection."""

        class Reluctant(Application):
            def connectionMade(self) -> None:
                super().connectionMade()
                connecting.cancel()

        built: list[Application] = []

        def when_built() -> Protocol:
            connecting.cancel()
            built.append(Application())
            return built[-1]

        def when_connected() -> Protocol:
            built.append(Reluctant())
            return built[-1]

        for build in (when_built, when_connected):
            server = Memcached()
            connecting = self.endpoint().connect(Building(build))
            self.reactor.accept(server)
            self.failureResultOf(connecting, CancelledError)
            self.assert_nothing_left(server)
        self.assertEqual([application.made for application in built], [0, 1])
        self.assertIsNone(built[0].lost)
        self.assertIsNotNone(built[1].lost)

    def test_connect(self) -> None:
        """`connect` gives a protocol that can be used at once, with the limits that were given."""
        limits = Limits(timeout=7)
        connecting = connect(self.reactor, "10.0.0.1=10.0.0.9:11219", tls=PLAINTEXT, limits=limits)
        self.assertEqual(self.reactor.dialled, [("10.0.0.9", 11219)])
        server = Memcached()
        pump = self.reactor.accept(server)
        protocol = self.successResultOf(connecting)
        self.assertIs(type(protocol), MemcacheProtocol)
        self.assertIs(protocol.limits, limits)
        done = protocol.noop()
        pump.flush()
        self.assertIs(self.successResultOf(done), True)
        closed = protocol.close()
        pump.flush()
        self.successResultOf(closed)
        self.assertEqual(self.reactor.waiting, [])

    def test_connect_to_nowhere(self) -> None:
        """What can be no server, or no setting, raises at once, and nothing is dialled."""
        for server in ("mc1:0", "mc1:port", "", "alice@mc1"):
            with self.assertRaises(InvalidSetting):
                connect(self.reactor, server)
        with self.assertRaises(InvalidSetting):
            connect(self.reactor, "mc1", tls=TLS(ca="/nonexistent/ca.pem"))
        self.assert_nothing_left()


def at_once(connection: Connection, request: Request) -> None:
    """Say that all is well, without any proof."""
    connection.answer(request)


def forged(connection: Connection, request: Request) -> None:
    """Claim to know the password."""
    connection.answer(request, 0x21, b"v=" + b"A" * 43 + b"=")


def behind(more: bytes) -> Answer:
    """Answer, and say *more* in the same breath."""

    def answer(connection: Connection, request: Request) -> None:
        connection.say(Response(request.opcode, opaque=request.opaque).encode() + more)

    return answer


class RefusalTests(MemoryTestCase):
    def assert_refused(
        self,
        server: FakeServer,
        given: Credentials | None,
        kind: type[MemcacheError],
        *words: str,
    ) -> MemcacheError:
        """The server's answer makes the attempt fail; the connection ends, and nothing is left."""
        connecting = self.met(server, given)
        error = self.assert_fails(connecting, kind, *words)
        if isinstance(error, ConnectFailed):
            self.assertEqual(error.server, "10.0.0.1:11211")
        self.assert_nothing_left(server)
        self.assertEqual(len(server.connections), 1)
        return error

    def test_wrong_password(self) -> None:
        """A wrong password is refused, by every mechanism; the error says by which."""
        for mechanism in MECHANISMS:
            server = Memcached(users(), MECHANISMS)
            wrong = wrong_credentials(mechanism, insecure=True)
            self.assert_refused(server, wrong, CredentialsRefused, "the password", mechanism)
            self.assertFalse(server.connection.authenticated)

    def test_unknown_user(self) -> None:
        """So is a user that the server does not know."""
        for mechanism in MECHANISMS:
            server = Memcached({"bob": password()}, MECHANISMS)
            given = credentials(mechanism, insecure=True)
            self.assert_refused(server, given, CredentialsRefused, "the user name", mechanism)

    def test_no_sasl(self) -> None:
        """A server without SASL is an error when credentials are set, and nothing runs on it."""
        for mechanism in MECHANISMS:
            server = Memcached()
            given = credentials(mechanism, insecure=True)
            self.assert_refused(server, given, SASLUnavailable, "has no SASL", "memcached -S")
            self.assertEqual(server.requests, FIRST_FLIGHT)

    def test_other_mechanism(self) -> None:
        """A mechanism that is not offered is told apart from a wrong password."""
        server = Memcached(users(), (PLAIN, CRAM))
        given = credentials(SCRAM, insecure=True)
        error = self.assert_refused(
            server, given, MechanismNotOffered, "SCRAM-SHA-256", "PLAIN, CRAM-MD5"
        )
        assert isinstance(error, MechanismNotOffered)
        self.assertEqual(error.mechanism, SCRAM)
        self.assertEqual(error.offered, (PLAIN, CRAM))

    def test_credentials_required(self) -> None:
        """A server that wants credentials is an error when none are set."""
        server = Memcached(users())
        self.assert_refused(server, None, CredentialsRequired, "user name and a password")

    def test_server_not_proven(self) -> None:
        """A server that accepts us, and can not prove that it knows the password, is refused."""
        for answers in ({Opcode.SASL_AUTH: at_once}, {Opcode.SASL_STEP: forged}):
            server = Scripted(answers, users(), MECHANISMS)
            self.assert_refused(server, credentials(SCRAM, insecure=True), ServerNotProven)

    def test_other_status(self) -> None:
        """Any other answer to AUTH is an error as well; the server's words may be our password."""
        server = Scripted({Opcode.SASL_AUTH: status(0x85, password().encode())}, users())
        given = credentials(insecure=True)
        self.assert_refused(server, given, AuthenticationError, "status 0x85", "busy")

    def test_no_memcached(self) -> None:
        """Whoever answers with something else is no memcached."""
        for given in (None, credentials(insecure=True)):
            for first in (False, True):
                for words in (
                    b"HTTP/1.1 400 Bad Request\r\n\r\n",
                    b"220 mx.example ESMTP",
                    b"ERROR\r\n",
                    b"-ERR unknown command\r\n",
                    b"\x15\x03\x01\x00\x02\x02\x46",
                    b"\x80" + bytes(23),
                    b"\x81" + bytes(7) + b"\xff" * 4 + bytes(12),
                    bytes(24),
                ):
                    server = Garbage(words, first=first)
                    self.assert_refused(server, given, RemoteProtocolError, "broke the protocol")

    def test_wrong_answers(self) -> None:
        """Answers that are none to what was asked are refused."""
        for given, answers in (
            (None, {Opcode.NOOP: status(0x85)}),
            (None, {Opcode.NOOP: status(0x21)}),
            (credentials(insecure=True), {Opcode.SASL_LIST: status(0x21)}),
            (credentials(insecure=True), {Opcode.SASL_AUTH: status(0x21)}),
            (credentials(CRAM, insecure=True), {Opcode.SASL_AUTH: at_once}),
            (credentials(SCRAM, insecure=True), {Opcode.SASL_AUTH: status(0x21, b"r=")}),
        ):
            server = Scripted(answers, users() if given else None, MECHANISMS)
            self.assert_refused(server, given, RemoteProtocolError)

    def test_more_behind(self) -> None:
        """Nobody may say more than was asked for: it would be lost between two readers."""
        whole = Response(Opcode.NOOP).encode()
        for more in (whole, whole[:1], b"\0"):
            server = Scripted({Opcode.NOOP: behind(more)})
            self.assert_refused(server, None, RemoteProtocolError)
            server = Scripted({Opcode.SASL_AUTH: behind(more)}, users())
            self.assert_refused(server, credentials(insecure=True), RemoteProtocolError)

    def test_hang_up(self) -> None:
        """A server that hangs up before the connection is ready makes it fail, at any stage."""
        stages: tuple[tuple[Credentials | None, FakeServer], ...] = (
            (None, Garbage(b"", first=True, close=True)),
            (None, Scripted({Opcode.NOOP: hang_up})),
            (credentials(insecure=True), Scripted({Opcode.SASL_LIST: hang_up}, users())),
            (credentials(insecure=True), Scripted({Opcode.SASL_AUTH: hang_up}, users())),
            (
                credentials(SCRAM, insecure=True),
                Scripted({Opcode.SASL_STEP: hang_up}, users(), [SCRAM]),
            ),
            (None, Garbage(Response(Opcode.NOOP).encode()[:23], close=True)),
        )
        for given, server in stages:
            error = self.assert_refused(
                server, given, ConnectFailed, "closed the connection before it was ready"
            )
            self.assertIn("cleanly", str(error))

    def test_silence(self) -> None:
        """A server that accepts and says too little is given up on time, at any stage."""
        stages: tuple[tuple[Credentials | None, FakeServer], ...] = (
            (None, FakeServer()),
            (None, Garbage(Response(Opcode.NOOP).encode()[:23])),
            (credentials(insecure=True), FakeServer()),
            (credentials(insecure=True), Scripted({Opcode.SASL_AUTH: nothing}, users())),
            (
                credentials(SCRAM, insecure=True),
                Scripted({Opcode.SASL_STEP: nothing}, users(), [SCRAM]),
            ),
        )
        for given, server in stages:
            connecting = self.met(server, given)
            self.reactor.advance(SECONDS * 0.99)
            self.assertNoResult(connecting)
            self.reactor.advance(SECONDS * 0.02)
            self.assert_fails(connecting, ConnectTimedOut, "not ready within 5 s: no answer")

    def test_one_deadline(self) -> None:
        """The deadline is for all stages together: who answers slowly gains nothing."""
        server = Scripted({Opcode.NOOP: nothing})
        connecting = self.connect()
        self.reactor.advance(SECONDS * 0.9)
        self.reactor.accept(server)
        self.reactor.advance(SECONDS * 0.2)
        self.assert_fails(connecting, ConnectTimedOut)
        self.assert_nothing_left()

    def test_cancel(self) -> None:
        """Cancelling ends the attempt, and the connection, while an answer is awaited."""
        for given in (None, credentials(insecure=True)):
            server = FakeServer()
            connecting = self.connect(given)
            pump = self.reactor.accept(server)
            connecting.cancel()
            self.failureResultOf(connecting, CancelledError)
            pump.flush()
            self.assert_nothing_left(server)

    def test_too_late(self) -> None:
        """An answer that was on its way when the attempt ended is not listened to."""
        ends: tuple[Callable[[Deferred[IProtocol]], object], ...] = (
            Deferred.cancel,
            lambda _: self.reactor.advance(SECONDS),
        )
        for end in ends:
            server = Scripted({Opcode.NOOP: nothing})
            connecting = self.connect()
            pump = self.reactor.accept(server)
            server.connection.answer(server.connection.requests[0])
            end(connecting)
            pump.flush()
            self.failureResultOf(connecting)
            self.assert_nothing_left(server)


class ServiceTests(MemoryTestCase):
    def service(
        self,
        credentials: Credentials | None = None,
        *,
        server: str = "10.0.0.1:11211",
        factory: IProtocolFactory | None = None,
    ) -> ClientService:
        """Return a service that waits 2, 4, 8 … seconds, and writes down for what."""
        self.attempts: list[int] = []
        policy = backoffPolicy(factor=2, jitter=lambda: 0)

        def recorded(attempt: int) -> float:
            self.attempts.append(attempt)
            return policy(attempt)

        endpoint = self.endpoint(credentials, server=server)
        return ClientService(endpoint, factory or self.factory, recorded, self.reactor)

    def test_wrong_password(self) -> None:
        """A service with a wrong password backs off: it does not take TCP for success."""
        service = self.service(wrong_credentials(insecure=True))
        server = Memcached(users())
        connected = service.whenConnected(failAfterFailures=5)
        service.startService()
        for attempt in range(1, 6):
            self.reactor.accept(server)
            self.assertEqual(self.attempts, list(range(1, attempt + 1)))
            self.reactor.advance(2**attempt - 0.01)
            self.assertEqual(self.reactor.dialled, [])
            self.reactor.advance(0.02)
            self.assertEqual(len(self.reactor.dialled), 1)
        self.assert_fails(connected, CredentialsRefused)
        self.successResultOf(service.stopService())
        self.assert_nothing_left(server)

    def test_all_kinds(self) -> None:
        """Whatever the failure, each in a row makes it wait longer, until it succeeds."""
        service = self.service(server="mc1.example")
        self.reactor.names.table.clear()
        service.startService()  # the name is not found
        self.reactor.names.table["mc1.example"] = ["10.0.0.1"]
        self.reactor.advance(2)
        self.reactor.refuse()
        self.reactor.advance(1)  # until the endpoint knows that there is no other address
        self.reactor.advance(4)
        self.reactor.accept(Garbage(b"HTTP/1.1 200 OK"))
        self.reactor.advance(8)
        self.reactor.accept(FakeServer())
        self.reactor.advance(SECONDS)
        self.assertEqual(self.attempts, [1, 2, 3, 4])
        self.reactor.advance(16)
        pump = self.reactor.accept(Memcached())
        connected = self.successResultOf(service.whenConnected())
        self.assertIsInstance(connected, Application)
        self.assertEqual(self.attempts, [1, 2, 3, 4])
        self.assertEqual(self.reactor.waiting, [])
        stopped = service.stopService()
        pump.flush()
        self.successResultOf(stopped)

    def test_impossible_name(self) -> None:
        """A failure that needs no waiting for is one like all others."""
        service = self.service(server="a..b")
        service.startService()
        self.reactor.advance(2)
        self.reactor.advance(4)
        self.assertEqual(self.attempts, [1, 2, 3])
        self.successResultOf(service.stopService())
        self.assert_nothing_left()

    def test_broken_factory(self) -> None:
        """A factory that builds nothing, or raises, is a failure like all others."""
        for build in (lambda: None, broken):
            service = self.service(factory=Building(build))
            service.startService()
            server = Memcached()
            for attempt in (1, 2):
                self.reactor.accept(server)
                self.assertEqual(self.attempts, list(range(1, attempt + 1)))
                self.reactor.advance(2**attempt)
            self.successResultOf(service.stopService())
            self.assert_nothing_left(server)
            self.reactor.forget()

    def test_lost(self) -> None:
        """A connection that is lost is made anew, and the waiting begins at the start."""
        service = self.service(credentials(insecure=True))
        service.startService()
        server = Memcached(users())
        for _ in range(2):
            self.reactor.refuse()
            self.reactor.advance(2 ** self.attempts[-1])
        for waited in ([1, 2], [1, 2, 1], [1, 2, 1, 1]):
            self.assertEqual(self.attempts, waited)
            pump = self.reactor.accept(server)
            self.successResultOf(service.whenConnected())
            server.connections[-1].close()
            pump.flush()
            self.reactor.advance(2)
        self.assertEqual(self.factory.peers, [IPv4Address("TCP", "10.0.0.1", 11211)] * 3)
        self.successResultOf(service.stopService())
        self.assertEqual(self.reactor.waiting, [])

    def test_stop(self) -> None:
        """The service can be stopped in any state, and leaves nothing behind."""
        silent = FakeServer()

        def hang() -> None:
            self.reactor.names.hangs = True

        for server, before, after in (
            ("mc1.example", hang, None),  # it resolves
            ("10.0.0.1", None, None),  # it dials
            ("10.0.0.1", None, lambda: self.reactor.accept(silent)),  # it waits for an answer
            ("10.0.0.1", None, self.reactor.refuse),  # it waits for the next attempt
        ):
            service = self.service(credentials(insecure=True), server=server)
            waiter = service.whenConnected()
            for arrange in (before, service.startService, after):
                if arrange is not None:
                    arrange()
            self.assertNoResult(waiter)
            self.assertNotEqual((self.reactor.waiting, self.reactor.dialled), ([], []))
            self.successResultOf(service.stopService())
            self.failureResultOf(waiter, CancelledError)
            self.assert_nothing_left()
            self.reactor.forget()
        self.assertEqual(len(silent.connections), 1)

    def test_stop_connected(self) -> None:
        """A service that is stopped while it is connected closes the connection."""
        service = self.service(credentials(insecure=True))
        service.startService()
        server = Memcached(users())
        pump = self.reactor.accept(server)
        application = self.successResultOf(service.whenConnected())
        assert isinstance(application, Application)
        stopped = service.stopService()
        self.assertNoResult(stopped)
        pump.flush()
        self.successResultOf(stopped)
        assert application.lost is not None
        self.assertIsNotNone(server.connection.lost)
        self.assertEqual(self.attempts, [])
        self.assertEqual(self.reactor.waiting, [])
