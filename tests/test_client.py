"""Tests of `txtlsmc.client`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from math import inf, nan
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.cluster.fakes import NOW, Dials, Line, World, outcome
from tests.net.fakes import answer, hit, miss
from tests.secrecy import USER, credentials, password
from txtlsmc.client import Item, MemcacheClient
from txtlsmc.cluster.factory import MemcacheClientFactory
from txtlsmc.cluster.node import NodeState
from txtlsmc.errors import (
    CodecError,
    ConnectionClosed,
    ConnectRefused,
    InvalidArgument,
    InvalidKey,
    InvalidSetting,
    MemcacheError,
    NodeDown,
    NonNumericValue,
    NotPermitted,
    PartialResult,
    RemoteProtocolError,
    RequestTimeout,
    ValueTooLarge,
    WrongProcess,
)
from txtlsmc.net.endpoints import ReadyEndpoint
from txtlsmc.routing import Routing
from txtlsmc.settings import TLS, InsecurePlaintext, Limits, Server
from txtlsmc.testing import Authority, MemoryServer
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode

NAMES = ("a:1", "b:1", "c:1")
DAY = 24 * 60 * 60


class MemoryClientTests(SynchronousTestCase):
    """A client of three embedded servers, in memory."""

    def setUp(self) -> None:
        self.world = World()
        self.clients: list[MemcacheClient] = []
        self.servers = {
            name: MemoryServer(
                self.world.clock,
                wall_clock=lambda: NOW + self.world.clock.seconds(),
                max_item=4096,
                version="1.6." + name[0],
            )
            for name in NAMES
        }
        self.client = self.make()

    def make(self, routing: Routing | None = None, **settings: Any) -> MemcacheClient:
        """Make a client of these servers."""
        world = self.world

        def endpoint(server: Server) -> IStreamClientEndpoint:
            dial = self.servers[server.name].endpoint()
            return ReadyEndpoint(world.clock, server, tls=InsecurePlaintext(), dial=dial)

        factory = MemcacheClientFactory(
            world.clock,
            [Server(name) for name in NAMES],
            routing=routing,
            endpoint=endpoint,
            jitter=lambda: 1.0,
            monotonic=world.monotonic,
            wall_clock=lambda: NOW,
        )
        client = MemcacheClient(
            world.clock, NAMES, factory=factory, wall_clock=lambda: NOW, **settings
        )
        self.clients.append(client)
        return client

    def tearDown(self) -> None:
        closed = [outcome(client.close()) for client in self.clients]
        stopped = [outcome(server.stop()) for server in self.servers.values()]
        self.world.settle()
        self.assertEqual([*closed, *stopped], [[None]] * len([*closed, *stopped]))
        self.assertEqual(self.world.delayed(), [])

    def result(self, done: Deferred[Any]) -> Any:
        """Return what *done* fires with, or raise what it fails with."""
        got = outcome(done)
        self.world.settle()
        (result,) = got
        if isinstance(result, BaseException):
            raise result
        return result

    def failure(self, done: Deferred[Any], kind: type[BaseException]) -> Any:
        """Return what *done* fails with, which is of *kind*."""
        with self.assertRaises(kind) as caught:
            self.result(done)
        return caught.exception

    def spread(self, client: MemcacheClient | None = None, count: int = 30) -> list[str]:
        """Return keys of which every server has some."""
        keys = [f"key{number}" for number in range(count)]
        nodes = {(client or self.client).node_for(key).server.name for key in keys}
        self.assertEqual(nodes, set(NAMES))
        return keys

    def keys_at(self, name: str, count: int = 1) -> list[str]:
        """Return keys that the ring gives to a server."""
        keys = (f"key{number}" for number in range(1000))
        mine = (key for key in keys if self.client.node_for(key).server.name == name)
        return [next(mine) for _ in range(count)]

    def stop(self, name: str) -> None:
        """Stop a server, until its node is down."""
        self.result(self.servers[name].stop())
        for _ in range(20):
            self.world.advance(0.05)
            self.world.settle()


class OneKeyTests(MemoryClientTests):
    def test_get(self) -> None:
        """A get fires with the value, with None on a miss, or with the default."""
        client = self.client
        self.assertIs(self.result(client.set("key", "välue")), True)
        self.assertEqual(self.result(client.get("key")), "välue")
        self.assertEqual(self.result(client.get(b"key")), "välue")
        self.assertIsNone(self.result(client.get("other")))
        self.assertEqual(self.result(client.get("other", 7)), 7)

    def test_values(self) -> None:
        """Values come back as what they were."""
        for value in (b"\x00\xff", "text", 7, -7, True, False, b"", ""):
            self.result(self.client.set("key", value))
            got = self.result(self.client.get("key"))
            self.assertEqual((got, type(got)), (value, type(value)))

    def test_gets_and_cas(self) -> None:
        """A gets fires with the value and its version, by which cas tells a change."""
        client = self.client
        self.assertIsNone(self.result(client.gets("key")))
        self.result(client.set("key", 1))
        item = self.result(client.gets("key"))
        self.assertIsInstance(item, Item)
        self.assertEqual(item.value, 1)
        self.assertIs(self.result(client.cas("key", 2, item.cas)), True)
        self.assertIs(self.result(client.cas("key", 3, item.cas)), False)
        self.assertIs(self.result(client.cas("gone", 3, item.cas)), False)
        self.assertEqual(self.result(client.get("key")), 2)

    def test_conditions(self) -> None:
        """A condition that does not hold is False, and one that does is True."""
        client = self.client
        self.assertIs(self.result(client.replace("key", "0")), False)
        self.assertIs(self.result(client.append("key", b"0")), False)
        self.assertIs(self.result(client.prepend("key", b"0")), False)
        self.assertIs(self.result(client.touch("key", 9)), False)
        self.assertIs(self.result(client.delete("key")), False)
        self.assertIs(self.result(client.add("key", "one")), True)
        self.assertIs(self.result(client.add("key", "two")), False)
        self.assertIs(self.result(client.append("key", b">")), True)
        self.assertIs(self.result(client.prepend("key", b"<")), True)
        self.assertEqual(self.result(client.get("key")), "<one>")
        self.assertIs(self.result(client.replace("key", "three")), True)
        self.assertEqual(self.result(client.get("key")), "three")
        self.assertIs(self.result(client.delete("key")), True)
        self.assertIsNone(self.result(client.get("key")))

    def test_incr(self) -> None:
        """incr and decr fire with the new number, or with None where there is none."""
        client = self.client
        self.assertIsNone(self.result(client.incr("n")))
        self.assertIsNone(self.result(client.decr("n")))
        self.assertEqual(self.result(client.incr("n", 5, 40)), 40)
        self.assertEqual(self.result(client.incr("n", 5, 40)), 45)
        self.assertEqual(self.result(client.decr("n", 3)), 42)
        self.assertEqual(self.result(client.decr("m", initial=0)), 0)
        self.result(client.set("n", 7))
        self.assertEqual(self.result(client.incr("n")), 8)
        self.result(client.set("n", "text"))
        self.failure(client.incr("n"), NonNumericValue)

    def test_server_errors(self) -> None:
        """What the server refuses fails by the class of its status, and the server is well."""
        self.failure(self.client.set("key", b"x" * 5000), ValueTooLarge)
        self.assertEqual({health.failures for health in self.client.nodes()}, {0})

    def test_keys(self) -> None:
        """A key that can not be is an error at once, and nothing is sent."""
        client = self.client
        wrong: Any
        for wrong in ("", "a b", "a\n", "x" * 251, 7, None):
            for call in (
                client.get,
                client.gets,
                client.delete,
                client.incr,
                client.decr,
                client.node_for,
                lambda key: client.gat(key, 1),
                lambda key: client.touch(key, 1),
                lambda key: client.set(key, 1),
                lambda key: client.add(key, 1),
                lambda key: client.replace(key, 1),
                lambda key: client.cas(key, 1, 1),
                lambda key: client.append(key, b""),
                lambda key: client.prepend(key, b""),
                lambda key: client.get_multi(["good", key]),
                lambda key: client.gets_multi(["good", key]),
                lambda key: client.delete_multi(["good", key]),
                lambda key: client.set_multi({"good": 1, key: 2}),
            ):
                with self.assertRaises(InvalidKey):
                    call(wrong)
        self.world.settle()
        self.assertEqual([server.connections for server in self.servers.values()], [0, 0, 0])

    def test_values_that_can_not_be(self) -> None:
        """A value that the codec does not take is an error at once."""
        for call in (self.client.set, self.client.add, self.client.replace):
            with self.assertRaises(CodecError):
                call("key", object())
        with self.assertRaises(CodecError):
            self.client.cas("key", object(), 1)
        with self.assertRaises(CodecError):
            self.client.set_multi({"good": 1, "key": object()})
        text: Any = "text"
        with self.assertRaises(InvalidArgument):
            self.client.append("key", text)

    def test_timeouts_that_can_not_be(self) -> None:
        """A timeout that can not be is an error at once, connected or not."""
        wrong: Any
        for _ in range(2):
            for wrong in (0, -1, nan, "2"):
                with self.assertRaises(InvalidArgument):
                    self.client.get("key", timeout=wrong)
                with self.assertRaises(InvalidArgument):
                    self.client.get_multi(["key"], timeout=wrong)
                with self.assertRaises(InvalidArgument):
                    self.client.noop(timeout=wrong)
            self.result(self.client.when_ready())
        self.assertIsNone(self.result(self.client.get("key", timeout=inf)))


class CodecTests(MemoryClientTests):
    def test_unreadable(self) -> None:
        """What another codec marked fails when it is read, and the connection lives."""
        self.result(self.client.set("key", 7))
        raw = self.make(codec="raw")
        self.result(raw.set("pickle", b"\x80\x04N."))
        other = self.make(codec=Failing())
        error = self.failure(other.get("key"), CodecError)
        self.assertEqual((error.codec, error.reason), ("failing", "it failed with KeyError"))
        self.failure(other.gets("key"), CodecError)
        error = self.failure(other.get_multi(["key"]), PartialResult)
        self.assertEqual(error.found, {})
        self.assertIsInstance(next(iter(error.errors.values())), CodecError)
        self.assertEqual(self.result(other.get("missing", 1)), 1)
        self.assertEqual({health.failures for health in other.nodes()}, {0})

    def test_neighbours(self) -> None:
        """A codec that breaks does so for its own value only."""
        client = self.make(codec=Failing(b"bad"))
        (good, bad) = self.keys_at("a:1", 2)
        self.result(client.set(bad, b"bad"))
        self.result(client.set(good, b"good"))
        first, second = outcome(client.get(bad)), outcome(client.get(good))
        self.world.settle()
        self.assertIsInstance(first[0], CodecError)
        self.assertEqual(second, [b"good"])

    def test_partial_is_no_miss(self) -> None:
        """With partial="return" a value that can not be read still is an error and no miss."""
        client = self.make(Routing(partial="return"), codec=Failing(b"bad"))
        self.result(client.set_multi({"good": b"good", "bad": b"bad"}))
        error = self.failure(client.get_multi(["good", "bad", "none"]), PartialResult)
        self.assertEqual(error.found, {"good": b"good"})


class Failing:
    """A codec whose author did not think of everything."""

    name = "failing"

    def __init__(self, bad: bytes | None = None) -> None:
        self._bad = bad

    def encode(self, value: object) -> tuple[bytes, int]:
        """Take bytes."""
        assert isinstance(value, bytes)
        return value, 0

    def decode(self, data: bytes, flags: int) -> object:
        """Fail for some."""
        if self._bad is None or data == self._bad:
            raise KeyError("not one of its own errors")
        return data


class NoneCodec(Failing):
    """A codec for which every value is None."""

    def decode(self, data: bytes, flags: int) -> object:
        """Return None."""
        return None


class ExptimeTests(MemoryClientTests):
    def lives(self, exptime: Any, seconds: float) -> bool:
        """Return whether an item with *exptime* is there after so many seconds."""
        self.result(self.client.set("key", 1, exptime=exptime))
        self.world.pass_by(seconds, max(seconds / 4, 0.1))
        self.world.settle()
        return self.result(self.client.get("key")) is not None

    def test_forms(self) -> None:
        """Seconds, a timedelta and a datetime with a time zone mean the same."""
        at = datetime.fromtimestamp(NOW, UTC)
        east = timezone(timedelta(hours=5))
        for form in (100, timedelta(seconds=100)):
            self.assertTrue(self.lives(form, 90))
            self.assertFalse(self.lives(form, 110))
        self.sent(at + timedelta(seconds=100), 100)
        self.sent((at + timedelta(seconds=100)).astimezone(east), 100)

    def sent(self, exptime: Any, expected: int) -> None:
        """Fail unless *exptime* travels as *expected*."""
        self.assertEqual(self.client._exptime(exptime), expected)

    def test_long(self) -> None:
        """A time beyond 30 days is sent as the Unix time that it means."""
        self.sent(30 * DAY, 30 * DAY)
        for form in (
            31 * DAY,
            timedelta(days=31),
            datetime.fromtimestamp(NOW, UTC) + timedelta(days=31),
        ):
            self.sent(form, int(NOW) + 31 * DAY)

    def test_never(self) -> None:
        """0 is never; a timedelta or a datetime that is over is not."""
        self.assertTrue(self.lives(0, 1000))
        at = datetime.fromtimestamp(NOW, UTC)
        for form in (-1, timedelta(0), timedelta(seconds=-5), at, at - timedelta(days=100)):
            self.assertFalse(self.lives(form, 0))

    def test_wrong(self) -> None:
        """What is no time is an error at once; so is a datetime that may mean anything."""
        wrong: Any
        for wrong in (datetime(2030, 1, 1), "7", None, nan, inf, 2**40, timedelta(days=99999)):
            for call in (
                lambda given: self.client.set("key", 1, exptime=given),
                lambda given: self.client.set_multi({"key": 1}, exptime=given),
                lambda given: self.client.touch("key", given),
                lambda given: self.client.gat("key", given),
                lambda given: self.client.incr("key", 1, 1, given),
            ):
                with self.assertRaises(InvalidArgument):
                    call(wrong)
        with self.assertRaisesRegex(InvalidArgument, "time zone"):
            self.client.touch("key", datetime(2030, 1, 1))

    def test_gat_and_touch(self) -> None:
        """gat and touch give an item a new expiry time."""
        client = self.client
        self.assertEqual(self.result(client.gat("key", 9, "default")), "default")
        self.result(client.set("key", "value"))
        self.assertEqual(self.result(client.gat("key", timedelta(seconds=50))), "value")
        self.world.pass_by(40, 10)
        self.assertIs(self.result(client.touch("key", 50)), True)
        self.world.pass_by(40, 10)
        self.assertEqual(self.result(client.get("key")), "value")
        self.world.pass_by(20, 10)
        self.assertIsNone(self.result(client.get("key")))


class NamespaceTests(MemoryClientTests):
    def test_on_the_wire(self) -> None:
        """The namespace goes before each key: another client finds the items under the long one."""
        client = self.make(Routing(hash_namespace=True), namespace="ns:")
        for number in range(20):
            self.result(client.set(f"key{number}", number))
            # The ring of this one looks at the whole, and so does the other.
            self.assertEqual(self.result(self.client.get(f"ns:key{number}")), number)

    def test_not_in_the_ring(self) -> None:
        """By default the ring does not look at the namespace."""
        client = self.make(namespace=b"ns:")
        keys = self.spread()
        for key in keys:
            self.assertEqual(client.node_for(key), self.client.node_for(key))
        self.result(client.set_multi(dict.fromkeys(keys, 1)))
        self.assertEqual(self.result(client.get_multi(keys)), dict.fromkeys(keys, 1))
        self.assertEqual(self.result(self.client.get_multi(keys)), {})

    def test_in_the_ring(self) -> None:
        """By setting it does."""
        client = self.make(Routing(hash_namespace=True), namespace=b"ns:")
        for key in self.spread():
            self.assertEqual(client.node_for(key), self.client.node_for(f"ns:{key}"))

    def test_length(self) -> None:
        """The namespace counts towards the length of a key."""
        client = self.make(namespace="n" * 240)
        self.assertIs(self.result(client.set("x" * 10, 1)), True)
        for call in (client.get, client.delete, lambda key: client.get_multi([key])):
            with self.assertRaises(InvalidKey):
                call("x" * 11)

    def test_wrong(self) -> None:
        """A namespace that can not begin a key is an error when the client is made."""
        for wrong in ("a b", b"\0", "x" * 251):
            with self.assertRaisesRegex(InvalidSetting, "namespace"):
                MemcacheClient(
                    self.world.clock, "a:1", namespace=wrong, factory=self.client.factory
                )


class ManyKeysTests(MemoryClientTests):
    def test_get_multi(self) -> None:
        """get_multi fires with what was found, under the keys as they were given."""
        keys = self.spread()
        self.assertEqual(self.result(self.client.set_multi({k: k for k in keys})), [])
        found = self.result(self.client.get_multi([*keys, "missing"]))
        self.assertEqual(found, {key: key for key in keys})
        self.assertEqual(list(found), keys)

    def test_kinds_of_keys(self) -> None:
        """Keys of bytes come back as bytes, also beside the same as text; repeated ones once."""
        self.result(self.client.set("é", 1))
        mixed: Any = ["é", "é".encode(), "é"]
        found = self.result(self.client.get_multi(mixed))
        self.assertEqual(found, {"é": 1, "é".encode(): 1})

    def test_gets_multi(self) -> None:
        """gets_multi has the version of each."""
        keys = self.spread()
        self.result(self.client.set_multi({key: key for key in keys}))
        found = self.result(self.client.gets_multi(iter(keys)))
        self.assertEqual({key: item.value for key, item in found.items()}, {k: k for k in keys})
        key = keys[0]
        self.assertEqual(found[key], self.result(self.client.gets(key)))

    def test_none_is_a_value(self) -> None:
        """A value that a codec reads as None is there; a key that is missing is not."""
        self.result(self.client.set("key", 1))
        client = self.make(codec=NoneCodec())
        self.assertEqual(self.result(client.get_multi(["key", "missing"])), {"key": None})

    def test_delete_multi(self) -> None:
        """delete_multi fires with the keys where there was nothing."""
        keys = self.spread()
        self.result(self.client.set_multi(dict.fromkeys(keys, 1)))
        missing = self.result(self.client.delete_multi([*keys, "x", "y"]))
        self.assertEqual(missing, ["x", "y"])
        self.assertEqual(self.result(self.client.get_multi(keys)), {})

    def test_empty(self) -> None:
        """Without any key there is nothing to do, also when no server is there."""
        for name in NAMES:
            self.stop(name)
        self.assertEqual(self.result(self.client.get_multi([])), {})
        self.assertEqual(self.result(self.client.gets_multi([])), {})
        self.assertEqual(self.result(self.client.set_multi({})), [])
        self.assertEqual(self.result(self.client.delete_multi([])), [])

    def test_one_key_for_many(self) -> None:
        """One key where a collection is wanted is an error, and not taken for its letters."""
        wrong: Any
        for wrong in ("key", b"key"):
            for call in (self.client.get_multi, self.client.delete_multi):
                with self.assertRaises(InvalidArgument):
                    call(wrong)

    def test_refused_value(self) -> None:
        """A value that a server refuses fails the call, which tells what was stored."""
        error = self.failure(
            self.client.set_multi({"small": b"x", "large": b"x" * 5000}), PartialResult
        )
        self.assertEqual(error.found, {"small": True})
        (name,) = error.errors
        self.assertEqual(name, self.client.node_for("large").server.name)
        self.assertIsInstance(error.errors[name], ValueTooLarge)


class EachServerTests(MemoryClientTests):
    def test_results(self) -> None:
        """What every server is asked fires with a dict by server, or with True."""
        client = self.client
        version = {name: "1.6." + name[0] for name in NAMES}
        self.assertEqual(self.result(client.version()), version)
        stats = self.result(client.stats())
        self.assertEqual({name: told["version"] for name, told in stats.items()}, version)
        self.assertEqual(set(self.result(client.stats("settings"))), set(NAMES))
        self.assertIs(self.result(client.noop()), True)

    def test_flush_all(self) -> None:
        """flush_all empties all servers, at once or later."""
        keys = self.spread()
        self.result(self.client.set_multi(dict.fromkeys(keys, 1)))
        self.assertIs(self.result(self.client.flush_all(100)), True)
        self.assertEqual(len(self.result(self.client.get_multi(keys))), len(keys))
        self.assertIs(self.result(self.client.flush_all()), True)
        self.assertEqual(self.result(self.client.get_multi(keys)), {})
        for wrong in (-1, nan):
            with self.assertRaises(InvalidArgument):
                self.client.flush_all(wrong)

    def test_one_down(self) -> None:
        """When a server is down, the call fails and holds what the others said."""
        self.result(self.client.when_ready())
        self.stop("b:1")
        error = self.failure(self.client.version(), PartialResult)
        self.assertEqual(error.found, {"a:1": "1.6.a", "c:1": "1.6.c"})
        self.assertEqual(set(error.errors), {"b:1"})
        self.assertIsInstance(error.errors["b:1"], NodeDown)

    def test_nodes(self) -> None:
        """The client tells the health of each server, and shows itself without secrets."""
        self.result(self.client.when_ready(3))
        states = [(node.server.name, node.state) for node in self.client.nodes()]
        self.assertEqual(states, [(name, NodeState.UP) for name in NAMES])
        self.assertEqual(repr(self.client), "<MemcacheClient a:1,b:1,c:1>")


class DownTests(MemoryClientTests):
    def prepare(self, **routing: Any) -> tuple[MemcacheClient, list[str]]:
        """Return a client, all of whose servers have keys, of which b:1 is then down."""
        self.client = client = self.make(Routing(**routing))
        keys = self.spread()
        self.result(client.set_multi({key: key for key in keys}))
        self.stop("b:1")
        self.assertIs(client.nodes()[1].state, NodeState.DOWN)
        return client, keys

    def alive(self, keys: list[str]) -> dict[str, str]:
        """Return those of the servers that live."""
        return {k: k for k in keys if self.client.node_for(k).server.name != "b:1"}

    def test_fail(self) -> None:
        """By default all calls for the keys of a server that is down fail, and say why."""
        client, keys = self.prepare()
        (key,) = self.keys_at("b:1")
        error = self.failure(client.get(key), NodeDown)
        self.assertEqual(error.node, "b:1")
        self.assertIsInstance(error.cause, ConnectRefused)
        self.failure(client.set(key, 1), NodeDown)
        partial = self.failure(client.get_multi(keys), PartialResult)
        self.assertEqual(partial.found, self.alive(keys))
        self.assertEqual(set(partial.errors), {"b:1"})
        self.assertIsInstance(partial.errors["b:1"], NodeDown)
        self.assertIn("b:1 is down", str(partial))
        partial = self.failure(client.set_multi(dict.fromkeys(keys, 1)), PartialResult)
        self.assertEqual(partial.found, dict.fromkeys(self.alive(keys), True))
        partial = self.failure(client.delete_multi([*self.alive(keys), key, "none"]), PartialResult)
        self.assertIs(partial.found.get("none", False), False)

    def test_return(self) -> None:
        """By setting get_multi returns what it has; writes still fail."""
        client, keys = self.prepare(partial="return")
        self.assertEqual(self.result(client.get_multi(keys)), self.alive(keys))
        self.assertEqual(set(self.result(client.gets_multi(keys))), set(self.alive(keys)))
        self.failure(client.set_multi(dict.fromkeys(keys, 1)), PartialResult)

    def test_return_nothing(self) -> None:
        """An outage of all that were asked never looks like a miss."""
        client, _ = self.prepare(partial="return")
        error = self.failure(client.get_multi(self.keys_at("b:1", 3)), PartialResult)
        self.assertEqual(error.found, {})

    def test_miss(self) -> None:
        """With "miss", reads find nothing, and writes fail."""
        client, keys = self.prepare(on_failure="miss")
        (key,) = self.keys_at("b:1")
        self.assertIsNone(self.result(client.get(key)))
        self.assertEqual(self.result(client.get(key, "default")), "default")
        self.assertIsNone(self.result(client.gets(key)))
        self.assertEqual(self.result(client.gat(key, 9, "default")), "default")
        self.assertEqual(self.result(client.get_multi(keys)), self.alive(keys))
        for write in (
            client.set(key, 1),
            client.add(key, 1),
            client.delete(key),
            client.incr(key),
            client.touch(key, 1),
        ):
            self.failure(write, NodeDown)
        self.failure(client.set_multi({key: 1}), PartialResult)

    def test_rehash(self) -> None:
        """With "rehash" the next server has the keys, until the first is back."""
        client, _ = self.prepare(on_failure="rehash")
        (key,) = self.keys_at("b:1")
        self.assertIsNone(self.result(client.get(key)))
        self.assertIs(self.result(client.set(key, "elsewhere")), True)
        self.assertEqual(self.result(client.get(key)), "elsewhere")
        self.assertEqual(self.result(client.get_multi([key])), {key: "elsewhere"})

    def test_all_down(self) -> None:
        """When all are down, every call fails with NodeDown, whatever the setting but "miss"."""
        client, keys = self.prepare(on_failure="rehash")
        self.stop("a:1")
        self.stop("c:1")
        for key in keys:
            self.failure(client.get(key), NodeDown)
        error = self.failure(client.get_multi(keys), PartialResult)
        self.assertEqual((error.found, set(error.errors)), ({}, set(NAMES)))


class LostTests(SynchronousTestCase):
    """A client of servers that do what the test says."""

    def setUp(self) -> None:
        self.world = World()

    def make(self, servers: int = 1, **routing: Any) -> MemcacheClient:
        """Make a client."""
        self.dials: dict[str, Dials] = {}

        def endpoint(server: Server) -> Dials:
            self.dials[server.name] = Dials(self.world)
            return self.dials[server.name]

        factory = MemcacheClientFactory(
            self.world.clock,
            [Server(name) for name in NAMES[:servers]],
            routing=Routing(**routing),
            endpoint=endpoint,
            jitter=lambda: 1.0,
            monotonic=self.world.monotonic,
        )
        self.client = MemcacheClient(self.world.clock, "a:1", factory=factory)
        return self.client

    def up(self, **routing: Any) -> Line:
        """Make a client of one server, and connect."""
        self.make(**routing).factory.start()
        return self.dials["a:1"].accept()

    def again(self) -> Line:
        """Accept the next attempt."""
        for _ in range(20):
            if self.dials["a:1"].open:
                return self.dials["a:1"].accept()
            self.world.advance(0.05)
        self.fail("no further attempt")

    def key_of(self, name: str) -> str:
        """Return a key that the ring gives to a server."""
        keys = (f"key{number}" for number in range(1000))
        return next(key for key in keys if self.client.node_for(key).server.name == name)

    reads: tuple[Callable[[MemcacheClient], Deferred[Any]], ...] = (
        lambda client: client.get("key"),
        lambda client: client.gets("key"),
        lambda client: client.gat("key", 9),
    )
    writes: tuple[Callable[[MemcacheClient], Deferred[Any]], ...] = (
        lambda client: client.set("key", 1),
        lambda client: client.add("key", 1),
        lambda client: client.replace("key", 1),
        lambda client: client.cas("key", 1, 7),
        lambda client: client.append("key", b"1"),
        lambda client: client.prepend("key", b"1"),
        lambda client: client.incr("key"),
        lambda client: client.decr("key"),
        lambda client: client.delete("key"),
        lambda client: client.touch("key", 9),
    )

    def test_reads_once_more(self) -> None:
        """A read that is lost on the wire is sent once more, and no more than that."""
        for read in self.reads:
            line = self.up()
            got = outcome(read(self.client))
            first = line.request()
            line.lose()
            line = self.again()
            self.assertEqual((got, line.request().opcode), ([], first.opcode))
            line.lose()
            line = self.again()
            self.assertEqual(line.requests(), [])
            (error,) = got
            assert isinstance(error, ConnectionClosed)
            self.assertTrue(error.sent)

    def test_read_answered_the_second_time(self) -> None:
        """The answer to the second request is the result."""
        line = self.up()
        got = outcome(self.client.get("key"))
        line.lose()
        line = self.again()
        line.say(hit(line.request(), b"value"))
        self.assertEqual(got, [b"value"])

    def test_writes_are_sent_once(self) -> None:
        """What may have had its effect is not sent again."""
        for write in self.writes:
            line = self.up()
            got = outcome(write(self.client))
            self.assertEqual(len(line.requests()), 1)
            line.lose()
            line = self.again()
            self.assertEqual(line.requests(), [])
            (error,) = got
            assert isinstance(error, ConnectionClosed)
            self.assertTrue(error.sent)

    def test_unsent_ones_are_repeated(self) -> None:
        """What was not sent yet when the connection ended is sent on the next."""
        for write in self.writes:
            line = self.up()
            outcome(self.client.get("busy"))  # the next is gathered until the end of the turn
            got = outcome(write(self.client))
            self.assertEqual([request.key for request in line.requests()], [b"busy"])
            line.lose()
            line = self.again()
            self.world.advance(0)
            keys = sorted(request.key for request in line.requests())
            self.assertEqual((keys, got), ([b"busy", b"key"], []))

    def test_not_where_it_is_off(self) -> None:
        """By setting nothing is sent twice."""
        line = self.up(retry=False)
        got = outcome(self.client.get("key"))
        many = outcome(self.client.get_multi(["key"]))
        self.world.advance(0)
        line.lose()
        self.assertIsInstance(got[0], ConnectionClosed)
        self.assertIsInstance(many[0], PartialResult)
        self.assertEqual(self.again().requests(), [])

    def test_not_for_other_errors(self) -> None:
        """A refusal, a timeout and a broken protocol are not tried again."""
        line = self.up()
        got = outcome(self.client.get("key"))
        line.say(answer(line.request(), b"no", status=0x20))
        self.assertIsInstance(got[0], NotPermitted)
        got = outcome(self.client.get("key", timeout=0.1))
        line.requests()
        self.world.pass_by(0.2, 0.01)
        self.assertIsInstance(got[0], RequestTimeout)
        got = outcome(self.client.get("key"))
        line.requests()
        line.say(b"\0" * 24)
        self.assertIsInstance(got[0], RemoteProtocolError)
        self.assertEqual(self.again().requests(), [])

    def test_one_deadline_for_both(self) -> None:
        """The second try has the time that the first left."""
        line = self.up()
        got = outcome(self.client.get("key", timeout=1.0))
        self.world.pass_by(0.8)
        line.lose()
        self.again()
        self.world.pass_by(0.1)
        self.assertEqual(got, [])
        self.world.pass_by(0.2)
        self.assertIsInstance(got[0], RequestTimeout)

    def test_multi_reads_once_more(self) -> None:
        """get_multi asks again for what was lost, and only for that."""
        line = self.up()
        got = outcome(self.client.get_multi(["a", "b"]))
        first, _, fence = line.requests()
        self.assertEqual(fence.opcode, Opcode.NOOP)
        line.say(hit(first, b"A"))
        line.lose()
        line = self.again()
        requests = line.requests()
        self.assertEqual([request.key for request in requests], [b"b", b""])
        line.say(hit(requests[0], b"B"), answer(requests[1]))
        self.assertEqual(got, [{"a": b"A", "b": b"B"}])

    def test_multi_reads_twice_at_most(self) -> None:
        """get_multi does not ask a third time, and both tries share one deadline."""
        line = self.up()
        got: list[Any] = outcome(self.client.get_multi(["a"]))
        line.lose()
        line = self.again()
        self.assertEqual(len(line.requests()), 2)
        line.lose()
        self.assertEqual(self.again().requests(), [])
        self.assertIsInstance(got[0].errors["a:1"], ConnectionClosed)

        line = self.up()
        got = outcome(self.client.get_multi(["a"], timeout=1.0))
        self.world.pass_by(0.8)
        line.lose()
        self.again()
        self.world.pass_by(0.1)
        self.assertEqual(got, [])
        self.world.pass_by(0.2)
        self.assertIsInstance(got[0].errors["a:1"], RequestTimeout)

    def test_multi_is_not_held_up(self) -> None:
        """What one server lost is asked for again at once, whatever another one does."""
        client = self.make(2)
        keys = [self.key_of(name) for name in NAMES[:2]]
        client.factory.start()
        line, silent = (self.dials[name].accept() for name in NAMES[:2])
        got: list[Any] = outcome(client.get_multi(keys))
        line.lose()
        line = self.again()
        requests = line.requests()
        line.say(hit(requests[0], b"A"), answer(requests[1]))
        self.assertEqual((len(silent.requests()), got), (2, []))
        self.world.pass_by(2.5)
        self.assertEqual(got[0].found, {keys[0]: b"A"})
        self.assertEqual(set(got[0].errors), {"b:1"})

    def test_rehash_names_who_was_asked(self) -> None:
        """With "rehash", an error is told of the server that made it."""
        client = self.make(2, on_failure="rehash")
        key = self.key_of("b:1")
        client.factory.start()
        line = self.dials["a:1"].accept()
        for _ in range(2):
            self.world.pass_by(0.2)
            self.dials["b:1"].fail()
        got: list[Any] = outcome(client.set_multi({key: 1}))
        line.lose()
        self.assertEqual(set(got[0].errors), {"a:1"})

    def test_no_cycles(self) -> None:
        """What a call leaves behind is gone without the garbage collector, values above all."""
        line = self.up()
        self.addCleanup(gc.enable)
        gc.collect()
        gc.disable()
        for _ in range(5):
            one, many = self.client.get("a"), self.client.get_multi(["a", "b"])
            writes = self.client.set_multi({"a": 1})
            self.world.clock.advance(0)
            for request in line.requests():
                if request.opcode == Opcode.NOOP:
                    line.say(answer(request))
                elif request.opcode in (Opcode.GET, Opcode.GETQ):
                    line.say(hit(request, b"value"))
            for done in (one, many, writes):
                self.successResultOf(done)
            del one, many, writes, done
        gc.set_debug(gc.DEBUG_SAVEALL)
        self.addCleanup(gc.set_debug, 0)
        gc.collect()
        left = [thing for thing in gc.garbage if type(thing).__module__.startswith("txtlsmc")]
        gc.garbage.clear()
        self.assertEqual(left, [])

    def test_rehash_of_many(self) -> None:
        """With "rehash", a server that stands in for another takes the keys of both as one run."""
        client = self.make(2, on_failure="rehash")
        client.factory.start()
        line = self.dials["a:1"].accept()
        for _ in range(2):
            self.world.pass_by(0.2)
            self.dials["b:1"].fail()
        keys = [f"key{number}" for number in range(20)]
        asked = {client.node_for(key).server.name for key in keys}
        self.assertEqual(asked, {"a:1", "b:1"})
        got: list[Any] = outcome(client.set_multi(dict.fromkeys(keys, 1)))
        *requests, fence = line.requests()
        self.assertEqual({request.key.decode() for request in requests}, {*keys})
        line.say(answer(requests[3], status=0x85), answer(fence))
        (error,) = got
        self.assertEqual([*error.errors], ["a:1"])
        refused = requests[3].key.decode()
        self.assertEqual(error.found, {key: True for key in keys if key != refused})

    def test_multi_writes_are_sent_once(self) -> None:
        """set_multi and delete_multi do not send again what may have had its effect."""
        for call in (
            lambda: self.client.set_multi({"a": 1}),
            lambda: self.client.delete_multi(["a"]),
        ):
            line = self.up()
            got: list[Any] = outcome(call())
            line.lose()
            self.assertEqual(self.again().requests(), [])
            self.assertIsInstance(got[0], PartialResult)
            self.assertIsInstance(got[0].errors["a:1"], ConnectionClosed)

    def test_flush_is_sent_once(self) -> None:
        """A flush is never sent again."""
        line = self.up()
        got: list[Any] = outcome(self.client.flush_all())
        line.lose()
        self.assertEqual(self.again().requests(), [])
        self.assertIsInstance(got[0], PartialResult)

    def test_rehash_for_who_waits(self) -> None:
        """With "rehash", who waits for a server when it is ejected goes to the next one."""
        client = self.make(2, on_failure="rehash", retry=False)
        key = self.key_of("b:1")
        got, write = outcome(client.get(key)), outcome(client.set(key, 1))
        many = outcome(client.get_multi([key]))
        line = self.dials["a:1"].accept()
        for _ in range(2):
            self.world.pass_by(0.2)
            self.dials["b:1"].fail()
        self.world.advance(0)
        requests: list[Request] = line.requests()
        self.assertEqual({request.key for request in requests}, {key.encode(), b""})
        for request in requests:
            if request.opcode == Opcode.GET:
                line.say(hit(request, b"other"))
            elif request.opcode in (Opcode.SET, Opcode.NOOP):
                line.say(answer(request))
        self.assertEqual((got, write, many), ([b"other"], [True], [{}]))

    def test_miss_for_who_waits(self) -> None:
        """With "miss", a read that waits for a server when it is ejected finds nothing."""
        client = self.make(1, on_failure="miss", retry=False)
        got, write = outcome(client.get("key", 7)), outcome(client.set("key", 1))
        many = outcome(client.get_multi(["key"]))
        for _ in range(2):
            self.dials["a:1"].fail()
            self.world.pass_by(0.2)
        self.assertEqual((got, many), ([7], [{}]))
        self.assertIsInstance(write[0], NodeDown)

    def test_one_key_one_connection(self) -> None:
        """With several connections a get of a key uses that of the set before it."""
        client = self.make(1, connections=3)
        client.factory.start()
        lines = []
        while self.dials["a:1"].open:
            lines.append(self.dials["a:1"].open[0].accept())
        used = set()
        for number in range(20):
            outcome(client.set(f"key{number}", 1))
            outcome(client.get_multi([f"key{number}"]))
            outcome(client.get(f"key{number}"))
            self.world.advance(0)
            busy = [(line, line.requests()) for line in lines]
            ((line, requests),) = [(line, requests) for line, requests in busy if requests]
            self.assertEqual(requests[0].opcode, Opcode.SET)
            for request in requests:
                if request.opcode == Opcode.GET:
                    line.say(miss(request))
                elif request.opcode in (Opcode.SET, Opcode.NOOP):
                    line.say(answer(request))
            used.add(line)
        self.assertEqual(used, set(lines))

    # Cancelling

    def test_cancel(self) -> None:
        """A call that is cancelled fails with CancelledError; the connection lives."""
        line = self.up()
        done = self.client.get("key")
        got = outcome(done)
        done.cancel()
        self.assertIsInstance(got[0], CancelledError)
        line.say(hit(line.request()))
        self.assertFalse(line.lost)

    def test_cancel_many(self) -> None:
        """So is a call for many keys: once, on all servers, and without errors in the log."""
        self.make(3)
        keys = [self.key_of(name) for name in NAMES]
        for waiting in (False, True):
            for call in (
                lambda: self.client.get_multi(keys),
                lambda: self.client.set_multi(dict.fromkeys(keys, 1)),
                lambda: self.client.delete_multi(keys),
                lambda: self.client.version(),
            ):
                self.make(3)
                self.client.factory.start()
                if not waiting:
                    for dials in self.dials.values():
                        dials.accept()
                done: Deferred[Any] = call()
                got = outcome(done)
                done.cancel()
                self.assertEqual([type(error) for error in got], [CancelledError])
                for dials in self.dials.values():
                    if waiting:
                        self.assertEqual(dials.accept().requests(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_cancel_the_second_try(self) -> None:
        """A call may be cancelled while it is tried once more."""
        for call in (lambda: self.client.get_multi(["key"]), lambda: self.client.get("key")):
            line = self.up()
            done: Deferred[Any] = call()
            got = outcome(done)
            line.lose()
            done.cancel()
            self.assertEqual([type(error) for error in got], [CancelledError])
            self.assertEqual(self.again().requests(), [])

    # Ends

    def test_closed(self) -> None:
        """After close every call fails at once with an error that says so; nothing is tried."""
        line = self.up()
        closed = outcome(self.client.close())
        for call in (*self.reads, *self.writes):
            (error,) = outcome(call(self.client))
            assert isinstance(error, ConnectionClosed)
            self.assertFalse(error.sent)
        for call in (lambda c: c.get_multi(["key"]), lambda c: c.noop()):
            self.assertIsInstance(outcome(call(self.client))[0], PartialResult)
        self.world.advance(0)
        self.assertEqual((closed, line.lost), ([None], True))
        self.assertEqual(self.world.delayed(), [])
        (error,) = outcome(self.client.get("key"))
        self.assertIn("closed", str(error))

    def test_fork(self) -> None:
        """In a process that was forked off, a call fails with an error that says so."""
        line = self.up()
        child = os.fork()
        if not child:
            status = 0
            for call in (
                *self.reads,
                *self.writes,
                lambda client: client.get_multi(["key"]),
                lambda client: client.version(),
            ):
                try:
                    call(self.client)
                    status = 1
                except WrongProcess:
                    pass
                except BaseException:
                    status = 2
            os._exit(status)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        got = outcome(self.client.get("key"))
        line.say(hit(line.request(), b"value"))
        self.assertEqual(got, [b"value"])


class TLSTests(TestCase):
    """The same over real sockets and TLS, where connections take their time to begin and to end."""

    async def test_all(self) -> None:
        """A client of servers with TLS and SASL works, closes in order, and leaves nothing."""
        run: Any = reactor
        authority = Authority()
        servers = [
            MemoryServer(run, users={USER: password()}, certificate=authority.issue())
            for _ in range(2)
        ]
        for server in servers:
            await server.listen()
            self.addCleanup(server.stop)
        client = MemcacheClient(
            run,
            [server.server for server in servers],
            tls=TLS(ca=authority.pem),
            credentials=credentials,
            limits=Limits(timeout=30, connect_timeout=30),
        )
        await client.when_ready()
        keys = [f"key{number}" for number in range(50)]
        self.assertEqual(await client.set_multi(dict.fromkeys(keys, 1)), [])
        pending = client.get_multi(keys)
        await client.close()
        self.assertEqual(await pending, dict.fromkeys(keys, 1))
        self.assertEqual([node.state for node in client.nodes()], [NodeState.CLOSED] * 2)
        with self.assertRaises(ConnectionClosed):
            await client.get("key")

    async def test_close_while_connecting(self) -> None:
        """Closing in the middle of a handshake leaves nothing."""
        run: Any = reactor
        server = MemoryServer(run, certificate=Authority().issue())
        await server.listen()
        self.addCleanup(server.stop)
        server.pause()
        client = MemcacheClient(run, [server.server])
        client.factory.start()
        while not server.connections:
            await deferLater(run, 0.01)
        await client.close()


class MakingTests(SynchronousTestCase):
    def test_servers_as_text(self) -> None:
        """Servers are given as one text, as texts, or as Server; order and weights are kept."""
        clock = World().clock
        for servers in (
            "a:1,b:2:3",
            ["a:1", "b:2:3"],
            [Server("a:1"), Server.parse("b:2:3")],
        ):
            client = MemcacheClient(clock, servers)
            ring = client.factory.ring.servers
            self.assertEqual([server.name for server in ring], ["a:1", "b:2"])
            self.assertEqual(ring[1].weight, 3)

    def test_wrong(self) -> None:
        """What can not be right is an error when the client is made."""
        clock = World().clock
        servers: Any
        for servers in ("", [], "a:b:c:d"):
            with self.assertRaises(InvalidSetting):
                MemcacheClient(clock, servers)
        with self.assertRaises(MemcacheError):
            MemcacheClient(clock, "a:1", codec="nonsense")

    def test_limits(self) -> None:
        """The deadline of calls is that of the limits, unless a call has its own."""
        world = World()
        dials = Dials(world)
        factory = MemcacheClientFactory(
            world.clock,
            [Server("a:1")],
            limits=Limits(timeout=0.5),
            endpoint=lambda server: dials,
            monotonic=world.monotonic,
        )
        client = MemcacheClient(world.clock, "a:1", factory=factory)
        own, other = outcome(client.get("key")), outcome(client.get("key", timeout=5))
        world.pass_by(0.7)
        self.assertIsInstance(own[0], RequestTimeout)
        self.assertEqual(other, [])
        client.close()
        self.assertIsInstance(other[0], ConnectionClosed)
