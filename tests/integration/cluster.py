"""Three real memcached servers with TLS and SASL, and a client for them."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from itertools import count
from typing import Any, ClassVar, Final, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from tests.memcached import MemcachedTestCase, RealMemcached
from tests.secrecy import USER, Witness, credentials, password
from txtlsmc.client import MemcacheClient
from txtlsmc.cluster.node import NodeState
from txtlsmc.errors import MemcacheError
from txtlsmc.net.endpoints import connect
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import TLS, Limits, Server
from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate

E = TypeVar("E", bound=MemcacheError)

#: Fixed, so that a key is on the same server in every run.
HOSTS: Final = ("mc1.example", "mc2.example", "mc3.example")
NAMES: Final = tuple(f"{host}:11211" for host in HOSTS)
#: No test is about these running out, unless it says so.
PATIENT: Final = Limits(timeout=30, connect_timeout=30)


@cache
def authority() -> Authority:
    return Authority()


@cache
def certificate(host: str) -> IssuedCertificate:
    return authority().issue(host)


def pause(seconds: float) -> Deferred[None]:
    """Return a Deferred that fires after so many seconds of the reactor's."""
    return deferLater(IReactorTime(reactor), seconds)


@implementer(ILogObserver)
class Hearer:
    """Adds every line of the log to a list."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __call__(self, event: LogEvent) -> None:
        """Add what is logged."""
        self._lines.append(formatEvent(event))


class ClusterTestCase(MemcachedTestCase):
    """
    Three servers, each with a name and a certificate of its own, for one user.

    Attributes:
        sasl: whether the servers want a login.
        cluster: the servers, in ring order.
        heard: what was logged.
        witness: sees every error that it is shown, and the log.
    """

    timeout = 60
    sasl: ClassVar[bool] = True
    cluster: list[RealMemcached]

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits, unittest does not
        self.witness = Witness(self)
        self.heard: list[str] = []
        hearer = Hearer(self.heard)
        globalLogPublisher.addObserver(hearer)
        self.addCleanup(globalLogPublisher.removeObserver, hearer)
        return Deferred.fromCoroutine(self.start_cluster())

    async def start_cluster(self) -> None:
        """Start the servers; a subclass may have others."""
        self.cluster = await gatherResults([self.start_member(host) for host in HOSTS])

    def start_member(
        self, host: str, issued: IssuedCertificate | None = None, **more: Any
    ) -> Deferred[RealMemcached]:
        """Start one server, with the certificate of *host* unless another one is given."""
        users = {USER: password()} if self.sasl else None
        options: Any = {"sasl": users, "certificate": issued or certificate(host)}
        options |= more
        return self.start_memcached(**options)

    def servers(self) -> list[Server]:
        """Return the server list: the fixed names, dialled where the servers are."""
        return [
            Server(name, address="{}:{}".format(*memcached.address))
            for name, memcached in zip(NAMES, self.cluster, strict=True)
        ]

    def client(self, **options: Any) -> MemcacheClient:
        """Return a client of the three, by the right TLS and password; closed after the test."""
        defaults: dict[str, Any] = {
            "servers": self.servers(),
            "tls": TLS(ca=authority().pem),
            "credentials": credentials(),
            "limits": PATIENT,
        }
        client = MemcacheClient(reactor, **(defaults | options))
        self.addCleanup(self.end, client)
        return client

    def end(self, client: MemcacheClient) -> Deferred[None]:
        """Close *client* at once, whatever is pending; once more changes nothing."""
        return succeed(None) if client.factory.closed else client.close(timeout=0.1)

    async def direct(self, place: int, **options: Any) -> MemcacheProtocol:
        """Connect to one server alone, until the test is over."""
        defaults: dict[str, Any] = {
            "tls": TLS(ca=authority().pem),
            "credentials": credentials() if self.sasl else None,
            "limits": PATIENT,
        }
        protocol = await connect(
            IReactorTime(reactor), self.servers()[place], **(defaults | options)
        )
        self.addCleanup(protocol.close)
        return protocol

    def told_of(self, place: int) -> list[str]:
        """Return what the log was told of a server."""
        return [text for text in self.heard if NAMES[place] in text]

    async def fails(self, kind: type[E], doing: Awaitable[object]) -> E:
        try:
            await doing
        except MemcacheError as error:
            self.witness.examine(error)
            self.assertIs(type(error), kind, error)
            assert isinstance(error, kind)
            return error
        return self.fail(f"no {kind.__name__}")

    async def assert_serves(self, client: MemcacheClient, *places: int) -> None:
        """These servers do what they are asked for."""
        for place in places:
            key = key_on(client, place)
            self.assertIs(await client.set(key, f"{key} at {place}"), True)
            self.assertEqual(await client.get(key), f"{key} at {place}")

    def state(self, client: MemcacheClient, place: int = 1) -> NodeState:
        return client.nodes()[place].state

    async def up(self, client: MemcacheClient, place: int = 1) -> None:
        """Wait until a server is used again."""
        await until(lambda: self.state(client, place) is NodeState.UP)

    async def down(self, client: MemcacheClient, place: int = 1) -> None:
        """Wait until a server is given up."""
        await until(lambda: self.state(client, place) is NodeState.DOWN)


def free_port(test: MemcachedTestCase) -> int:
    """Reserve a port of the loopback interface until *test* is over, as `RealMemcached` does."""
    reserved = socket.socket()
    test.addCleanup(reserved.close)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port: int = reserved.getsockname()[1]
    return port


def keys_on(client: MemcacheClient, place: int, prefix: str = "key") -> Iterator[str]:
    """Return keys, as many as are wanted, that the ring of *client* has at *place*."""
    keys = (f"{prefix}-{number}" for number in count())
    return (key for key in keys if client.node_for(key).place == place)


def key_on(client: MemcacheClient, place: int, prefix: str = "key") -> str:
    """Return the first of `keys_on`."""
    return next(keys_on(client, place, prefix))


async def until(check: Callable[[], bool]) -> None:
    """Look again and again until it is so; the test's timeout bounds it."""
    while not check():
        await pause(0.01)
