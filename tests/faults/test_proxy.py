"""Tests of `tests.faults.proxy`: each fault is what it says, to a plain client of `ssl`."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.threads import deferToThread

from tests.faults.certificates import BAD, HOST, OLD_TLS
from tests.faults.proxied import How, Place
from tests.faults.proxy import FaultProxy
from tests.memcached import MemcachedOptions, MemcachedTestCase
from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate
from txtlsmc.wire import operations
from txtlsmc.wire.frames import HEADER_SIZE, Request
from txtlsmc.wire.opcodes import Opcode

T = TypeVar("T")

_VALUE = b"v" * 1000
#: Of the answer to a get of `_VALUE`.
_WHOLE = HEADER_SIZE + 4 + len(_VALUE)
_NOOP = Request(Opcode.NOOP, opaque=7).encode()
_SASL_LIST = Request(Opcode.SASL_LIST).encode()
_GET = operations.get("key").request.encode()


@cache
def authority() -> Authority:
    return Authority()


@cache
def behind() -> IssuedCertificate:
    """What the memcached behind shows, where it speaks TLS."""
    return authority().issue()


class Client:
    """A client that blocks, verifies, and keeps to a time; it remembers the size of each record."""

    def __init__(self, address: tuple[str, int], *, verify: bool = True) -> None:
        context = ssl.create_default_context(cadata=authority().pem.decode())
        context.hostname_checks_common_name = False
        if not verify:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tcp = socket.create_connection(address, timeout=20)
        try:
            self.tls = context.wrap_socket(
                tcp, server_hostname=HOST, suppress_ragged_eofs=False, do_handshake_on_connect=False
            )
        except BaseException:
            tcp.close()
            raise

    def shake_hands(self, seconds: float = 20) -> None:
        self.tls.settimeout(seconds)
        try:
            self.tls.do_handshake()
        except BaseException:
            self.tls.close()
            raise

    def ask(self, request: bytes, length: int) -> tuple[bytes, list[int]]:
        """Send *request*; return so many bytes of what comes, and the sizes of its records."""
        self.tls.sendall(request)
        return self.read(length)

    def read(self, length: int) -> tuple[bytes, list[int]]:
        said, sizes = b"", []
        while len(said) < length and (piece := self.tls.recv(2**16)):
            said += piece
            sizes.append(len(piece))
        return said, sizes

    def silent(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for a while."""
        self.tls.settimeout(seconds)
        try:
            self.tls.recv(1)
        except TimeoutError:
            return True
        finally:
            self.tls.settimeout(20)
        return False

    def reset(self) -> bool:
        """Whether the connection ends, and does so by a reset."""
        # Around TLS: Python's takes every reset for an end of the stream.  Tickets may come first.
        with socket.socket(fileno=os.dup(self.tls.fileno())) as tcp:
            tcp.settimeout(20)
            try:
                while tcp.recv(4096):
                    pass
            except ConnectionResetError:
                return True
        return False

    def close(self) -> None:
        self.tls.close()


def in_thread(call: Callable[[], T]) -> Deferred[T]:
    """Let something that blocks run beside the reactor."""
    return deferToThread(call)


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=20).close()
    except ConnectionRefusedError:
        return True
    return False


class ProxyTestCase(MemcachedTestCase):
    """A proxy in front of a memcached."""

    timeout = 60

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits, unittest does not
        async def start() -> None:
            await MemcachedTestCase.setUp(self)
            self.proxy = FaultProxy(authority(), self.endpoint())
            self.addCleanup(lambda: Deferred.fromCoroutine(self.proxy.stop()))
            self.proxy.start()

        return Deferred.fromCoroutine(start())

    def endpoint(self) -> IStreamClientEndpoint:
        return TCP4ClientEndpoint(reactor, *self.memcached.address)

    async def client(self, *, verify: bool = True) -> Client:
        """Return a client that shook hands."""
        client = await in_thread(partial(Client, self.proxy.address, verify=verify))
        self.addCleanup(client.close)
        await in_thread(client.shake_hands)
        return client

    async def stored(self) -> Client:
        """Return a client of a server where `_VALUE` is stored."""
        client = await self.client()
        stored = operations.set("key", _VALUE).request.encode()
        await in_thread(partial(client.ask, stored, HEADER_SIZE))
        return client

    async def gets(self, client: Client) -> bool:
        """Whether *client* gets the value."""
        said, _ = await in_thread(partial(client.ask, _GET, _WHOLE))
        return said[HEADER_SIZE + 4 :] == _VALUE


class WellTests(ProxyTestCase):
    async def test_through(self) -> None:
        """Without a fault all goes through, and is counted."""
        client = await self.stored()
        self.assertTrue(await self.gets(client))
        await in_thread(partial(client.ask, _SASL_LIST, HEADER_SIZE))
        (seen,) = self.proxy.seen
        self.assertEqual((seen.requests, seen.sasl, seen.certificate), (3, 1, "good"))
        certificate = client.tls.getpeercert()
        assert certificate is not None
        self.assertEqual(int(str(certificate["serialNumber"]), 16), seen.serial)
        self.assertEqual((self.proxy.accepted, self.proxy.live), (1, 1))
        self.assertEqual((self.proxy.handshakes, self.proxy.most_live), (1, 1))
        self.assertGreater(self.proxy.received, len(_VALUE))
        self.assertGreater(self.proxy.sent, len(_VALUE))
        self.assertEqual(self.proxy.unverified, [])

    async def test_large(self) -> None:
        """A value of 900 000 bytes comes through both ways; so does an answer in text."""
        client = await self.client()
        value = bytes(range(256)) * 3500
        stored = operations.set("large", value).request.encode()
        await in_thread(partial(client.ask, stored, HEADER_SIZE))
        get = operations.get("large").request.encode()
        said, _ = await in_thread(partial(client.ask, get, HEADER_SIZE + 4 + len(value)))
        self.assertEqual(said[HEADER_SIZE + 4 :], value)
        text = await self.client()
        said, _ = await in_thread(partial(text.ask, b"get nothing\r\n", 5))
        self.assertEqual(said, b"END\r\n")


class BehindTests(ProxyTestCase):
    def memcached_options(self) -> MemcachedOptions:
        return {"certificate": behind()}

    def endpoint(self) -> IStreamClientEndpoint:
        trusted = trustRootFromCertificates([Certificate.loadPEM(authority().pem)])
        return wrapClientTLS(optionsForClientTLS(HOST, trustRoot=trusted), super().endpoint())

    async def test_tls(self) -> None:
        """The memcached behind may speak TLS as well."""
        self.assertTrue(await self.gets(await self.stored()))


class ConnectionTests(ProxyTestCase):
    async def test_refuse(self) -> None:
        """New connections are refused, live ones stay, and healing lets new ones in."""
        client = await self.stored()
        await self.proxy.refuse()
        self.assertTrue(await in_thread(partial(refused, self.proxy.address)))
        self.assertTrue(await self.gets(client))
        self.proxy.heal()
        self.assertTrue(await self.gets(await self.client()))

    async def test_restart(self) -> None:
        """A restart resets live connections; new ones are served."""
        client = await self.stored()
        await self.proxy.restart()
        self.assertTrue(await in_thread(client.reset))
        self.assertTrue(await self.gets(await self.client()))

    async def test_accept_silently(self) -> None:
        """A hello stays without an answer, and the connection ends when the proxy heals."""
        self.proxy.accept_silently()
        client = await in_thread(partial(Client, self.proxy.address))
        self.addCleanup(client.close)
        with self.assertRaises(TimeoutError):
            await in_thread(partial(client.shake_hands, 0.3))
        (seen,) = self.proxy.seen
        self.assertEqual(seen.hello[:1], b"\x16")
        self.assertEqual((seen.handshaken, seen.certificate), (False, None))
        self.proxy.heal()
        await self.client()

    async def test_fall_silent(self) -> None:
        """Live and new connections hear nothing; what was asked is answered after the healing."""
        live = await self.stored()
        self.proxy.fall_silent()
        new = await self.client()
        for client in (live, new):
            await in_thread(partial(client.tls.sendall, _GET))
            self.assertTrue(await in_thread(client.silent))
        self.proxy.heal()
        for client in (live, new):
            said, _ = await in_thread(partial(client.read, _WHOLE))
            self.assertEqual(said[-len(_VALUE) :], _VALUE)

    async def test_flap(self) -> None:
        """It goes down and up again so many times, and is up at the end."""
        before = await self.client()
        flapping = self.proxy.flap(3, up_seconds=0.05, down_seconds=0.05)
        self.assertTrue(await in_thread(before.reset))
        refusals = await in_thread(partial(refused, self.proxy.address))
        self.assertTrue(refusals)
        await flapping
        await self.client()

    async def test_stop_flapping(self) -> None:
        """To stop ends the flapping too."""
        self.proxy.flap(1000)
        await self.proxy.stop()
        self.assertTrue(await in_thread(partial(refused, self.proxy.address)))


class AnswerTests(ProxyTestCase):
    #: What comes before a cut.
    places = ((Place.HEADER, 10), (Place.BODY, HEADER_SIZE + (4 + len(_VALUE)) // 2))

    async def test_stall(self) -> None:
        """An answer stops in its header or body; the rest comes after the healing."""
        for place, length in self.places:
            client = await self.stored()
            self.proxy.cut(place, How.STALL)
            said, _ = await in_thread(partial(client.ask, _GET, length))
            self.assertEqual(len(said), length)
            self.assertTrue(await in_thread(client.silent))
            self.proxy.heal()
            rest, _ = await in_thread(partial(client.read, _WHOLE - length))
            self.assertEqual((said + rest)[HEADER_SIZE + 4 :], _VALUE)

    async def test_reset(self) -> None:
        """The connection is reset in the header or body of an answer."""
        for place, length in self.places:
            client = await self.stored()
            self.proxy.cut(place, How.RESET)
            said, _ = await in_thread(partial(client.ask, _GET, length))
            self.assertEqual(len(said), length)
            self.assertTrue(await in_thread(client.reset))

    async def test_close_notify(self) -> None:
        """TLS is closed in good order in the header or body of an answer."""
        for place, length in self.places:
            client = await self.stored()
            self.proxy.cut(place, How.CLOSE_NOTIFY)
            # Nothing but close_notify lets this end without an error.
            said, _ = await in_thread(partial(client.ask, _GET, _WHOLE))
            self.assertEqual(len(said), length)

    async def test_which(self) -> None:
        """So many answers are cut, and none that is too short; the next is whole."""
        for _ in range(2):
            client = await self.stored()
            self.proxy.cut(Place.BODY, How.CLOSE_NOTIFY, least=500)
            said, _ = await in_thread(partial(client.ask, _NOOP, HEADER_SIZE))
            self.assertEqual(said, struct.pack(">BBHBBHIIQ", 0x81, 10, 0, 0, 0, 0, 0, 7, 0))
            said, _ = await in_thread(partial(client.ask, _GET, _WHOLE))
            self.assertLess(len(said), _WHOLE)
            self.assertTrue(await self.gets(await self.client()))

    async def test_trickle(self) -> None:
        """Each byte is a record of its own."""
        client = await self.stored()
        self.proxy.trickle()
        said, sizes = await in_thread(partial(client.ask, _GET, _WHOLE))
        self.assertEqual(said[HEADER_SIZE + 4 :], _VALUE)
        self.assertEqual(set(sizes), {1})


class CertificateTests(ProxyTestCase):
    async def test_refused(self) -> None:
        """A client that verifies refuses each bad certificate, and the proxy hears nothing."""
        for name in BAD:
            self.proxy.show(name)
            with self.assertRaises((ssl.SSLError, ConnectionError), msg=name):
                await self.client()
        self.assertEqual([seen.certificate for seen in self.proxy.seen], list(BAD))
        self.assertEqual(self.proxy.unverified, [])

    async def test_sent(self) -> None:
        """The proxy sees who does not verify: what was sent to a bad certificate, SASL counted."""
        for name in BAD:
            if name == OLD_TLS:
                continue  # refused for its version, and not for its certificate
            shown = self.proxy.show(name)
            client = await self.client(verify=False)
            await in_thread(partial(client.ask, _SASL_LIST, HEADER_SIZE))
            seen = self.proxy.unverified[-1]
            self.assertEqual((seen.certificate, seen.serial), (name, shown.serial))
            self.assertEqual((seen.requests, seen.sasl), (1, 1))
        self.proxy.heal()
        self.assertFalse(self.proxy.shown.bad)
        await self.client()
