"""Every operation of `MemcacheProtocol` does with a real memcached what it promises."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from itertools import product
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, gatherResults

from tests.integration.test_connect import RealTestCase, next_turn, until
from txtlsmc.errors import (
    ConnectionClosed,
    InvalidArgument,
    InvalidKey,
    KeyNotFound,
    MemcacheError,
    NonNumericValue,
    NotPermitted,
    PendingLimit,
    RequestTimeout,
    ServerError,
    ServerSilent,
    ValueTooLarge,
)
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import Limits
from txtlsmc.wire.operations import LONGEST_RELATIVE, RawItem

T = TypeVar("T")
E = TypeVar("E", bound=MemcacheError)

#: The largest value that passes under a key of three bytes; header and key count too.
LARGEST = 1_048_496
DAY = 60 * 60 * 24
#: Exptimes that keep an item for as long as any test takes.
LASTING = (0, 3600, LONGEST_RELATIVE, LONGEST_RELATIVE + 1, 31 * DAY, 3650 * DAY, 1000.5)


class OperationTests(RealTestCase):
    """On a plain connection; the subclass does the same over SASL and TLS."""

    async def start(self) -> MemcacheProtocol:
        self.protocol = await self.at_home()
        return self.protocol

    async def value(self, key: str | bytes) -> bytes | None:
        item = await self.protocol.get(key)
        return None if item is None else item.value

    async def assert_error(self, kind: type[E], doing: Awaitable[T]) -> E:
        """Exactly this error comes of it, and the connection lives on."""
        try:
            await doing
        except MemcacheError as error:
            self.witness.examine(error)
            self.assertIs(type(error), kind, error)
            assert isinstance(error, kind)
            self.assertIs(await self.protocol.noop(), True)
            return error
        return self.fail(f"no {kind.__name__}")

    # Reading

    async def test_get(self) -> None:
        """A get has the value, the flags and the version of an item, or None on a miss."""
        p = await self.start()
        for get in (p.get, p.gets):
            self.assertIsNone(await get("key"))
        await p.set("key", b"value", flags=0xDEADBEEF)
        item = await p.get("key")
        assert isinstance(item, RawItem)
        self.assertEqual((item.value, item.flags), (b"value", 0xDEADBEEF))
        self.assertGreater(item.cas, 0)
        self.assertEqual(await p.gets("key"), item)
        await p.set("key", b"value", flags=0xDEADBEEF)
        again = await p.gets("key")
        assert again is not None
        self.assertNotEqual(again.cas, item.cas)

    async def test_values(self) -> None:
        """Any bytes can be a value, none at all as well."""
        p = await self.start()
        for value in (b"", b"\0", bytes(range(256)) * 5, b"\r\nEND\r\n", b"\x81" + bytes(23)):
            await p.set("key", value)
            self.assertEqual(await self.value("key"), value)

    async def test_keys(self) -> None:
        """A key is text or bytes, up to 250 of these, and text is UTF-8."""
        p = await self.start()
        for key in ("k", b"k" * 250, "ü" * 125, "\u20ac", b"\xff\x80", "!~"):
            self.assertIs(await p.set(key, b"value"), True)
            other = key.encode() if isinstance(key, str) else key
            self.assertEqual(await self.value(other), b"value")

    async def test_bad_arguments(self) -> None:
        """What can not be right raises at once, and nothing is sent."""
        p = await self.start()
        before = await p.stats()
        for key in ("", b"", "k" * 251, "ü" * 126, "a b", "a\r\nflush_all", b"a\0", "a\x7f"):
            for call in (p.get, p.gets, p.delete, p.incr, p.decr):
                self.assertRaises(InvalidKey, call, key)
            for store in (p.set, p.add, p.replace, p.append, p.prepend):
                self.assertRaises(InvalidKey, store, key, b"")
            for expire in (p.touch, p.gat):
                self.assertRaises(InvalidKey, expire, key, 0)
            self.assertRaises(InvalidKey, p.get_multi, ["key", key])
        self.assertRaises(InvalidArgument, p.cas, "key", b"", 0)
        self.assertRaises(InvalidArgument, p.incr, "key", -1)
        self.assertRaises(InvalidArgument, p.flush_all, -1)
        self.assertRaises(InvalidArgument, p.stats, "x" * 251)
        self.assertRaises(InvalidArgument, p.set, "key", b"", exptime=2**32)
        self.assertEqual(p.pending, 0)
        after = await p.stats()
        for counter in (b"cmd_get", b"cmd_set", b"cmd_flush", b"cmd_touch"):
            self.assertEqual(after[counter], before[counter])

    async def test_get_multi(self) -> None:
        """Many keys at once give what was found, under the keys as they were given."""
        p = await self.start()
        self.assertEqual(await p.get_multi(["a", "b"]), {})
        self.assertEqual(await p.get_multi([]), {})
        await p.set("a", b"1", flags=1)
        await p.set("ü", b"2", flags=2)
        found = await p.get_multi(["a", "missing", "ü", "a"])
        self.assertEqual(
            {key: (item.value, item.flags) for key, item in found.items()},
            {"a": (b"1", 1), "ü": (b"2", 2)},
        )
        self.assertEqual(found["a"], await p.gets("a"))
        self.assertEqual(set(await p.get_multi([b"a", "ü".encode()])), {b"a", "ü".encode()})

    async def test_gat(self) -> None:
        """Get-and-touch has the item, and gives it its new time; a miss is None."""
        p = await self.start()
        self.assertIsNone(await p.gat("key", 100))
        for exptime in LASTING:
            await p.set("key", b"value", flags=7)
            item = await p.gat("key", exptime)
            self.assertEqual(item, await p.gets("key"))
            assert item is not None
            self.assertEqual((item.value, item.flags), (b"value", 7))
        over = await p.gat("key", -1)
        assert over is not None
        self.assertEqual(over.value, b"value")
        self.assertIsNone(await p.get("key"))

    async def test_touch(self) -> None:
        """Touch tells whether there is an item, and gives it its new time."""
        p = await self.start()
        self.assertIs(await p.touch("key", 100), False)
        await p.set("key", b"value", exptime=100)
        for exptime in LASTING:
            self.assertIs(await p.touch("key", exptime), True)
            self.assertEqual(await self.value("key"), b"value")
        self.assertIs(await p.touch("key", -1), True)
        self.assertIsNone(await p.get("key"))
        self.assertIs(await p.touch("key", 100), False)

    # Writing

    async def test_set(self) -> None:
        """A set stores, whatever there was."""
        p = await self.start()
        self.assertIs(await p.set("key", b"one", flags=1), True)
        self.assertIs(await p.set("key", b"two"), True)
        item = await p.get("key")
        assert item is not None
        self.assertEqual((item.value, item.flags), (b"two", 0))

    async def test_add(self) -> None:
        """An add stores only where there is nothing."""
        p = await self.start()
        self.assertIs(await p.add("key", b"one"), True)
        self.assertIs(await p.add("key", b"two"), False)
        self.assertEqual(await self.value("key"), b"one")

    async def test_replace(self) -> None:
        """A replace stores only where there is something."""
        p = await self.start()
        self.assertIs(await p.replace("key", b"one"), False)
        self.assertIsNone(await p.get("key"))
        await p.set("key", b"one")
        self.assertIs(await p.replace("key", b"two", flags=2), True)
        item = await p.get("key")
        assert item is not None
        self.assertEqual((item.value, item.flags), (b"two", 2))

    async def test_append(self) -> None:
        """What is appended or prepended joins what there is, and its flags stay."""
        p = await self.start()
        self.assertIs(await p.append("key", b">"), False)
        self.assertIs(await p.prepend("key", b"<"), False)
        self.assertIsNone(await p.get("key"))
        await p.set("key", b"value", flags=5)
        self.assertIs(await p.append("key", b">"), True)
        self.assertIs(await p.prepend("key", b"<"), True)
        item = await p.get("key")
        assert item is not None
        self.assertEqual((item.value, item.flags), (b"<value>", 5))

    async def test_cas(self) -> None:
        """With a version, an item is stored only if nobody changed it since."""
        p = await self.start()
        self.assertIs(await p.cas("key", b"one", 1), False)
        await p.set("key", b"one")
        first = await p.gets("key")
        assert first is not None
        self.assertIs(await p.cas("key", b"two", first.cas, flags=2), True)
        self.assertIs(await p.cas("key", b"three", first.cas), False)
        second = await p.gets("key")
        assert second is not None
        self.assertEqual((second.value, second.flags), (b"two", 2))
        await p.delete("key")
        self.assertIs(await p.cas("key", b"four", second.cas), False)
        self.assertIsNone(await p.get("key"))

    async def test_delete(self) -> None:
        """A delete tells whether there was something."""
        p = await self.start()
        self.assertIs(await p.delete("key"), False)
        await p.set("key", b"value")
        self.assertIs(await p.delete("key"), True)
        self.assertIsNone(await p.get("key"))
        self.assertIs(await p.delete("key"), False)

    async def test_set_multi(self) -> None:
        """Many items can be stored at once; the keys that were not are none."""
        p = await self.start()
        self.assertEqual(await p.set_multi({}), [])
        items = {f"key{n}": b"%d" % n for n in range(500)}
        stored = p.set_multi(items, flags=9, exptime=31 * DAY)
        self.assertEqual(await stored, [])
        found = await p.get_multi(items)
        self.assertEqual({key: item.value for key, item in found.items()}, items)
        self.assertEqual({item.flags for item in found.values()}, {9})
        self.assertEqual(await p.set_multi(items, exptime=-1), [])
        self.assertEqual(await p.get_multi(items), {})

    async def test_set_multi_error(self) -> None:
        """One item that is too large fails the call; the others are stored."""
        p = await self.start()
        items = {"a": b"1", "b": bytes(LARGEST + 200), "c": b"3"}
        await self.assert_error(ValueTooLarge, p.set_multi(items))
        self.assertEqual(set(await p.get_multi(items)), {"a", "c"})

    async def test_delete_multi(self) -> None:
        """Many items can be deleted at once; the keys where nothing was are told."""
        p = await self.start()
        self.assertEqual(await p.delete_multi([]), [])
        await p.set_multi({"a": b"1", "b": b"2"})
        self.assertEqual(await p.delete_multi(["x", "a", "b", "y"]), ["x", "y"])
        self.assertEqual(await p.get_multi(["a", "b"]), {})

    async def test_incr(self) -> None:
        """A number can be counted up and down; None is that there is none."""
        p = await self.start()
        for count in (p.incr, p.decr):
            self.assertIsNone(await count("key"))
            self.assertIsNone(await p.get("key"))
        self.assertEqual(await p.incr("key", 5, initial=10), 10)
        self.assertEqual(await p.incr("key", 5, initial=10), 15)
        self.assertEqual(await p.incr("key"), 16)
        self.assertEqual(await p.decr("key", 2), 14)
        self.assertEqual(await p.incr("key", 0), 14)
        self.assertEqual(await self.value("key"), b"14")
        self.assertEqual(await p.decr("other", 3, initial=0), 0)
        self.assertEqual(await self.value("other"), b"0")

    async def test_ends_of_numbers(self) -> None:
        """Counting up wraps at 2**64, counting down stops at 0."""
        p = await self.start()
        most = 2**64 - 1
        self.assertEqual(await p.incr("key", initial=most), most)
        self.assertEqual(await p.incr("key", 3), 2)
        self.assertEqual(await p.incr("key", most), 1)
        self.assertEqual(await p.decr("key", most), 0)
        await p.set("key", b"%d" % most)
        self.assertEqual(await p.decr("key"), most - 1)

    async def test_not_a_number(self) -> None:
        """What is no number can not be counted, and stays."""
        p = await self.start()
        for value in (b"value", b"-1", b"1.5", b"", b"18446744073709551616"):
            await p.set("key", value)
            for count in (p.incr, p.decr):
                error = await self.assert_error(NonNumericValue, count("key"))
                self.assertEqual(error.status, 0x06)
            self.assertEqual(await self.value("key"), value)

    async def test_counter_exptime(self) -> None:
        """A counter that is created gets its time; one that exists keeps its own."""
        p = await self.start()
        for count, exptime in product((p.incr, p.decr), LASTING):
            self.assertEqual(await count("key", initial=7, exptime=exptime), 7)
            self.assertEqual(await self.value("key"), b"7")
            await p.delete("key")
        self.assertEqual(await p.incr("key", initial=7, exptime=-1), 7)
        self.assertIsNone(await p.get("key"))
        await p.set("key", b"1")
        self.assertEqual(await p.incr("key", exptime=-1, initial=7), 2)
        self.assertEqual(await self.value("key"), b"2")

    # Time

    async def test_exptime(self) -> None:
        """Whatever number of seconds is asked for, the item lives; below zero it is over."""
        p = await self.start()
        for exptime in LASTING:
            self.assertIs(await p.set("set", b"value", exptime=exptime), True)
            self.assertIs(await p.add("add", b"value", exptime=exptime), True)
            self.assertIs(await p.replace("add", b"value", exptime=exptime), True)
            self.assertEqual(len(await p.get_multi(["set", "add"])), 2, exptime)
            await p.delete_multi(["set", "add"])
        for exptime in (-1, -0.1, -31 * DAY):
            self.assertIs(await p.set("key", b"value", exptime=exptime), True)
            self.assertIsNone(await p.get("key"), exptime)
            self.assertIs(await p.add("key", b"value", exptime=exptime), True)
            self.assertIsNone(await p.get("key"), exptime)
            await p.set("key", b"value")
            item = await p.gets("key")
            assert item is not None
            self.assertIs(await p.cas("key", b"value", item.cas, exptime=exptime), True)
            self.assertIsNone(await p.get("key"), exptime)

    async def test_expires(self) -> None:
        """An item is there for its time, and gone afterwards."""
        p = await self.start()
        began = time.monotonic()
        await p.set("short", b"value", exptime=2)
        await p.set("touched", b"value", exptime=3600)
        await p.touch("touched", 2)
        await p.set("kept", b"value", exptime=2)
        await p.gat("kept", 3600)

        async def gone() -> bool:
            return not await p.get_multi(["short", "touched"])

        await until(gone)
        self.assertGreater(time.monotonic() - began, 0.9)  # the server counts in whole seconds
        self.assertEqual(await self.value("kept"), b"value")

    async def test_flush_all(self) -> None:
        """A flush forgets everything."""
        p = await self.start()
        await p.set_multi({"a": b"1", "b": b"2"})
        self.assertIs(await p.flush_all(), True)
        self.assertEqual(await p.get_multi(["a", "b"]), {})

    async def test_delayed_flush(self) -> None:
        """With a delay everything is still there for so long, and gone afterwards."""
        p = await self.start()
        await p.set("key", b"value")
        began = time.monotonic()
        self.assertIs(await p.flush_all(2), True)
        self.assertEqual(await self.value("key"), b"value")

        async def gone() -> bool:
            return await p.get("key") is None

        await until(gone)
        self.assertGreater(time.monotonic() - began, 0.9)

    async def test_late_flush(self) -> None:
        """A delay of more than 30 days is one, and not a day in 1970."""
        p = await self.start()
        await p.set("key", b"value")
        self.assertIs(await p.flush_all(31 * DAY), True)
        self.assertEqual(await self.value("key"), b"value")

    # Size

    async def test_largest_value(self) -> None:
        """The largest value passes; one byte more is refused, and the connection lives."""
        p = await self.start()
        value = bytes(range(256)) * (LARGEST // 256 + 1)
        self.assertIs(await p.set("key", value[:LARGEST]), True)
        self.assertEqual(await self.value("key"), value[:LARGEST])
        for store in (p.set, p.add, p.replace):
            error = await self.assert_error(ValueTooLarge, store("key", value[: 2**20]))
            self.assertEqual(error.status, 0x03)

    async def test_large_values(self) -> None:
        """Large values can go and come at the same time, in any number."""
        p = await self.start()
        values = {f"key{n}": bytes([n]) * 500_000 for n in range(20)}
        stored = gatherResults([p.set(key, value) for key, value in values.items()])
        self.assertEqual(await stored, [True] * 20)
        found = await gatherResults([p.get(key) for key in values])
        self.assertEqual([item and item.value for item in found], list(values.values()))
        self.assertEqual(
            {key: item.value for key, item in (await p.get_multi(values)).items()}, values
        )

    # The connection

    async def test_pipelined(self) -> None:
        """Ten thousand gets can be on their way at once, and each gets its own answer."""
        p = await self.start()
        await p.set_multi({f"key{n}": b"%d" % n for n in range(0, 10_000, 2)})
        gets = [p.get(f"key{n}") for n in range(10_000)]
        self.assertEqual(p.pending, 10_000)
        found = await gatherResults(gets)
        self.assertEqual(
            [item and item.value for item in found],
            [None if n % 2 else b"%d" % n for n in range(10_000)],
        )
        self.assertEqual(p.pending, 0)

    async def test_order(self) -> None:
        """Requests for a key take effect in the order in which they were made."""
        p = await self.start()
        made = [p.set("key", b"0")]
        made += [p.append("key", b"%d" % (n % 10)) for n in range(1, 1000)]
        last = p.get("key")
        item = await last
        self.assertEqual(set(await gatherResults(made)), {True})
        assert item is not None
        self.assertEqual(item.value, b"0123456789" * 100)

    async def test_mixed(self) -> None:
        """Errors, misses and results of neighbours do not get mixed up."""
        p = await self.start()
        await p.set("text", b"value")
        await p.set("number", b"1")
        for _ in range(10):
            miss, failure = p.get("missing"), p.incr("text")
            large = p.set("large", bytes(2**20))
            many, number = p.get_multi(["missing", "text"]), p.incr("number", 0)
            self.assertEqual(await number, 1)
            self.assertIsNone(await miss)
            self.assertEqual(set(await many), {"text"})
            await self.assert_error(NonNumericValue, failure)
            await self.assert_error(ValueTooLarge, large)

    async def test_cancel(self) -> None:
        """A cancelled request leaves its neighbours alone; it may have its effect all the same."""
        p = await self.start()
        requests = [p.incr("key", initial=0) for _ in range(100)]
        for request in requests[::2]:
            request.cancel()
            await self.assertFailure(request, CancelledError)
        self.assertEqual(await gatherResults(requests[1::2]), list(range(1, 100, 2)))

    async def test_timeout(self) -> None:
        """A request without an answer fails on time; late answers are nobody's."""
        p = await self.start()
        await p.set("key", b"value")
        self.memcached.pause()
        late = p.get("key", timeout=0.2)
        try:
            await self.assertFailure(late, RequestTimeout)
        finally:
            self.memcached.resume()
        self.assertEqual(await self.value("key"), b"value")
        self.assertEqual(p.pending, 0)

    async def test_silence(self) -> None:
        """A server that is silent for too long is given up with all that is pending."""
        limits = Limits(timeout=0.3, connect_timeout=60)
        p = await self.connected(self.own_credentials(), limits=limits)
        self.memcached.pause()
        pending: tuple[Deferred[Any], ...] = (p.get("a", timeout=60), p.incr("b", timeout=60))
        for each in pending:
            try:
                await each
            except ServerSilent as error:
                self.assertIs(error.sent, True)
            else:
                self.fail("it was answered")
        self.memcached.resume()
        await self.assertFailure(p.get("a"), ConnectionClosed)

    async def test_pending_limit(self) -> None:
        """More than was set to be on its way is refused at once, and nothing of it is sent."""
        limits = Limits(timeout=60, connect_timeout=60, max_pending=3)
        p = await self.connected(self.own_credentials(), limits=limits)
        made = [p.incr("key", initial=0) for _ in range(5)]
        for refused in made[3:]:
            await self.assertFailure(refused, PendingLimit)
        self.assertEqual(await gatherResults(made[:3]), [0, 1, 2])
        self.assertEqual(await p.incr("key", 0), 2)

    async def test_close(self) -> None:
        """Closing lets what is pending finish; nothing new is taken."""
        p = await self.start()
        pending = [p.set("key", b"value"), p.noop()]
        closed = p.close()
        with self.assertRaises(ConnectionClosed) as caught:
            await p.get("key")
        self.assertIs(caught.exception.sent, False)
        self.assertEqual(await gatherResults(pending), [True, True])
        await closed

    async def test_quit(self) -> None:
        """After quit the server ends the connection, and nothing more can be asked."""
        p = await self.start()
        before = p.set("key", b"value")
        done = p.quit()
        await self.assertFailure(p.get("key"), ConnectionClosed)
        self.assertIs(await before, True)
        self.assertIs(await done, True)
        await p.close()
        again = await self.start()
        self.assertEqual(await self.value("key"), b"value")
        await next_turn()
        self.assertIs(await again.noop(), True)

    # The server

    async def test_stats(self) -> None:
        """The server tells its numbers, by groups; a group that it does not have is an error."""
        p = await self.start()
        stats = await p.stats()
        self.assertEqual(int(stats[b"pid"]), self.memcached.pid)
        self.assertEqual(stats[b"version"].decode(), await p.version())
        settings = await p.stats("settings")
        self.assertEqual(int(settings[b"tcpport"]), self.memcached.address[1])
        self.assertEqual(await p.stats("items"), {})  # nothing is stored: an empty group is one
        await p.set("key", b"value")
        self.assertNotEqual(await p.stats(b"items"), {})
        error = await self.assert_error(KeyNotFound, p.stats("nosuchgroup"))
        self.assertEqual(error.status, 0x01)

    async def test_version(self) -> None:
        """The server tells its version."""
        p = await self.start()
        self.assertRegex(await p.version(), r"^\d+\.\d+\.\d+")
        self.assertIs(await p.noop(), True)


class SecureOperationTests(OperationTests):
    """The same over SASL and TLS."""

    sasl = tls = True


class ForbiddenTests(RealTestCase):
    """The server lets nobody flush it (``-F``)."""

    arguments = ("-F",)

    async def test_flush_all(self) -> None:
        """A flush that is forbidden is no matter of logging in: the connection lives."""
        protocol = await self.at_home()
        await protocol.set("key", b"value")
        for delay in (0, 10):
            with self.assertRaises(NotPermitted) as caught:
                await protocol.flush_all(delay)
            assert isinstance(caught.exception, ServerError)
            self.assertEqual(caught.exception.status, 0x20)
            self.assertEqual(caught.exception.exit_code, 94)
        item = await protocol.get("key")
        assert item is not None
        self.assertEqual(item.value, b"value")


class SecureForbiddenTests(ForbiddenTests):
    """The same over SASL and TLS."""

    sasl = tls = True
