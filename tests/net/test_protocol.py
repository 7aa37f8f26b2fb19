"""Every method of `MemcacheProtocol`: what it sends, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from struct import pack
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.net.fakes import NOW, Peer, answer, hit, miss, opcodes
from txtlsmc.errors import (
    SERVER_ERRORS,
    ConnectionClosed,
    InvalidArgument,
    InvalidKey,
    KeyNotFound,
    MemcacheError,
    NonNumericValue,
    PendingLimit,
    RemoteProtocolError,
    RequestTimeout,
    ServerError,
    ValueTooLarge,
)
from txtlsmc.net.pipeline import FIRST_OPAQUE
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import Limits
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode
from txtlsmc.wire.operations import KeyedItem, RawItem

DAY = 24 * 60 * 60
LATER = int(NOW) + 31 * DAY
Call = Callable[..., Deferred[Any]]


def number(value: int) -> bytes:
    return pack(">Q", value)


class Case(NamedTuple):
    """
    What one method does.

    Attributes:
        call: calls it on a protocol; takes *timeout*.
        request: what it sends.
        extras, value, key: of the answer that is a success.
        result: what that makes.
        others: what else is a result, by status.
    """

    call: Call
    request: Request
    result: Any
    extras: bytes = b""
    value: bytes = b""
    others: dict[int, Any] = {}  # noqa: RUF012  # nobody changes it
    key: bytes = b""

    def __str__(self) -> str:
        return f"{Opcode(self.request.opcode).name} {self.request.extras.hex()}"


FLAGS = pack(">I", 5)
CASES = [
    Case(
        lambda p, **kw: p.get("k", **kw),
        Request(Opcode.GET, b"k"),
        RawItem(b"v", 5, 9),
        FLAGS,
        b"v",
        {1: None},
    ),
    Case(
        lambda p, **kw: p.gets(b"k", **kw),
        Request(Opcode.GET, b"k"),
        RawItem(b"", 5, 9),
        FLAGS,
        b"",
        {1: None},
    ),
    Case(
        lambda p, **kw: p.gat("ключ", 60, **kw),
        Request(Opcode.GAT, "ключ".encode(), pack(">I", 60)),
        RawItem(b"v", 5, 9),
        FLAGS,
        b"v",
        {1: None},
    ),
    Case(
        lambda p, **kw: p.getk("k", **kw),
        Request(Opcode.GETK, b"k"),
        KeyedItem(b"k", b"v", 5, 9),
        FLAGS,
        b"v",
        {1: None},
        b"k",
    ),
    Case(
        lambda p, **kw: p.gatk("k", 60, **kw),
        Request(Opcode.GATK, b"k", pack(">I", 60)),
        KeyedItem(b"k", b"v", 5, 9),
        FLAGS,
        b"v",
        {1: None},
        b"k",
    ),
    Case(
        lambda p, **kw: p.touch("k", 60, **kw),
        Request(Opcode.TOUCH, b"k", pack(">I", 60)),
        True,
        FLAGS,
        others={1: False},
    ),
    Case(
        lambda p, **kw: p.set("k", b"v", **kw),
        Request(Opcode.SET, b"k", bytes(8), b"v"),
        True,
    ),
    Case(
        lambda p, **kw: p.set("k", b"", exptime=31 * DAY, flags=0xFFFFFFFF, **kw),
        Request(Opcode.SET, b"k", pack(">II", 0xFFFFFFFF, LATER), b""),
        True,
    ),
    Case(
        lambda p, **kw: p.add("k", b"v", exptime=60, flags=5, **kw),
        Request(Opcode.ADD, b"k", pack(">II", 5, 60), b"v"),
        True,
        others={2: False},
    ),
    Case(
        lambda p, **kw: p.replace("k", b"v", exptime=60, flags=5, **kw),
        Request(Opcode.REPLACE, b"k", pack(">II", 5, 60), b"v"),
        True,
        others={1: False},
    ),
    Case(
        lambda p, **kw: p.cas("k", b"v", 2**64 - 1, exptime=60, flags=5, **kw),
        Request(Opcode.SET, b"k", pack(">II", 5, 60), b"v", cas=2**64 - 1),
        True,
        others={1: False, 2: False},
    ),
    Case(
        lambda p, **kw: p.append("k", b"v", **kw),
        Request(Opcode.APPEND, b"k", value=b"v"),
        True,
        others={1: False, 5: False},
    ),
    Case(
        lambda p, **kw: p.prepend("k", b"v", **kw),
        Request(Opcode.PREPEND, b"k", value=b"v"),
        True,
        others={1: False, 5: False},
    ),
    Case(
        lambda p, **kw: p.delete("k", **kw),
        Request(Opcode.DELETE, b"k"),
        True,
        others={1: False},
    ),
    Case(
        lambda p, **kw: p.incr("k", **kw),
        Request(Opcode.INCREMENT, b"k", pack(">QQI", 1, 0, 0xFFFFFFFF)),
        2**64 - 1,
        value=number(2**64 - 1),
        others={1: None},
    ),
    Case(
        lambda p, **kw: p.incr("k", 7, initial=3, exptime=60, **kw),
        Request(Opcode.INCREMENT, b"k", pack(">QQI", 7, 3, 60)),
        3,
        value=number(3),
        others={1: None},
    ),
    Case(
        lambda p, **kw: p.decr("k", 2, **kw),
        Request(Opcode.DECREMENT, b"k", pack(">QQI", 2, 0, 0xFFFFFFFF)),
        0,
        value=number(0),
        others={1: None},
    ),
    Case(
        lambda p, **kw: p.decr("k", 2, initial=0, exptime=31 * DAY, **kw),
        Request(Opcode.DECREMENT, b"k", pack(">QQI", 2, 0, LATER)),
        5,
        value=number(5),
        others={1: None},
    ),
    Case(lambda p, **kw: p.flush_all(**kw), Request(Opcode.FLUSH), True),
    Case(
        lambda p, **kw: p.flush_all(31 * DAY, **kw),
        Request(Opcode.FLUSH, extras=pack(">I", LATER)),
        True,
    ),
    Case(lambda p, **kw: p.version(**kw), Request(Opcode.VERSION), "1.6.18", value=b"1.6.18"),
    Case(lambda p, **kw: p.noop(**kw), Request(Opcode.NOOP), True),
    Case(lambda p, **kw: p.quit(**kw), Request(Opcode.QUIT), True),
    Case(lambda p, **kw: p.stats(**kw), Request(Opcode.STAT), {}),
    Case(lambda p, **kw: p.stats("items", **kw), Request(Opcode.STAT, b"items"), {}),
]
#: The methods for many keys, with one key.
MULTI: list[tuple[Call, Request]] = [
    (lambda p, **kw: p.get_multi(["k"], **kw), Request(Opcode.GETQ, b"k")),
    (
        lambda p, **kw: p.set_multi({"k": b"v"}, exptime=60, flags=5, **kw),
        Request(Opcode.SETQ, b"k", pack(">II", 5, 60), b"v"),
    ),
    (lambda p, **kw: p.delete_multi(["k"], **kw), Request(Opcode.DELETEQ, b"k")),
]


class ProtocolTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.peer = Peer()
        self.protocol = self.peer.protocol

    def assert_nothing_sent(self) -> None:
        self.assertEqual(self.peer.wire.writes, [])
        self.assertEqual(self.protocol.pending, 0)
        self.assertEqual(self.peer.delayed(), [])


class EveryMethodTests(ProtocolTestCase):
    def test_complete(self) -> None:
        """Every method that talks to the server is in the tables of these tests."""
        peer, called = Peer(), set()
        methods = {name for name in vars(MemcacheProtocol) if not name.startswith("_")}

        class Spy:
            def __getattr__(self, name: str) -> Any:
                called.add(name)
                return getattr(peer.protocol, name)

        for call in [*(case.call for case in CASES), *(call for call, _ in MULTI)]:
            call(Spy()).addErrback(lambda failure: failure.trap(MemcacheError))
        self.assertEqual(called, methods)

    def test_request(self) -> None:
        """Each method sends one request, whose bytes are as the protocol says."""
        for case in CASES:
            self.setUp()
            case.call(self.protocol)
            expected = replace(case.request, opaque=FIRST_OPAQUE)
            self.assertEqual(self.peer.request(), expected, str(case))

    def test_success(self) -> None:
        """Each method fires with the result of the answer that is a success."""
        for case in CASES:
            self.setUp()
            done = case.call(self.protocol)
            request = self.peer.request()
            success = answer(request, case.value, extras=case.extras, key=case.key, cas=9)
            self.peer.say(success)
            result = self.successResultOf(done)
            self.assertEqual(result, case.result, str(case))
            self.assertIs(type(result), type(case.result), str(case))

    def test_condition(self) -> None:
        """A miss, and a condition that did not hold, is a result."""
        for case in CASES:
            for status, result in case.others.items():
                self.setUp()
                done = case.call(self.protocol)
                self.peer.say(answer(self.peer.request(), b"No.", status=status))
                self.assertIs(self.successResultOf(done), result, f"{case}: {status}")

    def test_error(self) -> None:
        """Every other status is a failure, by its own class."""
        for case in CASES:
            for status in [*SERVER_ERRORS, 0x7777]:
                if status in case.others:
                    continue
                self.setUp()
                done = case.call(self.protocol)
                self.peer.say(answer(self.peer.request(), b"No\n.", status=status))
                error = self.failureResultOf(done, ServerError).value
                self.assertIs(type(error), SERVER_ERRORS.get(status, ServerError), str(case))
                self.assertEqual(
                    (error.opcode, error.status, error.text),
                    (case.request.opcode, status, "No\\n."),
                )

    def test_timeout(self) -> None:
        """Each method takes a timeout of its own."""
        for call in [*(case.call for case in CASES), *(call for call, _ in MULTI)]:
            self.setUp()
            done = call(self.protocol, timeout=0.3)
            self.peer.pass_by(0.29)
            self.assertNoResult(done)
            self.peer.pass_by(0.1)
            self.assertEqual(self.failureResultOf(done, RequestTimeout).value.timeout, 0.3)

    def test_over(self) -> None:
        """On a connection that is gone each method fails, and sends nothing."""
        self.peer.lose()
        for call in [*(case.call for case in CASES), *(call for call, _ in MULTI)]:
            error = self.failureResultOf(call(self.protocol), ConnectionClosed).value
            self.assertFalse(error.sent)
        self.assert_nothing_sent()

    def test_announced_body(self) -> None:
        """Whatever was asked, a server that announces 4 GiB is left at the header."""
        for call in [*(case.call for case in CASES), *(call for call, _ in MULTI)]:
            self.setUp()
            done = call(self.protocol)
            header = bytearray(answer(self.peer.requests()[0]).encode())
            header[8:12] = b"\xff\xff\xff\xff"
            self.peer.say(bytes(header))
            self.failureResultOf(done, RemoteProtocolError)
            self.assertEqual(self.peer.wire.aborted, 1)


class WrongArgumentTests(ProtocolTestCase):
    def refused(self, kind: type[InvalidArgument], call: Call, words: str) -> None:
        with self.assertRaisesRegex(kind, words):
            call(self.protocol)
        self.assert_nothing_sent()

    def test_key(self) -> None:
        """A key that can not be right raises at once, in every method, and nothing is sent."""
        wrong: list[tuple[Any, str]] = [
            ("", "empty"),
            (b"", "empty"),
            ("x" * 251, "at most 250"),
            ("ж" * 126, "252 bytes"),
            ("a b", "byte 1 of the key is 0x20"),
            ("a\r\nset b 0 0 1", "0x0d"),
            (b"a\0", "0x00"),
            (b"\x7f", "0x7f"),
            ("\ud800", "UTF-8"),
            (5, "not int"),
            (None, "not NoneType"),
        ]
        methods: list[Callable[[MemcacheProtocol, Any], Any]] = [
            lambda p, key: p.get(key),
            lambda p, key: p.gets(key),
            lambda p, key: p.get_multi(["good", key]),
            lambda p, key: p.gat(key, 1),
            lambda p, key: p.touch(key, 1),
            lambda p, key: p.set(key, b""),
            lambda p, key: p.set_multi({"good": b"", key: b""}),
            lambda p, key: p.add(key, b""),
            lambda p, key: p.replace(key, b""),
            lambda p, key: p.cas(key, b"", 1),
            lambda p, key: p.append(key, b""),
            lambda p, key: p.prepend(key, b""),
            lambda p, key: p.delete(key),
            lambda p, key: p.delete_multi(["good", key]),
            lambda p, key: p.incr(key),
            lambda p, key: p.decr(key),
        ]
        for key, words in wrong:
            for method in methods:
                self.refused(InvalidKey, lambda p, m=method, k=key: m(p, k), words)

    def test_value(self) -> None:
        """A value that is no bytes raises at once."""
        text: Any = "text"
        for call in (
            lambda p: p.set("k", text),
            lambda p: p.set_multi({"k": text}),
            lambda p: p.add("k", text),
            lambda p: p.replace("k", text),
            lambda p: p.cas("k", text, 1),
            lambda p: p.append("k", text),
            lambda p: p.prepend("k", text),
        ):
            self.refused(InvalidArgument, call, "bytes here, not str")

    def test_numbers(self) -> None:
        """Numbers that do not fit into their fields raise at once."""
        for call, words in (
            (lambda p: p.set("k", b"", flags=-1), "flags"),
            (lambda p: p.set("k", b"", flags=2**32), "flags"),
            (lambda p: p.set_multi({"k": b""}, flags=2**32), "flags"),
            (lambda p: p.cas("k", b"", 0), "cas"),
            (lambda p: p.cas("k", b"", 2**64), "cas"),
            (lambda p: p.incr("k", -1), "delta"),
            (lambda p: p.decr("k", 2**64), "delta"),
            (lambda p: p.incr("k", initial=2**64), "initial"),
            (lambda p: p.flush_all(-1), "delay"),
            (lambda p: p.flush_all(float("nan")), "delay"),
            (lambda p: p.stats("x" * 251), "stats"),
        ):
            self.refused(InvalidArgument, call, words)

    def test_exptime(self) -> None:
        """An expiry time that is no number, or beyond 32 bits, raises at once."""
        wrong: list[Any] = [None, "", "soon", float("nan"), float("inf"), 2**32]
        for exptime in wrong:
            for call in (
                lambda p, e=exptime: p.gat("k", e),
                lambda p, e=exptime: p.touch("k", e),
                lambda p, e=exptime: p.set("k", b"", exptime=e),
                lambda p, e=exptime: p.set_multi({"k": b""}, exptime=e),
                lambda p, e=exptime: p.add("k", b"", exptime=e),
                lambda p, e=exptime: p.replace("k", b"", exptime=e),
                lambda p, e=exptime: p.cas("k", b"", 1, exptime=e),
                lambda p, e=exptime: p.incr("k", initial=0, exptime=e),
                lambda p, e=exptime: p.decr("k", initial=0, exptime=e),
            ):
                self.refused(InvalidArgument, call, "exptime")

    def test_one_key(self) -> None:
        """One key where a collection is wanted raises, instead of asking for its letters."""
        for key in ("abc", b"abc"):
            one: Any = key
            self.refused(InvalidArgument, lambda p, k=one: p.get_multi(k), "collection of keys")
            self.refused(InvalidArgument, lambda p, k=one: p.delete_multi(k), "collection of keys")


class ExptimeTests(ProtocolTestCase):
    def sent(self, exptime: float) -> int:
        """Return the exptime that travels."""
        self.setUp()
        self.protocol.touch("k", exptime)
        return int.from_bytes(self.peer.request().extras, "big")

    def test_relative(self) -> None:
        """Up to 30 days the seconds travel as they are, fractions rounded up."""
        for exptime, sent in [(0, 0), (0.0, 0), (1, 1), (1.5, 2), (30 * DAY, 30 * DAY)]:
            self.assertEqual(self.sent(exptime), sent)

    def test_absolute(self) -> None:
        """Above 30 days a Unix time travels, by the wall clock that was handed in."""
        self.assertEqual(self.sent(30 * DAY + 1), int(NOW) + 30 * DAY + 1)
        self.assertEqual(self.sent(365 * DAY), int(NOW) + 365 * DAY)

    def test_past(self) -> None:
        """Below 0 an item is over at once: a Unix time that is long past travels."""
        for exptime in (-1, -0.5, -1e9):
            self.assertEqual(self.sent(exptime), 30 * DAY + 1)

    def test_every_method(self) -> None:
        """All methods count expiry times in the same way."""
        methods: list[Callable[[MemcacheProtocol], Any]] = [
            lambda p: p.gat("k", 31 * DAY),
            lambda p: p.touch("k", 31 * DAY),
            lambda p: p.set("k", b"", exptime=31 * DAY),
            lambda p: p.add("k", b"", exptime=31 * DAY),
            lambda p: p.replace("k", b"", exptime=31 * DAY),
            lambda p: p.cas("k", b"", 1, exptime=31 * DAY),
            lambda p: p.incr("k", initial=1, exptime=31 * DAY),
            lambda p: p.decr("k", initial=1, exptime=31 * DAY),
            lambda p: p.set_multi({"k": b""}, exptime=31 * DAY),
            lambda p: p.flush_all(31 * DAY),
        ]
        for method in methods:
            self.setUp()
            method(self.protocol)
            extras = self.peer.requests()[0].extras
            self.assertEqual(int.from_bytes(extras[-4:], "big"), LATER)


class ManyTests(ProtocolTestCase):
    def test_get_multi(self) -> None:
        """One round trip brings what was found, under the keys as they were given."""
        done = self.protocol.get_multi(["a", "ж", "c"])
        a, b, c, fence = self.peer.requests()
        self.assertEqual(len(self.peer.wire.writes), 1)
        self.assertEqual(opcodes([a, b, c, fence]), [Opcode.GETQ] * 3 + [Opcode.NOOP])
        self.assertEqual([a.key, b.key, c.key], [b"a", "ж".encode(), b"c"])
        self.peer.say(hit(b, b"2", flags=16, cas=4), hit(c, b"3"), answer(fence))
        self.assertEqual(
            self.successResultOf(done), {"ж": RawItem(b"2", 16, 4), "c": RawItem(b"3", 0, 7)}
        )

    def test_get_multi_bytes(self) -> None:
        """Keys given as bytes come back as bytes, from any iterable."""
        done = self.protocol.get_multi(key for key in (b"a", b"b"))
        a, _, fence = self.peer.requests()
        self.peer.say(hit(a), answer(fence))
        self.assertEqual(self.successResultOf(done), {b"a": RawItem(b"value", 0, 7)})

    def test_get_multi_loud_miss(self) -> None:
        """A server that answers misses of quiet gets is understood."""
        done = self.protocol.get_multi(["a"])
        a, fence = self.peer.requests()
        self.peer.say(miss(a), answer(fence))
        self.assertEqual(self.successResultOf(done), {})

    def test_duplicates(self) -> None:
        """A key that is given twice is asked for once."""
        self.protocol.get_multi(["a", "b", "a"])
        self.assertEqual([r.key for r in self.peer.requests()], [b"a", b"b", b""])
        self.setUp()
        done = self.protocol.delete_multi(["a", "a"])
        (request, fence) = self.peer.requests()
        self.peer.say(answer(request, status=1), answer(fence))
        self.assertEqual(self.successResultOf(done), ["a"])

    def test_same_key_twice(self) -> None:
        """A key given as text and as bytes is found under both."""
        keys: list[Any] = ["a", b"a"]
        done: Deferred[Any] = self.protocol.get_multi(keys)
        first, second, fence = self.peer.requests()
        self.peer.say(hit(first), hit(second), answer(fence))
        self.assertEqual(set(self.successResultOf(done)), {"a", b"a"})

    def test_none(self) -> None:
        """No keys are a result at once, and nothing is sent."""
        self.assertEqual(self.successResultOf(self.protocol.get_multi([])), {})
        self.assertEqual(self.successResultOf(self.protocol.set_multi({})), [])
        self.assertEqual(self.successResultOf(self.protocol.delete_multi([])), [])
        self.assert_nothing_sent()

    def test_set_multi(self) -> None:
        """Values are stored in one round trip; silence is success."""
        done = self.protocol.set_multi({"a": b"1", "b": b"2"}, exptime=60, flags=5)
        a, b, fence = self.peer.requests()
        self.assertEqual(opcodes([a, b, fence]), [Opcode.SETQ, Opcode.SETQ, Opcode.NOOP])
        self.assertEqual((a.value, b.value), (b"1", b"2"))
        self.assertEqual({a.extras, b.extras}, {pack(">II", 5, 60)})
        self.assertNoResult(done)
        self.peer.say(answer(fence))
        self.assertEqual(self.successResultOf(done), [])

    def test_delete_multi(self) -> None:
        """The keys where there was nothing come back, as they were given."""
        done = self.protocol.delete_multi(["a", "ж", "c"])
        a, b, c, fence = self.peer.requests()
        self.assertEqual(opcodes([a, b, c]), [Opcode.DELETEQ] * 3)
        self.peer.say(answer(b, status=1), answer(c, status=1), answer(fence))
        self.assertEqual(self.successResultOf(done), ["ж", "c"])

    def test_error(self) -> None:
        """When one of many fails, the whole fails with that, and the connection lives."""
        for call in (
            lambda p: p.set_multi({"a": b"", "b": b""}),
            lambda p: p.delete_multi(["a", "b"]),
            lambda p: p.get_multi(["a", "b"]),
        ):
            self.setUp()
            done = call(self.protocol)
            _, b, fence = self.peer.requests()
            self.peer.say(answer(b, b"Too large.", status=3), answer(fence))
            self.failureResultOf(done, ValueTooLarge)
            self.assertEqual(self.peer.wire.aborted, 0)

    def test_lost(self) -> None:
        """A loss in the middle is a failure, and never looks like misses."""
        done = self.protocol.get_multi(["a", "b"])
        self.peer.say(hit(self.peer.requests()[0]))
        self.peer.lose()
        self.assertTrue(self.failureResultOf(done, ConnectionClosed).value.sent)

    def test_failed_fence(self) -> None:
        """A fence that fails proves nothing of those before it: no misses are made of that."""
        done = self.protocol.get_multi(["a", "b"])
        self.peer.say(answer(self.peer.requests()[-1], status=0x82))
        self.failureResultOf(done, RemoteProtocolError)

    def test_cancelled(self) -> None:
        """Cancelling abandons all of them; the connection lives."""
        done = self.protocol.get_multi(["a", "b"])
        done.cancel()
        self.failureResultOf(done, CancelledError)
        a, _, fence = self.peer.requests()
        self.peer.say(hit(a), answer(fence))
        self.assertEqual(self.peer.wire.aborted, 0)
        self.assertEqual(self.protocol.pending, 0)


class ServerTests(ProtocolTestCase):
    def test_stats(self) -> None:
        """Statistics come by name, in any number of pieces."""
        done = self.protocol.stats("slabs")
        request = self.peer.request()
        self.peer.say(answer(request, b"48", key=b"1:chunk_size"))
        self.peer.say(answer(request, b"", key=b"empty"))
        self.assertNoResult(done)
        self.peer.say(answer(request))
        self.assertEqual(self.successResultOf(done), {b"1:chunk_size": b"48", b"empty": b""})

    def test_no_such_stats(self) -> None:
        """A group of statistics that the server does not have is a failure."""
        done = self.protocol.stats("nosuch")
        self.peer.say(answer(self.peer.request(), status=1))
        self.failureResultOf(done, KeyNotFound)

    def test_strange_version(self) -> None:
        """A version that is not UTF-8 is text nevertheless."""
        done = self.protocol.version()
        self.peer.say(answer(self.peer.request(), b"1.6\xff"))
        self.assertEqual(self.successResultOf(done), "1.6\\xff")

    def test_non_numeric(self) -> None:
        """Counting what is no number fails by its own class."""
        done = self.protocol.incr("k")
        self.peer.say(answer(self.peer.request(), b"Non-numeric", status=6))
        self.failureResultOf(done, NonNumericValue)

    def test_quit(self) -> None:
        """After `quit` what was asked before is answered, and nothing more can be asked."""
        before, done = self.protocol.get("a"), self.protocol.quit()
        self.peer.advance(0)
        after = self.failureResultOf(self.protocol.get("b"), ConnectionClosed).value
        self.assertIn("ended by quit", str(after))
        self.assertFalse(after.sent)
        get, quit_ = self.peer.requests()
        self.peer.say(miss(get), answer(quit_))
        self.assertIsNone(self.successResultOf(before))
        self.assertIs(self.successResultOf(done), True)
        self.peer.lose()
        self.assertEqual(self.peer.delayed(), [])

    def test_quit_and_close(self) -> None:
        """A connection that was asked to end can be closed, whatever the server does."""
        done = self.protocol.quit()
        closed = self.protocol.close()
        self.peer.say(answer(self.peer.request()))
        self.assertTrue(self.successResultOf(done))
        self.assertEqual(self.peer.wire.losing, 1)
        self.peer.pass_by(2.1)
        self.assertEqual(self.peer.wire.aborted, 1)
        self.peer.lose()
        self.successResultOf(closed)

    def test_quit_that_was_not_sent(self) -> None:
        """A `quit` that was refused leaves the connection as it was."""
        peer = Peer(Limits(max_pending=1))
        done = peer.protocol.get("a")
        self.failureResultOf(peer.protocol.quit(), PendingLimit)
        peer.say(miss(peer.request()))
        self.assertIsNone(self.successResultOf(done))
        self.assertNoResult(peer.protocol.get("b"))

    def test_quit_when_over(self) -> None:
        """The first reason why a connection is over stays."""
        self.protocol.close()
        self.failureResultOf(self.protocol.quit(), ConnectionClosed)
        error = self.failureResultOf(self.protocol.get("a"), ConnectionClosed).value
        self.assertIn("closed by this side", str(error))
