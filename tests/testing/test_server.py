"""The embedded server as its users meet it: over sockets, in memory, with TLS, and going wrong."""

from __future__ import annotations

import os
import struct
from functools import cache

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import CannotListenError, ConnectionRefusedError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate as TwistedCertificate
from twisted.internet.ssl import (
    CertificateOptions,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from tests.testing.asking import Asking, MemoryServerTestCase
from txtlsmc import (
    TLS,
    ClientCertificateRefused,
    ConnectFailed,
    ConnectRefused,
    Credentials,
    CredentialsRefused,
    InsecurePlaintext,
    InvalidSetting,
    Server,
    connect,
)
from txtlsmc.net.endpoints import ReadyEndpoint
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.testing import Authority, MemoryServer
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode, Status

STORE = bytes(8)
ALICE = Credentials("alice", "secret")
PLAIN = InsecurePlaintext()
MIB = 2**20
#: What may be on its way or waiting in both directions while nobody reads.
ON_THE_WAY = 4 * 65536


@cache
def authority() -> Authority:
    return Authority()


class ServingTestCase(TestCase):
    """With servers on the reactor, all stopped when the test is over."""

    def setUp(self) -> None:
        self.reactor = IReactorTime(reactor)

    async def serve(self, endpoint: str | None = None, **arguments: object) -> MemoryServer:
        server = MemoryServer(self.reactor, **arguments)  # type: ignore[arg-type]  # handed on
        self.addCleanup(server.stop)
        await (server.listen() if endpoint is None else server.listen(endpoint))
        return server

    async def connect(
        self,
        server: MemoryServer,
        tls: TLS | InsecurePlaintext = PLAIN,
        credentials: Credentials | None = None,
    ) -> MemcacheProtocol:
        client = await connect(self.reactor, server.server, tls=tls, credentials=credentials)
        self.addCleanup(client.close)
        return client


class ListenTests(ServingTestCase):
    async def test_socket(self) -> None:
        """A server that listens can be used by a client, on a loopback port of its own."""
        server = await self.serve()
        self.assertEqual(server.server.address.host, "127.0.0.1")
        client = await self.connect(server)
        await client.set("key", b"value")
        item = await client.get("key")
        self.assertEqual(item and item.value, b"value")
        self.assertEqual((server.connections, server.stats["get_hits"]), (1, 1))

    async def test_unix(self) -> None:
        """A Unix socket is dialled by its path."""
        path = os.path.abspath(self.mktemp())
        server = await self.serve(f"unix:{path}:mode=600")
        self.assertEqual(str(server.server), f"unix:{path}")
        self.assertTrue(await (await self.connect(server)).noop())

    async def test_anywhere(self) -> None:
        """A server on all interfaces is dialled on loopback."""
        server = await self.serve("tcp:0")
        self.assertEqual(server.server.address.host, "127.0.0.1")

    async def test_name(self) -> None:
        """A server may have a name, under which its address is dialled."""
        server = await self.serve(name="mc1.example:11211")
        self.assertEqual(server.server.name, "mc1.example:11211")
        self.assertEqual(server.server.identity.host, "mc1.example")
        self.assertTrue(await (await self.connect(server)).noop())

    async def test_several(self) -> None:
        """It may listen on several addresses; the first is the one to dial."""
        server = await self.serve()
        first = server.server
        await server.listen(TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1"))
        self.assertEqual(server.server, first)

    async def test_taken(self) -> None:
        """An address that is taken can not be had."""
        port = (await self.serve()).server.address.port
        other = MemoryServer(self.reactor)
        listening = other.listen(f"tcp:{port}:interface=127.0.0.1")
        await self.assertFailure(listening, CannotListenError)
        await other.stop()

    async def test_again(self) -> None:
        """A stopped server is refused; when it listens again, what was stored is still there."""
        server = await self.serve()
        client = await self.connect(server)
        await client.set("key", b"value")
        await server.stop()
        await self.assertFailure(connect(self.reactor, server.server, tls=PLAIN), ConnectRefused)
        await server.listen(f"tcp:{server.server.address.port}:interface=127.0.0.1")
        item = await (await self.connect(server)).get("key")
        self.assertEqual(item and item.value, b"value")

    async def test_wrapped(self) -> None:
        """Its factory may be wrapped, and listened with by hand; its connections are still its."""
        server = MemoryServer(self.reactor)
        wrapped = WrappingFactory(server.factory)
        port = await TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1").listen(wrapped)
        self.addCleanup(port.stopListening)
        client = await connect(self.reactor, f"127.0.0.1:{port.getHost().port}", tls=PLAIN)
        self.assertEqual((server.connections, len(wrapped.protocols)), (1, 1))
        await server.stop()
        self.assertEqual((server.connections, len(wrapped.protocols)), (0, 0))
        await client.close()
        again = connect(self.reactor, f"127.0.0.1:{port.getHost().port}", tls=PLAIN)
        await self.assertFailure(again, ConnectFailed)

    async def test_half_close(self) -> None:
        """A client that closes its side after its requests gets all the answers."""
        server = await self.serve()
        address = server.server.address
        dial = TCP4ClientEndpoint(self.reactor, address.host, address.port)
        client = await dial.connect(Factory.forProtocol(Asking))
        assert isinstance(client, Asking)
        client.send(*(Request(Opcode.NOOP, opaque=n) for n in range(100)))
        client.transport.loseWriteConnection()
        while client.lost is None:
            await deferLater(self.reactor, 0.001)
        self.assertEqual([r.opaque for r in client.take()], list(range(100)))


class TLSTests(ServingTestCase):
    async def test_tls(self) -> None:
        """With a certificate and users it is a server with verified TLS and SASL."""
        server = await self.serve(users={"alice": "secret"}, certificate=authority().issue())
        tls = TLS(ca=authority().pem)
        for mechanism in ("PLAIN", "SCRAM-SHA-256"):
            client = await self.connect(server, tls, Credentials("alice", "secret", mechanism))
            large = os.urandom(MIB - 100)
            await client.set("key", large)
            item = await client.get("key")
            self.assertEqual(item and item.value, large)
        wrong = connect(
            self.reactor, server.server, tls=tls, credentials=Credentials("alice", "wrong")
        )
        await self.assertFailure(wrong, CredentialsRefused)

    async def test_client_certificate(self) -> None:
        """With a client_ca only who has a certificate of it is let in."""
        server = await self.serve(certificate=authority().issue(), client_ca=authority().pem)
        mine = authority().client()
        client = await self.connect(server, TLS(ca=authority().pem, client_certificate=mine.pem))
        self.assertTrue(await client.noop())
        without = connect(self.reactor, server.server, tls=TLS(ca=authority().pem))
        await self.assertFailure(without, ClientCertificateRefused)

    async def test_twisted_options(self) -> None:
        """The certificate may be whatever Twisted's own TLS servers take."""
        issued = authority().issue()
        options = PrivateCertificate.loadPEM(issued.certificate_pem + issued.key_pem).options()
        assert isinstance(options, CertificateOptions)
        server = await self.serve(certificate=options)
        client = await self.connect(server, TLS(ca=authority().pem))
        self.assertTrue(await client.noop())

    async def test_in_memory(self) -> None:
        """In memory TLS and SASL are the same as over a socket."""
        server = MemoryServer(
            self.reactor, users={"alice": "secret"}, certificate=authority().issue()
        )
        endpoint = ReadyEndpoint(
            self.reactor,
            server.server,
            tls=TLS(ca=authority().pem),
            credentials=ALICE,
            dial=server.endpoint(),
        )
        client = await endpoint.connect(Factory.forProtocol(lambda: MemcacheProtocol(self.reactor)))
        assert isinstance(client, MemcacheProtocol)
        await client.set("key", b"value")
        self.assertEqual(server.connections, 1)
        await server.stop()
        self.assertEqual(server.connections, 0)

    async def test_stopped_in_handshake(self) -> None:
        """A server stops at once, also while clients are at the TLS handshake or before it."""
        server = await self.serve(certificate=authority().issue())
        address = server.server.address
        dial = TCP4ClientEndpoint(self.reactor, address.host, address.port)
        client = await dial.connect(Factory.forProtocol(Asking))
        assert isinstance(client, Asking)
        while not server.connections:
            await deferLater(self.reactor, 0.001)
        await server.stop()
        while client.lost is None:
            await deferLater(self.reactor, 0.001)


class MemoryTLSTests(MemoryServerTestCase):
    def connect_tls(self, server: MemoryServer) -> Asking:
        trusted = trustRootFromCertificates([TwistedCertificate.loadPEM(authority().pem)])
        options = optionsForClientTLS("localhost", trusted)
        inner = Factory.forProtocol(Asking)
        wrapped = TLSMemoryBIOFactory(options, True, inner, self.clock)
        connecting = server.endpoint().connect(wrapped)
        self.clock.advance(0)
        client = self.successResultOf(connecting).wrappedProtocol  # type: ignore[attr-defined]  # of TLS
        assert isinstance(client, Asking)
        return client

    def test_clock(self) -> None:
        """TLS in memory is driven by a clock as all else is."""
        client = self.connect_tls(self.make_server(certificate=authority().issue()))
        self.assert_open(client)

    def test_plaintext_client(self) -> None:
        """A server with TLS answers nothing to who does not speak it."""
        client = self.connect(self.make_server(certificate=authority().issue()))
        self.assertEqual(self.ask(client, Request(Opcode.NOOP, opaque=1)), [])

    def test_closed_behind_answer(self) -> None:
        """Over TLS too the connection is closed behind the answer that says why."""
        server = self.make_server(certificate=authority().issue())
        client = self.connect_tls(server)
        self.assert_closed(client, Opcode.GET, Status.INVALID_ARGUMENTS, Request(Opcode.GET))
        self.assertEqual(server.connections, 0)

    def test_unread_answers(self) -> None:
        """Over TLS too a client that does not read is not read."""
        server = self.make_server(certificate=authority().issue())
        client = self.connect_tls(server)
        check_unread_answers(self, server, client)


class LimitTests(MemoryServerTestCase):
    def test_unread_answers(self) -> None:
        """A client that does not read its answers is not read, until it does."""
        server = self.make_server()
        check_unread_answers(self, server, self.connect(server))

    def test_slow_reader(self) -> None:
        """A client that reads its answers slowly is read as slowly."""
        server = self.make_server()
        client = self.connect(server)
        self.ask(client, Request(Opcode.SET, b"key", STORE, bytes(100_000)))
        client.greedy = False
        self.ask(client, *([Request(Opcode.GET, b"key")] * 20_000))
        for _ in range(50):
            client.transport.resumeProducing()
            self.clock.advance(0)
        self.assertGreater(len(client.take()), 25)
        self.assertLess(server.stats["bytes_read"], ON_THE_WAY)

    def test_half_closed_unread(self) -> None:
        """A client that sends no more, and reads later, gets all the answers."""
        client = self.connect(self.make_server())
        self.ask(client, Request(Opcode.SET, b"key", STORE, bytes(100_000)))
        client.transport.pauseProducing()
        client.send(*([Request(Opcode.GET, b"key")] * 100))
        client.transport.loseWriteConnection()
        self.clock.advance(0)
        client.transport.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(len(client.take()), 100)
        self.assertIsNotNone(client.lost)

    def test_unread_and_closed(self) -> None:
        """A client that goes away without reading its answers leaves nothing behind."""
        server = self.make_server()
        for leave in ("loseConnection", "abortConnection"):
            client = self.connect(server)
            self.ask(client, Request(Opcode.SET, b"key", STORE, bytes(100_000)))
            client.transport.pauseProducing()
            self.ask(client, *([Request(Opcode.GET, b"key")] * 100))
            getattr(client.transport, leave)()
            self.clock.advance(0)
            self.assertIsNotNone(client.lost)
            self.assertEqual(server.connections, 0, leave)

    def test_max_connections(self) -> None:
        """Connections over the limit are closed at once; when one goes, there is room for one."""
        server = self.make_server(max_connections=2)
        first, second = self.connect(server), self.connect(server)
        third = self.connect(server)
        self.assertIsNotNone(third.lost)
        self.assert_open(first)
        self.assert_open(second)
        self.assertEqual((server.connections, server.stats["rejected_connections"]), (2, 1))
        first.transport.loseConnection()
        self.clock.advance(0)
        self.assert_open(self.connect(server))

    def test_max_bytes(self) -> None:
        """When there is too much, what was not used for longest goes."""
        server = self.make_server(max_bytes=10_000)
        client = self.connect(server)
        for n in range(20):
            self.ask(client, Request(Opcode.SET, b"key%02d" % n, STORE, bytes(1000)))
        self.assertEqual(self.ask(client, Request(Opcode.GETQ, b"key00")), [])
        self.assertEqual(len(self.ask(client, Request(Opcode.GETQ, b"key19"))), 1)
        self.assertLessEqual(server.stats["bytes"], 10_000)
        self.assertGreater(server.stats["evictions"], 0)

    def test_invalid(self) -> None:
        """Settings that can not be right are refused when the server is made."""
        for arguments in (
            {"max_bytes": 0},
            {"max_item": 1023},
            {"max_body": 2**20 - 1},
            {"max_connections": 0},
            {"client_ca": authority().pem},
            {"client_ca": b"no PEM", "certificate": authority().issue()},
        ):
            self.assertRaises(InvalidSetting, self.make_server, **arguments)


class TimeTests(MemoryServerTestCase):
    def test_clocks(self) -> None:
        """Seconds from now are the reactor's, Unix times are the wall clock's."""
        client = self.connect(self.make_server())
        for key, exptime in ((b"seconds", 10), (b"unix", int(self.now) + 10)):
            extras = struct.pack(">II", 0, exptime)
            self.ask(client, Request(Opcode.SETQ, key, extras, b"x"))
        both = (Request(Opcode.GETKQ, b"seconds"), Request(Opcode.GETKQ, b"unix"))
        self.clock.advance(10)
        self.assertEqual([r.key for r in self.ask(client, *both)], [b"unix"])
        self.now += 10
        self.assertEqual(self.ask(client, *both), [])


class FaultTests(MemoryServerTestCase):
    def test_drop(self) -> None:
        """All connections can be dropped as by a crash; new ones are accepted."""
        server = self.make_server()
        clients = [self.connect(server) for _ in range(3)]
        server.drop_connections()
        self.clock.advance(0)
        self.assertTrue(all(client.lost for client in clients))
        self.assertEqual(server.connections, 0)
        self.assert_open(self.connect(server))

    def test_pause(self) -> None:
        """A paused server accepts and is silent; when it goes on, it answers what was asked."""
        server = self.make_server()
        before = self.connect(server)
        server.pause()
        during = self.connect(server)
        for client in (before, during):
            self.assertEqual(self.ask(client, Request(Opcode.NOOP)), [])
        self.clock.advance(1000)
        self.assertEqual((server.connections, server.stats["bytes_read"]), (2, 0))
        server.resume()
        self.clock.advance(0)
        for client in (before, during):
            self.assertEqual([r.opcode for r in client.take()], [Opcode.NOOP])
            self.assert_open(client)

    def test_pause_with_answers_unread(self) -> None:
        """Whoever did not read its answers when the server paused gets them all afterwards."""
        server = self.make_server()
        client = self.connect(server)
        self.ask(client, Request(Opcode.SET, b"key", STORE, bytes(100_000)))
        client.transport.pauseProducing()
        self.ask(client, *([Request(Opcode.GET, b"key")] * 100))
        server.pause()
        read = server.stats["bytes_read"]
        client.transport.resumeProducing()
        self.clock.advance(0)
        self.assertLess(len(client.take()), 10)
        self.ask(client, Request(Opcode.NOOP))
        self.assertEqual(server.stats["bytes_read"], read)
        server.resume()
        self.clock.advance(0)
        self.assertGreater(len(client.take()), 90)

    def test_stopped(self) -> None:
        """A stopped server closes its connections and refuses new ones, in memory too."""
        server = self.make_server()
        client = self.connect(server)
        stopping = server.stop()
        self.assertNoResult(stopping)
        self.clock.advance(0)
        self.assertIsNone(self.successResultOf(stopping))
        self.assertIsNotNone(client.lost)
        connecting = server.endpoint().connect(Factory.forProtocol(Asking))
        self.clock.advance(0)
        self.failureResultOf(connecting, ConnectionRefusedError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_paused(self) -> None:
        """A silent server stops as any other, and again when it is stopped already."""
        server = self.make_server()
        client = self.connect(server)
        server.pause()
        stopping = [server.stop(), server.stop()]
        self.clock.advance(0)
        for each in stopping:
            self.assertIsNone(self.successResultOf(each))
        self.assertIsNone(self.successResultOf(server.stop()))
        self.assertIsNotNone(client.lost)

    def test_server_before_listening(self) -> None:
        """What only is in memory has a server to be named by."""
        self.assertEqual(self.make_server().server, Server("127.0.0.1:11211"))
        named = self.make_server(name="mc1.example")
        self.assertEqual(named.server, Server("mc1.example"))


def check_unread_answers(case: MemoryServerTestCase, server: MemoryServer, client: Asking) -> None:
    """Leave 100 MB of answers unread: what the server keeps of it stays small; then read them."""
    case.ask(client, Request(Opcode.SET, b"key", STORE, bytes(MIB - 100)))
    before = server.stats["bytes_written"]
    client.transport.pauseProducing()
    asked = 50_000
    for _ in range(100):
        client.send(*([Request(Opcode.NOOP)] * (asked // 100 - 1)), Request(Opcode.GET, b"key"))
    case.clock.advance(0)
    case.assertLess(server.stats["bytes_written"] - before, ON_THE_WAY + MIB)
    case.assertLess(server.stats["bytes_read"], ON_THE_WAY + MIB)
    client.transport.resumeProducing()
    case.clock.advance(0)
    case.assertEqual(len(client.take()), asked)
