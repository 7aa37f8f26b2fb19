"""A client of two real servers and one that misbehaves: time-outs hold, and nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from tests.hostile import FLAGS, HostileServer, Peer, good, value_of
from tests.integration.cluster import (
    HOSTS,
    NAMES,
    ClusterTestCase,
    certificate,
    key_on,
    keys_on,
    pause,
    until,
)
from txtlsmc.client import MemcacheClient
from txtlsmc.cluster.node import NodeState
from txtlsmc.errors import (
    ConnectionClosed,
    ConnectTimedOut,
    MemcacheError,
    NodeDown,
    PartialResult,
    RemoteProtocolError,
    RequestTimeout,
    ServerSilent,
)
from txtlsmc.settings import Limits, Routing, Server
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode

Mood = Callable[[Peer], Coroutine[Deferred[Any], Any, None]]


async def log_in(peer: Peer) -> None:
    """Accept whatever the client proves itself with."""
    while (request := await peer.request()).opcode != Opcode.SASL_AUTH:
        peer.say(answer(request))
    peer.say(good(request))


def answer(request: Request) -> Any:
    """Return a good answer, whose value is marked as bytes."""
    response = good(request)
    if len(response.extras) == len(FLAGS.to_bytes(4, "big")):
        response.extras = bytes(4)
    return response


async def serve(peer: Peer) -> None:
    """Be well."""
    await log_in(peer)
    while True:
        peer.say(answer(await peer.request()))


async def mute(peer: Peer) -> None:
    """Never answer anything."""
    await peer.gone()


async def stall(peer: Peer) -> None:
    """Go silent in the middle of the first value."""
    await log_in(peer)
    peer.say(answer(await peer.request()).encode()[:-3])
    await peer.gone()


async def flap(peer: Peer) -> None:
    """Let the client in, and end the connection at once."""
    await log_in(peer)
    peer.close()


async def drop(peer: Peer) -> None:
    """Let the client in, and end the connection in the middle of the first value."""
    await log_in(peer)
    peer.say(answer(await peer.request()).encode()[:-3])
    peer.close()


async def babble(peer: Peer) -> None:
    """Answer the first request with what is no answer."""
    await log_in(peer)
    await peer.request()
    peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await peer.gone()


class HostileMemberTests(ClusterTestCase):
    """
    The second of the three follows a script, over TLS.

    Attributes:
        mood: what it does with the connections from now on.
        troubled: the connections with which it did anything but serve.
    """

    mood: Mood

    async def start_cluster(self) -> None:
        """Start two real servers, and the other one."""
        self.troubled: list[Peer] = []
        self.real = await gatherResults([self.start_member(HOSTS[place]) for place in (0, 2)])
        options = certificate(HOSTS[1]).server_options()
        self.hostile = HostileServer(IReactorTime(reactor), self.follow, options)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.hostile.stop()))

    async def follow(self, peer: Peer) -> None:
        if self.mood is not serve:
            self.troubled.append(peer)
        await self.mood(peer)

    def servers(self) -> list[Server]:
        first, third = ("{}:{}".format(*memcached.address) for memcached in self.real)
        addresses = (first, f"127.0.0.1:{self.hostile.port}", third)
        return [Server(n, address=each) for n, each in zip(NAMES, addresses, strict=True)]

    def begin(self, mood: Mood, **options: Any) -> MemcacheClient:
        self.mood = mood
        defaults: dict[str, Any] = {"limits": Limits(timeout=0.5, connect_timeout=0.5)}
        return self.client(**(defaults | options))

    async def timed(self, kind: type[MemcacheError], doing: Deferred[Any], most: float) -> Any:
        """It fails with this error, and within so many seconds."""
        started = time.monotonic()
        error = await self.fails(kind, doing)
        # The machine may be busy, and a hang is longer still.
        self.assertLess(time.monotonic() - started, most + 3)
        return error

    async def assert_recovers(self, client: MemcacheClient) -> None:
        """All connections of before are given up; once well, the server is used again."""
        self.mood, before = serve, self.troubled
        key = key_on(client, 1)
        value = None
        while value is None:
            try:
                value = await client.get(key)
            except (NodeDown, ConnectionClosed, RequestTimeout) as error:
                self.witness.examine(error)
                await pause(0.02)
        self.assertEqual(value, value_of(key.encode()))
        await until(lambda: all(peer.lost for peer in before))
        self.assertEqual([node.pending for node in client.nodes()], [0, 0, 0])
        self.assertEqual([node.state for node in client.nodes()], [NodeState.UP] * 3)
        self.assertEqual([peer.complaints for peer in self.hostile.peers if peer.complaints], [])
        await self.assert_serves(client, 0, 2)

    async def test_mute(self) -> None:
        """A server that accepts and never answers is given up, and its keys fail at once."""
        client = self.begin(mute)
        key = key_on(client, 1)
        await self.timed(RequestTimeout, client.get(key, timeout=0.2), 0.2)
        await self.assert_serves(client, 0, 2)
        await self.down(client)
        started = time.monotonic()
        down = await self.fails(NodeDown, client.set(key, "value"))
        self.assertIs(type(down.cause), ConnectTimedOut)
        keys = [key_on(client, place) for place in range(3)]
        partial = await self.fails(PartialResult, client.get_multi(keys))
        self.assertEqual(list(partial.errors), [NAMES[1]])
        self.assertEqual(partial.found, {keys[0]: f"{keys[0]} at 0", keys[2]: f"{keys[2]} at 2"})
        self.assertLess(time.monotonic() - started, 3)
        await pause(1)
        # Two to begin with, half a second each; then what the back-off and one waking allow.
        self.assertIn(len(self.hostile.peers), range(2, 6))
        self.assertEqual(len(self.told_of(1)), 1, self.told_of(1))
        await self.assert_recovers(client)

    async def test_stall(self) -> None:
        """Silence in the middle of a value ends with the deadline, and then the connection."""
        client = self.begin(stall, routing=Routing(retry=False))
        await client.when_ready()
        first, second = (key for key, _ in zip(keys_on(client, 1), range(2), strict=False))
        getting = client.get(first)
        # It would wait longer than a connection may be silent.
        waiting = client.get(second, timeout=30)
        error = await self.timed(RequestTimeout, getting, 0.5)
        self.assertEqual((error.sent, error.timeout), (True, 0.5))
        silent = await self.timed(ServerSilent, waiting, 0.5)
        self.assertTrue(silent.sent)
        await self.hostile.peers[0].gone()
        self.assertEqual(client.nodes()[1].pending, 0)
        self.assertEqual([type(client.nodes()[place].error) for place in (0, 2)], [type(None)] * 2)
        await self.assert_recovers(client)

    async def test_stall_again(self) -> None:
        """If it does so again and again, it is given up as a whole."""
        client = self.begin(stall, routing=Routing(retry=False, eject_after=3))
        await client.when_ready()
        key = key_on(client, 1)
        kinds = set()
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            try:
                await client.get(key)
            except MemcacheError as error:
                kinds.add(type(error))
            await self.assert_serves(client, 0, 2)
            await pause(0.02)
        self.assertLessEqual(kinds, {RequestTimeout, ServerSilent, ConnectionClosed, NodeDown})
        self.assertIn(RequestTimeout, kinds)
        self.assertLessEqual(len(self.hostile.peers), 8)
        await self.assert_recovers(client)

    async def test_flap(self) -> None:
        """One that lets us in and drops us is dialled less and less often."""
        client = self.begin(flap)
        await client.when_ready(2)
        await until(lambda: len(self.hostile.peers) >= 2)
        await pause(2)
        # At once, at once, and then with pauses of 0.05, 0.1, 0.2, 0.4 … at the least.
        self.assertLessEqual(len(self.hostile.peers), 9)
        await self.assert_serves(client, 0, 2)
        await self.assert_recovers(client)

    async def test_flap_asked(self) -> None:
        """Nor do calls for its keys make that a storm; each fails in time, by its class."""
        client = self.begin(flap)
        key = key_on(client, 1)
        end, kinds = time.monotonic() + 2.5, set()
        while time.monotonic() < end:
            for doing in (client.get(key), client.set(key, "value")):
                try:
                    await doing
                except MemcacheError as error:
                    kinds.add(type(error))
            await self.assert_serves(client, 0, 2)
            await pause(0.02)
        self.assertLessEqual(kinds, {ConnectionClosed, RequestTimeout, NodeDown})
        self.assertTrue(kinds)
        self.assertLessEqual(len(self.hostile.peers), 12)
        await self.assert_recovers(client)

    async def test_drop(self) -> None:
        """Half a value is no value: the call fails, and says that the server saw it."""
        client = self.begin(drop, routing=Routing(retry=False))
        await client.when_ready()
        error = await self.timed(ConnectionClosed, client.get(key_on(client, 1)), 0.5)
        self.assertTrue(error.sent)
        self.assertIn("inside an answer", str(error))
        await self.assert_recovers(client)

    async def test_retry(self) -> None:
        """A get whose connection is lost is asked once more, and the caller never knows."""
        client = self.begin(drop)
        await client.when_ready()
        key = key_on(client, 1)
        self.mood = serve
        self.assertEqual(await client.get(key), value_of(key.encode()))
        self.assertEqual(len(self.hostile.peers), 2)
        await self.assert_recovers(client)

    async def test_babble(self) -> None:
        """What is no answer ends the connection, by its class, and the server is used again."""
        client = self.begin(babble, routing=Routing(retry=False))
        await client.when_ready()
        await self.timed(RemoteProtocolError, client.get(key_on(client, 1)), 0.5)
        await self.hostile.peers[0].gone()
        await self.assert_recovers(client)
