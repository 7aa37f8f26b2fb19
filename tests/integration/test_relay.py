"""The relay before a real memcached with TLS and SASL: unchanged clients, who log in themselves."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTCP, IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest

from tests.cluster.fakes import Journal
from tests.memcached import MemcachedOptions, MemcachedTestCase
from tests.secrecy import USER, credentials, password, wrong_password
from txtlsmc import Credentials, CredentialsRefused, InsecurePlaintext, connect
from txtlsmc.settings import TLS, ClientSettings, Server
from txtlsmc.testing import Authority
from txtlsmc.testing.issued import IssuedCertificate
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.relay import Relay
from txtlsmc.tunnel.settings import TunnelSettings

T = TypeVar("T")


@cache
def authority() -> Authority:
    return Authority()


@cache
def localhost() -> IssuedCertificate:
    return authority().issue("localhost")


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SkipTest(f"{name} is not installed") from None


class RelayTestCase(MemcachedTestCase):
    timeout = 20

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # as in the class above
        self.journal = Journal(self)
        return super().setUp().addCallback(self._begin)

    def _begin(self, result: None) -> None:
        self.hub = Hub.make()
        host, port = self.memcached.address
        server = Server(f"localhost:{port}", address=f"{host}:{port}")
        client = ClientSettings(servers=(server,), tls=TLS(ca=authority().pem))
        settings = TunnelSettings(client=client, mode="relay")
        self.relay = Relay(IReactorTime(reactor), server, settings, self.hub)
        listening = IReactorTCP(reactor).listenTCP(0, self.relay.factory, interface="127.0.0.1")
        self.addCleanup(self.relay.drain, 0)
        self.addCleanup(listening.stopListening)
        address = listening.getHost()
        assert isinstance(address, IPv4Address)
        self.port = address.port

    def in_thread(self, use: Callable[[], T]) -> Deferred[T]:
        """Let a library that blocks do something."""
        done: Deferred[T] = deferToThread(use)
        return done

    async def until(self, happened: Callable[[], object]) -> None:
        while not happened():
            await deferLater(IReactorTime(reactor), 0.005)


class OpenRelayTests(RelayTestCase):
    """A server with TLS and without users."""

    def memcached_options(self) -> MemcachedOptions:
        return {"certificate": localhost(), "arguments": ("-o", "ssl_session_cache")}

    async def test_text(self) -> None:
        """The text protocol passes as well as the binary one."""
        pymemcache = library("pymemcache.client.base")

        def use() -> bytes:
            client = pymemcache.Client(("127.0.0.1", self.port), timeout=20)
            # memcached 1.6.18 reads no further where one TLS record holds the end of a value and
            # the next request: so each waits for its answer here.
            client.set("key", b"value" * 100_000, noreply=False)
            got: bytes = client.get("key")
            client.close()
            return got

        self.assertEqual(await self.in_thread(use), b"value" * 100_000)

    async def test_pylibmc(self) -> None:
        """pylibmc stores and finds through the relay."""
        pylibmc = library("pylibmc")

        def use() -> object:
            address = [f"127.0.0.1:{self.port}"]
            client = pylibmc.Client(address, binary=True)
            for n in range(50):
                client.set(f"k{n}", n)
            got = client.get_multi([f"k{n}" for n in range(60)])
            client.disconnect_all()
            return got

        self.assertEqual(await self.in_thread(use), {f"k{n}": n for n in range(50)})

    async def test_sessions(self) -> None:
        """A connection after the first takes up its TLS session; the server counts it too."""

        async def told() -> dict[bytes, bytes]:
            client = await connect(reactor, f"127.0.0.1:{self.port}", tls=InsecurePlaintext())
            stats = await client.stats()
            await client.close()
            return stats

        first = (await told())[b"ssl_new_sessions"]
        for _ in range(4):
            last = await told()
        counters = self.hub.counters
        self.assertEqual((counters.upstream_ready, counters.sessions_resumed), (5, 4))
        # OpenSSL gives two tickets after a full handshake, and one after a resumed one.
        self.assertEqual(int(last[b"ssl_new_sessions"]), int(first) + 4 * (int(first) // 2))

    async def test_restart(self) -> None:
        """A server that was away is used again at once; the log names the cause once."""
        tls = InsecurePlaintext()
        client = await connect(reactor, f"127.0.0.1:{self.port}", tls=tls)
        await self.memcached.kill()
        await self.until(lambda: not self.relay.local_connections())
        for _ in range(3):
            await self.assertFailure(connect(reactor, f"127.0.0.1:{self.port}", tls=tls), Exception)
        await self.memcached.restart()
        again = await connect(reactor, f"127.0.0.1:{self.port}", tls=tls)
        await again.set("key", b"value")
        item = await again.get("key")
        self.assertEqual(item and item.value, b"value")
        await again.close()
        refused = [line for line in self.journal.lines if "nobody listens" in line]
        self.assertEqual(len(refused), 1, self.journal.lines)
        self.assertIn("is back", self.journal.lines[-1])
        del client


class LoginRelayTests(RelayTestCase):
    """A server with TLS and users, to whom the relay says nothing by itself."""

    def memcached_options(self) -> MemcachedOptions:
        return {"certificate": localhost(), "sasl": {USER: password()}, "mechanisms": ("PLAIN",)}

    async def test_bmemcached(self) -> None:
        """python-binary-memcached logs in through the relay."""
        bmemcached = library("bmemcached")

        def use() -> object:
            address = (f"127.0.0.1:{self.port}",)
            client = bmemcached.Client(address, username=USER, password=password())
            client.set("key", "value")
            got = client.get("key")
            client.disconnect_all()
            return got

        self.assertEqual(await self.in_thread(use), "value")

    async def test_own_client(self) -> None:
        """Our own client logs in through the relay, and is refused with a wrong password."""
        tls = InsecurePlaintext()
        where = f"127.0.0.1:{self.port}"
        client = await connect(reactor, where, tls=tls, credentials=credentials(insecure=True))
        self.assertTrue(await client.set("key", b"value"))
        await client.close()
        wrong = Credentials(USER, wrong_password(), insecure_password=True)
        await self.assertFailure(
            connect(reactor, where, tls=tls, credentials=wrong), CredentialsRefused
        )


class UntrustedRelayTests(RelayTestCase):
    """A server whose certificate is another's."""

    def memcached_options(self) -> MemcachedOptions:
        return {"certificate": authority().issue("elsewhere.example")}

    async def test_untrusted(self) -> None:
        """No byte of the local client reaches it; the log says once why."""
        for _ in range(3):
            await self.assertFailure(
                connect(reactor, f"127.0.0.1:{self.port}", tls=InsecurePlaintext()), Exception
            )
        await self.until(lambda: not self.relay.local_connections())
        self.assertEqual(self.hub.counters.bytes_to_upstream, 0)
        (line,) = self.journal.lines
        self.assertIn("elsewhere.example", line)
