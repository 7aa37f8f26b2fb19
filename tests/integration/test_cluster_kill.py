"""A client of three real servers, one of which is killed or frozen, under a load or not."""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from itertools import islice

from twisted.internet.defer import Deferred

from tests.integration.cluster import (
    NAMES,
    ClusterTestCase,
    key_on,
    keys_on,
    pause,
    until,
)
from tests.integration.load import Load
from txtlsmc.cluster.node import NodeState
from txtlsmc.errors import (
    ConnectFailed,
    ConnectionClosed,
    ConnectRefused,
    ConnectTimedOut,
    MemcacheError,
    NodeDown,
    RequestTimeout,
    TLSFailed,
)
from txtlsmc.routing import Backoff
from txtlsmc.settings import Limits, Routing

#: For each operation, the classes of errors that it may fail with.
Expected = Mapping[str, Set[type[MemcacheError]]]
#: What a server in the middle of being killed does to whoever dials it.
GONE = {ConnectRefused, ConnectFailed, TLSFailed}


class KillTests(ClusterTestCase):
    """One server is killed and started again."""

    async def assert_survives(self, on_failure: str, expected: Expected) -> None:
        """
        Kill and restart the second server under a load.

        Args:
            on_failure: the setting.
            expected: what a call may fail with, if it is for a key of that server.
        """
        client = self.client(routing=Routing(on_failure=on_failure))  # type: ignore[arg-type]  # one of them
        await client.when_ready()
        keys = [key for place in range(3) for key in islice(keys_on(client, place), 4)]
        load = Load(client, keys)
        load.start()
        self.addCleanup(load.stop)
        await load.served(0, 1, 2)
        self.assertEqual(load.failures, [])

        load.forgetful.add(1)
        await self.cluster[1].kill()
        await self.down(client)
        await load.served(0, 2, rounds=100)
        if on_failure == "rehash":
            await load.served(1)

        await self.cluster[1].restart()
        started = time.monotonic()
        await self.up(client)
        took = time.monotonic() - started
        await load.served(0, 1, 2)
        await load.stop()

        self.assertLess(took, 3, "a call wakes the server at most a second later")
        self.assertEqual(load.wrong, [])
        self.assertLessEqual({failed.place for failed in load.failures}, {1})
        for operation, kinds in expected.items():
            failed = [each.error for each in load.failures if each.operation == operation]
            self.assertLessEqual({type(error) for error in failed}, kinds, operation)
        for _, _, error in load.failures:
            if isinstance(error, NodeDown):
                self.assertEqual(error.node, NAMES[1])
                self.assertIn(type(error.cause), GONE)
            else:
                assert isinstance(error, ConnectionClosed)
                self.assertTrue(error.sent, error)
        self.assertEqual([node.pending for node in client.nodes()], [0, 0, 0])
        self.assertEqual([node.error for node in client.nodes()], [None, None, None])
        self.assertEqual(self.told_of(0) + self.told_of(2), [])
        self.assertLessEqual(len(self.told_of(1)), 4, self.told_of(1))
        self.assertIn("ready again", self.told_of(1)[-1])

    def test_fail(self) -> Deferred[None]:
        """Killed under a load, a server costs errors for its own keys only, and comes back."""
        expected: Expected = {
            "set": {ConnectionClosed, NodeDown},
            "get": {NodeDown},  # once more, where the connection was lost
            "get_multi": {NodeDown},
        }
        return Deferred.fromCoroutine(self.assert_survives("fail", expected))

    def test_miss(self) -> Deferred[None]:
        """If it is set so, reads from the dead server are misses, and writes fail."""
        expected: Expected = {"set": {ConnectionClosed, NodeDown}, "get": set(), "get_multi": set()}
        return Deferred.fromCoroutine(self.assert_survives("miss", expected))

    def test_rehash(self) -> Deferred[None]:
        """If it is set so, the other servers take over its keys until it is back."""
        expected: Expected = {
            "set": {ConnectionClosed, NodeDown},
            "get": {NodeDown},
            "get_multi": {NodeDown},
        }
        return Deferred.fromCoroutine(self.assert_survives("rehash", expected))

    async def test_woken(self) -> None:
        """A call has a server dialled that would not be dialled for long, once a second."""
        rare = Backoff(first=40, longest=40)
        client = self.client(routing=Routing(backoff=rare))
        await client.when_ready()
        await self.cluster[1].kill()
        key = key_on(client, 1)
        await until(lambda: client.nodes()[1].error is not None)
        while self.state(client) is not NodeState.DOWN:
            await self.fails(NodeDown, client.get(key))
        await self.cluster[1].restart()
        started, back = time.monotonic(), False
        while not back:
            try:
                back = await client.set(key, "value")
            except MemcacheError as error:
                self.assertIs(type(error), NodeDown)
            await pause(0.02)
        self.assertLess(time.monotonic() - started, 10)

    async def test_alone(self) -> None:
        """A server that nobody asks for anything is dialled until it is back, all the same."""
        client = self.client()
        await client.when_ready()
        await self.cluster[1].kill()
        await self.down(client)
        error = client.nodes()[1].error
        assert error is not None
        self.assertIn(type(error), GONE)
        await self.cluster[1].restart()
        await self.up(client)
        await self.assert_serves(client, 0, 1, 2)

    async def test_frozen(self) -> None:
        """A server that is frozen is given up in time, and used again once it goes on."""
        client = self.client(limits=Limits(timeout=0.5, connect_timeout=0.5))
        await client.when_ready()
        key = key_on(client, 1)
        self.cluster[1].pause()
        self.addCleanup(self.cluster[1].resume)
        started = time.monotonic()
        error = await self.fails(RequestTimeout, client.set(key, "value"))
        self.assertTrue(error.sent)
        self.assertLess(time.monotonic() - started, 5)
        await self.down(client)
        self.assertIs(type(client.nodes()[1].error), ConnectTimedOut)
        self.assertEqual(client.nodes()[1].pending, 0)
        down = await self.fails(NodeDown, client.get(key))
        self.assertIs(type(down.cause), ConnectTimedOut)
        await self.assert_serves(client, 0, 2)
        self.cluster[1].resume()
        await self.up(client)
        await self.assert_serves(client, 0, 1, 2)
