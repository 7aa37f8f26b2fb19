"""A client of three real servers: whose keys are where, and much at once."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest

from tests.integration.cluster import (
    HOSTS,
    NAMES,
    ClusterTestCase,
    free_port,
    key_on,
)
from txtlsmc.client import MemcacheClient
from txtlsmc.cluster.node import NodeState
from txtlsmc.errors import MemcacheError, PartialResult, ValueTooLarge
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import SCHEMES, Routing, Server

E = TypeVar("E", bound=MemcacheError)

MANY = 10_000
#: A value of this size fits into a mebibyte with its key and header; of a mebibyte, it does not.
FITTING = 1_048_000
MIB = 2**20

#: pylibmc's words for our schemes.
BEHAVIORS: dict[str, dict[str, object]] = {
    "modula": {},
    "modula_md5": {"hash": "md5"},
    "ketama": {"ketama": True},
    "ketama_md5": {"ketama": True, "hash": "md5"},
    "ketama_weighted": {"ketama_weighted": True},
}


async def largest_taken(server: MemcacheProtocol, key: str) -> int:
    """Return the size of the largest value that *server* takes under *key*, found by trying."""

    async def takes(size: int) -> bool:
        try:
            return await server.set(key, bytes(size))
        except ValueTooLarge:
            return False

    taken, refused = FITTING, MIB
    while refused - taken > 1:
        middle = (taken + refused) // 2
        taken, refused = (middle, refused) if await takes(middle) else (taken, middle)
    return taken


class WellTestCase(ClusterTestCase):
    """Servers that are well, and stay so."""

    async def start(self, **options: Any) -> MemcacheClient:
        client = self.client(**options)
        await client.when_ready()
        return client

    def assert_quiet(self, client: MemcacheClient) -> None:
        """Nothing is left of what was asked, and all servers are well."""
        for node in client.nodes():
            self.assertEqual((node.state, node.pending, node.error), (NodeState.UP, 0, None))


class ManyTests(WellTestCase):
    """Many keys, and large values, over TLS and SASL."""

    async def test_names(self) -> None:
        """A key lies on the server that the ring says, by the name and not by where it is."""
        client = await self.start()
        keys = [f"key-{number}" for number in range(300)]
        self.assertEqual(await client.set_multi({key: f"value of {key}" for key in keys}), [])
        servers = [await self.direct(place) for place in range(3)]
        found = await gatherResults([server.get_multi(keys) for server in servers])
        for key in keys:
            holders = [place for place, items in enumerate(found) if key in items]
            pick = client.node_for(key)
            self.assertEqual(holders, [pick.place], key)
            self.assertEqual(pick.server.name, NAMES[pick.place])
            self.assertEqual(found[pick.place][key].value, f"value of {key}".encode())
        self.assertTrue(all(found))

    async def test_gets(self) -> None:
        """Ten thousand gets at once are each answered with what was stored under their key."""
        client = await self.start()
        stored = {f"key-{number}": f"value {number}" for number in range(MANY)}
        self.assertEqual(await client.set_multi(stored), [])
        values = await gatherResults([client.get(key) for key in stored])
        self.assertEqual(values, list(stored.values()))
        self.assert_quiet(client)

    async def test_gets_before_ready(self) -> None:
        """Ten thousand calls before there is any connection wait for it, and are all done."""
        client = self.client()
        keys = [f"key-{number}" for number in range(MANY)]
        stored = await gatherResults([client.set(key, number) for number, key in enumerate(keys)])
        self.assertEqual(set(stored), {True})
        self.assertEqual(await gatherResults([client.get(key) for key in keys]), list(range(MANY)))
        self.assert_quiet(client)

    async def test_multi(self) -> None:
        """Ten thousand keys in one call are one round trip to each server, misses and all."""
        client = await self.start()
        keys = [f"key-{number}" for number in range(MANY)]
        stored = {key: f"value of {key}" for key in keys[::2]}
        self.assertEqual(await client.set_multi(stored), [])
        self.assertEqual(await client.get_multi(keys), stored)
        versions = await client.gets_multi(keys)
        self.assertEqual({key: item.value for key, item in versions.items()}, stored)
        counted = await client.stats()
        self.assertEqual(set(counted), set(NAMES))
        self.assertEqual(sum(int(each["cmd_get"]) for each in counted.values()), 2 * MANY)
        undone = await client.delete_multi(keys)
        self.assertEqual(sorted(undone), sorted(keys[1::2]))
        self.assertEqual(await client.get_multi(keys), {})
        self.assert_quiet(client)

    async def test_connections(self) -> None:
        """With several connections to each server, every call for a key sees the one before."""
        client = await self.start(routing=Routing(connections=3))
        keys = [f"key-{number}" for number in range(1000)]
        doing: list[Deferred[Any]] = []
        for key in keys:
            doing += [client.set(key, b"old"), client.set(key, key.encode()), client.get(key)]
        done = await gatherResults(doing)
        self.assertEqual(done[2::3], [key.encode() for key in keys])
        self.assertEqual([node.connections for node in client.nodes()], [3, 3, 3])
        self.assert_quiet(client)

    async def test_largest(self) -> None:
        """The largest value that a server takes passes; one byte more is refused by its class."""
        client = await self.start(codec="raw")
        for place in range(3):
            key = key_on(client, place)
            size = await largest_taken(await self.direct(place), key)
            self.assertGreater(size, FITTING)
            largest = (bytes(range(251)) * (size // 251 + 1))[:size]
            self.assertIs(await client.set(key, largest), True)
            self.assertEqual(await client.get(key), largest)
            await self.fails(ValueTooLarge, client.set(key, largest + b"+"))
            # By the server's rule what was there is gone, and the connection is not.
            self.assertIsNone(await client.get(key))
        self.assert_quiet(client)

    async def test_largest_of_many(self) -> None:
        """Of many values one that is too large fails alone, and the call says which server."""
        client = await self.start(codec="raw")
        keys = [key_on(client, place) for place in range(3)]
        values = dict.fromkeys(keys, b"small") | {keys[1]: bytes(MIB)}
        error = await self.fails(PartialResult, client.set_multi(values))
        self.assertEqual(error.found, {keys[0]: True, keys[2]: True})
        kinds = {name: type(each) for name, each in error.errors.items()}
        self.assertEqual(kinds, {NAMES[1]: ValueTooLarge})
        self.assertEqual(await client.get_multi(keys), {keys[0]: b"small", keys[2]: b"small"})
        self.assert_quiet(client)


class LargeItemTests(WellTestCase):
    """Servers whose largest item is 2 MiB (``-I 2m``)."""

    async def start_cluster(self) -> None:
        self.cluster = await gatherResults(
            [self.start_member(host, arguments=("-I", "2m")) for host in HOSTS]
        )

    async def test_mebibyte(self) -> None:
        """Servers that are set so take a value of a mebibyte and more, alone and among others."""
        client = await self.start(codec="raw")
        values = {
            key_on(client, place): bytes([place]) * (MIB + 1000 * place) for place in range(3)
        }
        for key, value in values.items():
            self.assertIs(await client.set(key, value), True)
            self.assertEqual(await client.get(key), value)
        self.assertEqual(await client.set_multi(values), [])
        self.assertEqual(await client.get_multi(values), values)
        await self.fails(ValueTooLarge, client.set("key", bytes(2 * MIB)))
        self.assert_quiet(client)


class PylibmcTests(ClusterTestCase):
    """
    pylibmc, which has no TLS, on the plain twins of the servers.

    A twin is a second port of the same process, so whatever the one stores the other has.  Both
    clients know a server by the twin's address; ours dials the port with TLS instead.  There is no
    SASL: pylibmc's wheels do not find the system's plugins.
    """

    async def start_cluster(self) -> None:
        try:
            self.pylibmc: Any = importlib.import_module("pylibmc")
        except ImportError:
            raise SkipTest("pylibmc is not installed (pip install pylibmc)") from None
        self.twins = [free_port(self) for _ in HOSTS]
        self.cluster = await gatherResults(
            [
                self.start_member(
                    "127.0.0.1", sasl=None, arguments=("-l", f"notls:127.0.0.1:{port}")
                )
                for port in self.twins
            ]
        )

    def servers(self) -> list[Server]:
        return [
            Server(f"127.0.0.1:{port}", address="{}:{}".format(*memcached.address))
            for port, memcached in zip(self.twins, self.cluster, strict=True)
        ]

    def theirs(self, behaviors: dict[str, object], weights: tuple[int, ...]) -> Any:
        names = [f"127.0.0.1:{port}:{w}" for port, w in zip(self.twins, weights, strict=True)]
        return self.pylibmc.Client(names, binary=True, behaviors=behaviors)

    async def assert_agrees(self, scheme: str, weights: tuple[int, ...] = (1, 1, 1)) -> None:
        servers = [
            Server(server.name, address=server.address, weight=weight)
            for server, weight in zip(self.servers(), weights, strict=True)
        ]
        ours = self.client(servers=servers, credentials=None, routing=Routing(scheme=scheme))
        await ours.when_ready()
        theirs = self.theirs(BEHAVIORS[scheme], weights)
        keys = [f"{scheme}-{weights}-{number}".replace(" ", "") for number in range(200)]

        # They write, one by one; we read, one by one and all at once.
        written = {f"their-{key}": f"value of {key}" for key in keys}

        def write() -> list[bool]:
            return [theirs.set(key, value) for key, value in written.items()]

        self.assertEqual(set(await deferToThread(write)), {True})
        read = await gatherResults([ours.get(key) for key in written])
        self.assertEqual(read, list(written.values()))
        self.assertEqual(await ours.get_multi(written), written)

        # And back.
        written = {f"our-{key}": f"value of {key}" for key in keys}
        self.assertEqual(await ours.set_multi(dict(list(written.items())[::2])), [])
        for key, value in list(written.items())[1::2]:
            self.assertIs(await ours.set(key, value), True)
        back = await deferToThread(lambda: [theirs.get(key) for key in written])
        self.assertEqual(back, list(written.values()))
        self.assertEqual(await deferToThread(theirs.get_multi, list(written)), written)

        # Agreeing is worth something only where keys are on all three.
        spread = Counter(ours.node_for(key).place for key in written)
        self.assertEqual(len(spread), 3, spread)
        await deferToThread(theirs.disconnect_all)

    async def test_schemes(self) -> None:
        """What pylibmc writes we read, and the other way round, whichever scheme both have."""
        self.assertEqual(set(BEHAVIORS), set(SCHEMES))
        for scheme in SCHEMES:
            await self.assert_agrees(scheme)

    async def test_weights(self) -> None:
        """So it is with servers of different weights."""
        for scheme in ("ketama", "ketama_weighted"):
            await self.assert_agrees(scheme, (1, 4, 2))

    async def test_namespace(self) -> None:
        """A namespace moves no key, unless it is set to be hashed as pylibmc's prefixes are."""
        theirs = self.theirs(BEHAVIORS["ketama"], (1, 1, 1))
        stored = {f"key-{number}": f"value {number}" for number in range(100)}
        ours = self.client(namespace="app:", credentials=None)
        for key in stored:
            self.assertEqual(ours.node_for(key).place, theirs.hash(key))
        hashing = Routing(hash_namespace=True)
        ours = self.client(namespace="app:", credentials=None, routing=hashing)
        self.assertEqual(await ours.set_multi(stored), [])
        found = await deferToThread(theirs.get_multi, list(stored), "app:")
        self.assertEqual(found, stored)
        await deferToThread(theirs.disconnect_all)
