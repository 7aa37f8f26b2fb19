"""A client of three real servers, one of which is in trouble: the other two never notice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.trial.unittest import SkipTest
from zope.interface import implementer

from tests.integration.cluster import (
    HOSTS,
    NAMES,
    PATIENT,
    ClusterTestCase,
    authority,
    certificate,
    key_on,
    pause,
    until,
)
from tests.memcached import RealMemcached, needs_memcached
from tests.secrecy import (
    USER,
    credentials,
    password,
    wrong_credentials,
    wrong_password,
)
from txtlsmc.client import MemcacheClient
from txtlsmc.cluster.factory import MemcacheClientFactory
from txtlsmc.cluster.node import NodeState
from txtlsmc.errors import (
    CertificateExpired,
    CertificateWrongHost,
    CredentialsRefused,
    MemcacheError,
    NodeDown,
    NotReady,
    PartialResult,
)
from txtlsmc.net.endpoints import ReadyEndpoint
from txtlsmc.routing import Backoff
from txtlsmc.settings import TLS, Credentials, Routing, Server

BAD_SECOND = (NodeState.UP, NodeState.DOWN, NodeState.UP)


@implementer(IStreamClientEndpoint)
class CountingEndpoint:
    """
    Another endpoint, and when it was asked to connect.

    Attributes:
        times: in seconds.
    """

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self.times: list[float] = []
        self._endpoint = endpoint

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        self.times.append(time.monotonic())
        connecting: Deferred[IProtocol] = self._endpoint.connect(protocolFactory)
        return connecting


class RefusedTests(ClusterTestCase):
    """One server is not the one that we want, or does not want us."""

    async def start_cluster(self) -> None:
        """The servers are started by each test."""

    async def begin(self, second: Deferred[RealMemcached], **options: Any) -> MemcacheClient:
        """Start the servers, the *second* as it is given, and a client that is counted."""
        self.cluster = await gatherResults(
            [self.start_member(HOSTS[0]), second, self.start_member(HOSTS[2])]
        )
        self.endpoints: list[CountingEndpoint] = []

        def endpoint(server: Server) -> CountingEndpoint:
            tls = TLS(ca=authority().pem)
            ready = ReadyEndpoint(
                reactor, server, tls=tls, credentials=credentials(), limits=PATIENT
            )
            self.endpoints.append(CountingEndpoint(ready))
            return self.endpoints[-1]

        factory = MemcacheClientFactory(
            reactor, self.servers(), endpoint=endpoint, limits=PATIENT, **options
        )
        return self.client(factory=factory)

    async def assert_refused(
        self, client: MemcacheClient, kind: type[MemcacheError], *words: str
    ) -> None:
        """The other two serve, and everybody can read what is wrong with the second."""
        not_ready = await self.fails(NotReady, client.when_ready())
        self.assertEqual(list(not_ready.errors), [NAMES[1]])
        await client.when_ready(2)
        await self.assert_serves(client, 0, 2)
        keys = [key_on(client, place) for place in range(3)]
        partial = await self.fails(PartialResult, client.get_multi(keys))
        self.assertEqual(partial.found, {keys[0]: f"{keys[0]} at 0", keys[2]: f"{keys[2]} at 2"})
        down = await self.fails(NodeDown, client.get(keys[1]))
        for errors in (partial.errors, not_ready.errors, {NAMES[1]: down}):
            ((name, error),) = errors.items()
            assert isinstance(error, NodeDown)
            self.assertEqual((name, error.node, type(error.cause)), (NAMES[1], NAMES[1], kind))
        health = client.nodes()
        self.assertEqual([each.state for each in health], list(BAD_SECOND))
        self.assertIs(type(health[1].error), kind)
        for word in words:
            self.assertIn(word, str(health[1].error))
            self.assertIn(word, str(down))
        self.assertEqual((health[0].error, health[2].error), (None, None))

    async def busy(self, client: MemcacheClient, seconds: float, *places: int) -> None:
        """Ask for a key of each of *places* again and again, for so many seconds."""
        keys = [key_on(client, place) for place in places]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for place, key in zip(places, keys, strict=True):
                if place == 1:
                    await self.fails(NodeDown, client.get(key))
                else:
                    self.assertEqual(await client.get(key), f"{key} at {place}")
            await pause(0.02)

    async def assert_grow_apart(
        self, client: MemcacheClient, kind: type[MemcacheError], *words: str
    ) -> None:
        """Attempts are made less and less often, and the log hears of the cause once."""
        await self.assert_refused(client, kind, *words)
        await self.busy(client, 2, 0, 2)
        times = self.endpoints[1].times
        gaps = [late - early for early, late in pairwise(times)]
        self.assertIn(len(times), range(4, 8), gaps)
        # The third was woken by a call.  The pauses behind it are 0.4 s, 0.8 s and so on, of which
        # up to half is left out.
        for number, gap in enumerate(gaps[2:]):
            self.assertGreater(gap, 0.2 * 2**number * 0.99, gaps)
        self.assertEqual(len(self.told_of(1)), 1, self.told_of(1))
        self.assertEqual(self.told_of(0) + self.told_of(2), [])
        self.assertEqual([len(self.endpoints[place].times) for place in (0, 2)], [1, 1])
        for word in words:
            self.assertIn(word, self.told_of(1)[0])

    async def test_wrong_host(self) -> None:
        """A certificate for another host is named as the cause, with the host that it is for."""
        other = authority().issue("other.example")
        client = await self.begin(self.start_member(HOSTS[1], other))
        await self.assert_grow_apart(client, CertificateWrongHost, HOSTS[1], "other.example")

    async def test_expired(self) -> None:
        """So is a certificate whose time is over."""
        client = await self.begin(self.start_member(HOSTS[1], authority().expired(HOSTS[1])))
        await self.assert_grow_apart(client, CertificateExpired, "expired")

    async def test_woken(self) -> None:
        """Calls for its keys fail at once, and have it dialled once a second and no more."""
        rare = Routing(backoff=Backoff(first=40, longest=40))
        other = authority().issue("other.example")
        client = await self.begin(self.start_member(HOSTS[1], other), routing=rare)
        await self.fails(NodeDown, client.get(key_on(client, 1)))
        await self.assert_refused(client, CertificateWrongHost)
        before, started = len(self.endpoints[1].times), time.monotonic()
        await self.busy(client, 2.2, 0, 1, 2)
        attempts, took = len(self.endpoints[1].times) - before, time.monotonic() - started
        self.assertIn(attempts, range(1, int(took) + 2))
        self.assertEqual(len(self.told_of(1)), 1, self.told_of(1))

    async def test_password(self) -> None:
        """A password that one server refuses is tried once, however often its keys are used."""
        client = await self.begin(self.start_member(HOSTS[1], sasl={USER: wrong_password()}))
        await self.assert_refused(client, CredentialsRefused)
        await self.busy(client, 1.5, 0, 1, 2)
        direct = await self.direct(1, credentials=wrong_credentials())
        self.assertEqual((await direct.stats())[b"auth_cmds"], b"2")  # theirs, and this one's
        self.assertEqual(len(self.endpoints[1].times), 1)
        self.assertEqual(len(self.told_of(1)), 1, self.told_of(1))
        self.assertEqual(self.told_of(0) + self.told_of(2), [])

    async def test_password_later(self) -> None:
        """It is tried again when its own, longer time is over."""
        slow = Routing(backoff=Backoff(first=0.01, credentials=0.7, wake_every=0.01))
        client = await self.begin(
            self.start_member(HOSTS[1], sasl={USER: wrong_password()}), routing=slow
        )
        await self.assert_refused(client, CredentialsRefused)
        await self.busy(client, 1.6, 1)
        times = self.endpoints[1].times
        self.assertIn(len(times), (2, 3))
        for early, late in pairwise(times):
            self.assertGreater(late - early, 0.69)
        self.assertEqual(len(self.told_of(1)), 1, self.told_of(1))


class RotatedMemcached(RealMemcached):
    """A server whose users get new passwords."""

    async def rotate(self, users: Mapping[str, str]) -> None:
        """Start anew, with these passwords."""
        await self.kill()
        await self._write_sasl(users, ["plain"])
        self._hand_over_folder()
        await self.restart()


class RotationTests(ClusterTestCase):
    """Passwords change while a client runs."""

    cluster: list[RotatedMemcached]  # type: ignore[assignment]  # all of them are
    current: Credentials

    def source(self) -> Credentials:
        """Return what the store of secrets has now."""
        self.asked += 1
        return self.current

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits, unittest does not
        self.asked = 0
        self.current = credentials()
        return super().setUp()

    async def start_cluster(self) -> None:
        if reason := needs_memcached(sasl=True, tls=True):
            raise SkipTest(reason)
        self.cluster = await gatherResults([self.start_rotated(host) for host in HOSTS])

    def start_rotated(self, host: str) -> Deferred[RotatedMemcached]:
        def started(server: RotatedMemcached) -> RotatedMemcached:
            self.addCleanup(server.stop)
            return server

        starting = RotatedMemcached.start(sasl={USER: password()}, certificate=certificate(host))
        return starting.addCallback(started)

    async def test_rotated(self) -> None:
        """A new password is asked for at the next connection; the client needs no restart."""
        client = self.client(credentials=self.source)
        await client.when_ready()
        self.assertEqual(self.asked, 3)
        await self.assert_serves(client, 0, 1, 2)
        self.current = wrong_credentials()  # that is the right one from now on
        for place in range(3):
            await self.cluster[place].rotate({USER: wrong_password()})
            await self.up(client, place)
            await self.assert_serves(client, 0, 1, 2)
        self.assertEqual([node.error for node in client.nodes()], [None, None, None])

    async def test_rotated_later(self) -> None:
        """If the server changes first, its password is refused until the client's follows."""
        slow = Routing(backoff=Backoff(credentials=0.5))
        client = self.client(credentials=self.source, routing=slow)
        await client.when_ready()
        await self.cluster[1].rotate({USER: wrong_password()})
        await until(lambda: type(client.nodes()[1].error) is CredentialsRefused)
        down = await self.fails(NodeDown, client.get(key_on(client, 1)))
        self.assertIs(type(down.cause), CredentialsRefused)
        await self.assert_serves(client, 0, 2)
        self.current = wrong_credentials()
        await self.up(client)
        await self.assert_serves(client, 1)
