"""Tests of `txtlsmc.wire.operations`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from math import inf, nan
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import (
    SERVER_ERRORS,
    InvalidArgument,
    InvalidKey,
    KeyNotFound,
    MemcacheError,
    NonNumericValue,
    ServerError,
    UnknownCommand,
)
from txtlsmc.wire import operations as op
from txtlsmc.wire.frames import Request, RequestReader, Response
from txtlsmc.wire.opcodes import QUIET_TWIN, Opcode, Status
from txtlsmc.wire.operations import (
    LONGEST_RELATIVE,
    KeyedItem,
    Operation,
    RawItem,
    absolute_exptime,
    encode_key,
    encode_keys,
)

Make = Callable[..., Operation[Any]]

#: Each way to call an operation, and the request that it makes.
REQUESTS: list[tuple[Make, Request]] = [
    (partial(op.get, "k"), Request(Opcode.GET, b"k")),
    (partial(op.gets, b"k"), Request(Opcode.GET, b"k")),
    (partial(op.getk, "k"), Request(Opcode.GETK, b"k")),
    (partial(op.gat, "k", 60), Request(Opcode.GAT, b"k", b"\0\0\0\x3c")),
    (partial(op.gatk, "k", 0xFFFFFFFF), Request(Opcode.GATK, b"k", b"\xff\xff\xff\xff")),
    (partial(op.set, "k", b"v"), Request(Opcode.SET, b"k", bytes(8), b"v")),
    (
        partial(op.set, "k", b"", flags=0xDEADBEEF, exptime=3600),
        Request(Opcode.SET, b"k", b"\xde\xad\xbe\xef\0\0\x0e\x10"),
    ),
    (partial(op.add, "k", b"v"), Request(Opcode.ADD, b"k", bytes(8), b"v")),
    (partial(op.replace, "k", b"v"), Request(Opcode.REPLACE, b"k", bytes(8), b"v")),
    (partial(op.cas, "k", b"v", 1), Request(Opcode.SET, b"k", bytes(8), b"v", 1)),
    (
        partial(op.decr, "k", initial=0),
        Request(Opcode.DECREMENT, b"k", b"\0\0\0\0\0\0\0\1" + bytes(8) + bytes(4)),
    ),
    (
        partial(op.add, "k", b"v", flags=1, exptime=2),
        Request(Opcode.ADD, b"k", b"\0\0\0\1\0\0\0\2", b"v"),
    ),
    (
        partial(op.replace, "k", b"v", flags=1, exptime=2),
        Request(Opcode.REPLACE, b"k", b"\0\0\0\1\0\0\0\2", b"v"),
    ),
    (
        partial(op.cas, "k", b"v", 2**64 - 1, flags=1, exptime=2),
        Request(Opcode.SET, b"k", b"\0\0\0\1\0\0\0\2", b"v", 2**64 - 1),
    ),
    (partial(op.append, "k", b"v"), Request(Opcode.APPEND, b"k", b"", b"v")),
    (partial(op.append, "k", b"v", cas=7), Request(Opcode.APPEND, b"k", b"", b"v", 7)),
    (partial(op.prepend, "k", b"v"), Request(Opcode.PREPEND, b"k", b"", b"v")),
    (partial(op.prepend, "k", b"v", cas=7), Request(Opcode.PREPEND, b"k", b"", b"v", 7)),
    (partial(op.delete, "k"), Request(Opcode.DELETE, b"k")),
    (partial(op.delete, "k", cas=7), Request(Opcode.DELETE, b"k", cas=7)),
    (
        partial(op.incr, "k"),
        Request(Opcode.INCREMENT, b"k", b"\0\0\0\0\0\0\0\1" + bytes(8) + b"\xff\xff\xff\xff"),
    ),
    (
        partial(op.incr, "k", 2**64 - 1, initial=0),
        Request(Opcode.INCREMENT, b"k", b"\xff" * 8 + bytes(8) + bytes(4)),
    ),
    (
        partial(op.decr, "k", 2, initial=3, exptime=0xFFFFFFFE),
        Request(Opcode.DECREMENT, b"k", b"\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3" + b"\xff\xff\xff\xfe"),
    ),
    (op.flush_all, Request(Opcode.FLUSH)),
    (partial(op.flush_all, 30), Request(Opcode.FLUSH, extras=b"\0\0\0\x1e")),
    (op.quit, Request(Opcode.QUIT)),
]
#: Those without a quiet form.
LOUD_ONLY: list[tuple[Make, Request]] = [
    (partial(op.touch, "k", 60), Request(Opcode.TOUCH, b"k", b"\0\0\0\x3c")),
    (op.noop, Request(Opcode.NOOP)),
    (op.version, Request(Opcode.VERSION)),
    (op.stats, Request(Opcode.STAT)),
    (partial(op.stats, "cachedump 1 2"), Request(Opcode.STAT, b"cachedump 1 2")),
    (partial(op.stats, b"x" * 250), Request(Opcode.STAT, b"x" * 250)),
]

#: The operations on a key, to be called with it.
KEYED: list[Make] = [
    op.get,
    op.gets,
    op.getk,
    lambda key: op.gat(key, 0),
    lambda key: op.gatk(key, 0),
    lambda key: op.touch(key, 0),
    lambda key: op.set(key, b""),
    lambda key: op.add(key, b""),
    lambda key: op.replace(key, b""),
    lambda key: op.cas(key, b"", 1),
    lambda key: op.append(key, b""),
    lambda key: op.prepend(key, b""),
    op.delete,
    op.incr,
    op.decr,
]

#: What each operation makes of a status that is not success; of all others it makes an error.
UNMET: list[tuple[Operation[Any], dict[int, object]]] = [
    (op.get("k"), {Status.KEY_NOT_FOUND: None}),
    (op.gets("k"), {Status.KEY_NOT_FOUND: None}),
    (op.getk("k"), {Status.KEY_NOT_FOUND: None}),
    (op.gat("k", 0), {Status.KEY_NOT_FOUND: None}),
    (op.gatk("k", 0), {Status.KEY_NOT_FOUND: None}),
    (op.touch("k", 0), {Status.KEY_NOT_FOUND: False}),
    (op.set("k", b""), {}),
    (op.add("k", b""), {Status.KEY_EXISTS: False}),
    (op.replace("k", b""), {Status.KEY_NOT_FOUND: False}),
    (op.cas("k", b"", 1), {Status.KEY_NOT_FOUND: False, Status.KEY_EXISTS: False}),
    (op.append("k", b""), {Status.KEY_NOT_FOUND: False, Status.NOT_STORED: False}),
    (op.prepend("k", b""), {Status.KEY_NOT_FOUND: False, Status.NOT_STORED: False}),
    (
        op.append("k", b"", cas=1),
        {Status.KEY_NOT_FOUND: False, Status.NOT_STORED: False, Status.KEY_EXISTS: False},
    ),
    (
        op.prepend("k", b"", cas=1),
        {Status.KEY_NOT_FOUND: False, Status.NOT_STORED: False, Status.KEY_EXISTS: False},
    ),
    (op.delete("k"), {Status.KEY_NOT_FOUND: False}),
    (op.delete("k", cas=1), {Status.KEY_NOT_FOUND: False, Status.KEY_EXISTS: False}),
    (op.incr("k"), {Status.KEY_NOT_FOUND: None}),
    (op.decr("k"), {Status.KEY_NOT_FOUND: None}),
    (op.flush_all(), {}),
    (op.noop(), {}),
    (op.version(), {}),
    (op.stats("nosuch"), {}),
    (op.quit(), {}),
]

quickly = settings(deadline=None, database=None, max_examples=200)


class RequestTests(SynchronousTestCase):
    def test_bytes(self) -> None:
        """The bytes on the wire are those of the specification."""
        zeros = "00000000"
        for operation, expected in (
            (op.get("Hello"), f"80000005 00000000 00000005 {zeros * 3} 48656c6c6f"),
            (op.get("Hello", quiet=True), f"80090005 00000000 00000005 {zeros * 3} 48656c6c6f"),
            (
                op.add("Hello", b"World", flags=0xDEADBEEF, exptime=3600),
                f"80020005 08000000 00000012 {zeros * 3} deadbeef 00000e10 48656c6c6f 576f726c64",
            ),
            (op.delete("Hello"), f"80040005 00000000 00000005 {zeros * 3} 48656c6c6f"),
            (
                op.incr("counter", 1, initial=0, exptime=3600),
                f"80050007 14000000 0000001b {zeros * 3} {zeros} 00000001 {zeros * 2} 00000e10"
                " 636f756e746572",
            ),
            (
                op.decr("counter", quiet=True),
                f"80160007 14000000 0000001b {zeros * 3} {zeros} 00000001 {zeros * 2} ffffffff"
                " 636f756e746572",
            ),
            (op.append("Hello", b"!"), f"800e0005 00000000 00000006 {zeros * 3} 48656c6c6f 21"),
            (op.touch("k", 1), f"801c0001 04000000 00000005 {zeros * 3} 00000001 6b"),
            (
                op.cas("k", b"v", 0x0102030405060708, quiet=True),
                f"80110001 08000000 0000000a {zeros} 01020304 05060708 {zeros * 2} 6b 76",
            ),
            (op.noop(), f"800a0000 00000000 00000000 {zeros * 3}"),
            (op.version(), f"800b0000 00000000 00000000 {zeros * 3}"),
            (op.stats(), f"80100000 00000000 00000000 {zeros * 3}"),
            (op.flush_all(60), f"80080000 04000000 00000004 {zeros * 3} 0000003c"),
            (op.quit(quiet=True), f"80170000 00000000 00000000 {zeros * 3}"),
        ):
            self.assertEqual(operation.request.encode(), bytes.fromhex(expected))

    def test_loud(self) -> None:
        """Each operation makes the request that it is named for."""
        for make, request in REQUESTS + LOUD_ONLY:
            self.assertEqual(make().request, request)

    def test_quiet(self) -> None:
        """The quiet form differs by the opcode alone."""
        for make, request in REQUESTS:
            quiet = replace(request, opcode=QUIET_TWIN[request.opcode])
            self.assertEqual(make(quiet=True).request, quiet)
            self.assertEqual(make(quiet=False).request, request)

    def test_complete(self) -> None:
        """There is an operation for everything that a client asks, but for SASL."""
        made = {make().request.opcode for make, _ in REQUESTS + LOUD_ONLY}
        made |= {make(quiet=True).request.opcode for make, _ in REQUESTS}
        self.assertEqual(made, {*Opcode} - {op for op in Opcode if op.name.startswith("SASL")})

    def test_well_formed(self) -> None:
        """A server reads each request as it was meant, and refuses none for its shape."""
        made = [make().request for make, _ in REQUESTS + LOUD_ONLY]
        made += [make(quiet=True).request for make, _ in REQUESTS]
        for number, request in enumerate(made):
            request.opaque = number
        reader = RequestReader(10_000)
        self.assertEqual(reader.feed(b"".join(request.encode() for request in made)), made)

    @quickly
    @given(
        st.binary(max_size=300),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 2),
        st.integers(0, 2**64 - 1),
        st.booleans(),
    )
    def test_any_arguments(
        self, value: bytes, flags: int, exptime: int, number: int, quiet: bool
    ) -> None:
        """Whatever the legal arguments are, a server reads these very numbers and bytes."""
        for operation, extras, cas in (
            (op.set("k", value, flags=flags, exptime=exptime, quiet=quiet), [flags, exptime], 0),
            (op.cas("k", value, number or 1, quiet=quiet), [0, 0], number or 1),
            (op.append("k", value, cas=number, quiet=quiet), [], number),
            (op.delete("k", cas=number, quiet=quiet), [], number),
            (op.gat("k", exptime, quiet=quiet), [exptime], 0),
            (
                op.incr("k", number, initial=number, exptime=exptime, quiet=quiet),
                [number >> 32, number & 0xFFFFFFFF] * 2 + [exptime],
                0,
            ),
        ):
            (request,) = RequestReader(1000).feed(operation.request.encode())
            assert isinstance(request, Request)
            self.assertEqual((request.key, request.cas), (b"k", cas))
            read = [
                int.from_bytes(request.extras[i : i + 4]) for i in range(0, len(request.extras), 4)
            ]
            self.assertEqual(read, extras)
            self.assertIn(request.value, (value, b""))
            self.assertEqual(request.value, operation.request.value)

    def test_value_types(self) -> None:
        """A value is bytes or a view of them, copied, and nothing that only looks like text."""
        array = bytearray(b"value")
        stores: list[Make] = [op.set, op.add, op.replace, op.append, op.prepend]
        stores.append(partial(op.cas, cas=1))
        for make in stores:
            for value in (b"value", array, memoryview(array), memoryview(b"-value-")[1:6]):
                request = make("k", value).request
                self.assertIs(type(request.value), bytes)
                self.assertEqual(request.value, b"value")
            for bad in ("value", None, 5, [118], object()):
                error = self.assertRaises(InvalidArgument, make, "k", bad)
                self.assertIn("a value is bytes", str(error))
        request = stores[0]("k", array).request
        array[0] = 0
        self.assertEqual(request.value, b"value")


class KeyTests(SynchronousTestCase):
    def test_every_byte(self) -> None:
        """White space and control characters are refused, and all other bytes are taken."""
        for byte in range(256):
            key = b"a" + bytes([byte]) + b"b"
            if byte > 0x20 and byte != 0x7F:
                self.assertEqual(encode_key(key), key)
                continue
            said = str(self.assertRaises(InvalidKey, encode_key, key))
            self.assertIn(f"byte 1 of the key is 0x{byte:02x}", said)
            self.assertRaises(InvalidKey, encode_key, key.decode())

    def test_place_of_the_bad_byte(self) -> None:
        """It says where the byte is that can not be in a key, also at either end."""
        self.assertIn("byte 0 ", str(self.assertRaises(InvalidKey, encode_key, "\na")))
        self.assertIn("byte 3 ", str(self.assertRaises(InvalidKey, encode_key, "éa ")))
        self.assertIn("byte 2 ", str(self.assertRaises(InvalidKey, encode_key, "!~\x7f\0")))
        self.assertIn("byte 249 ", str(self.assertRaises(InvalidKey, encode_key, "a" * 249 + "\n")))

    def test_length(self) -> None:
        """A key has 1 to 250 bytes, counted once it is encoded."""
        for key in ("a", "a" * 250, "é" * 125, "世" * 83 + "a", "🙂" * 62 + "ab"):
            self.assertEqual(encode_key(key), key.encode())
            self.assertEqual(encode_key(key.encode()), key.encode())
        for long in ("a" * 251, "é" * 126, "世" * 84, "🙂" * 63, " " * 251):
            size = len(long.encode())
            said = str(self.assertRaises(InvalidKey, encode_key, long))
            self.assertEqual(said, f"a key of {size} bytes; at most 250 are allowed")
        for empty in ("", b"", bytearray()):
            self.assertIn("is empty", str(self.assertRaises(InvalidKey, encode_key, empty)))

    def test_types(self) -> None:
        """A key is text or bytes; what travels is bytes."""
        for key in (b"key", bytearray(b"key"), memoryview(b"key")):
            encoded = encode_key(key)  # type: ignore[arg-type] # bytes-like is as good
            self.assertIs(type(encoded), bytes)
            self.assertEqual(encoded, b"key")
        for bad in (None, 5, 1.5, ["k"], ("k",), object(), True):
            said = str(self.assertRaises(InvalidKey, encode_key, bad))
            self.assertEqual(said, f"a key is str or bytes, not {type(bad).__name__}")

    def test_surrogates(self) -> None:
        """Text that UTF-8 can not encode is refused as a key."""
        self.assertIn("UTF-8", str(self.assertRaises(InvalidKey, encode_key, "a\ud800")))

    def test_every_operation(self) -> None:
        """No operation takes a bad key, and each raises before there is a request."""
        for make in KEYED:
            for bad in ("", "a b", "a\r\nflush_all", b"\0", "a" * 251, None, 7):
                self.assertRaises(InvalidKey, make, bad)
            self.assertEqual(make("schlüssel").request.key, "schlüssel".encode())

    @quickly
    @given(st.one_of(st.text(max_size=260), st.binary(max_size=260)))
    def test_any_key(self, key: str | bytes) -> None:
        """Any key is either refused, or one that text clients of the same cache can read too."""
        try:
            encoded = encode_key(key)
        except InvalidKey:
            return
        self.assertEqual(encoded, key.encode() if isinstance(key, str) else key)
        self.assertEqual(b"get %b\r\n".replace(b"%b", encoded).split(), [b"get", encoded])
        self.assertTrue(1 <= len(encoded) <= 250)


class ManyKeysTests(SynchronousTestCase):
    def one_by_one(self, keys: list[Any]) -> list[bytes] | str:
        """Return what `encode_key` makes of each, or says of the first that is wrong."""
        try:
            return [encode_key(key) for key in keys]
        except InvalidKey as error:
            return str(error)

    def together(self, keys: list[Any]) -> list[bytes] | str:
        try:
            encoded = encode_keys(keys)
        except InvalidKey as error:
            return str(error)
        self.assertEqual({type(key) for key in encoded} - {bytes}, set())
        return encoded

    def test_one_wrong(self) -> None:
        """Of many keys the wrong one is found, and told as if it had come alone."""

        class Text(str):
            pass

        awkward: list[Any] = [
            *(bytes([byte]) for byte in range(256)),
            *("", b"", "a" * 250, "a" * 251, "é" * 125, "é" * 126, b"a" * 251, "a\ud800", "a b"),
            *(None, 1, ["a"], bytearray(b"a"), memoryview(b"a"), bytearray(b" "), Text("a")),
        ]
        for key in awkward:
            for keys in ([key], ["good", key], [key, b"good"], [key, None, " "]):
                self.assertEqual(self.together(keys), self.one_by_one(keys), repr(key))
        self.assertEqual(encode_keys([]), [])

    @given(st.lists(st.one_of(st.text(max_size=3), st.binary(max_size=3)), max_size=5))
    @settings(max_examples=200, deadline=None, database=None)
    def test_any(self, keys: list[str | bytes]) -> None:
        """Many keys are encoded as each of them would be."""
        self.assertEqual(self.together(keys), self.one_by_one(keys))


class NumberTests(SynchronousTestCase):
    def test_ranges(self) -> None:
        """A number that the wire could not carry is refused, with its name and its range."""
        largest: dict[str, tuple[int, list[Make]]] = {
            "flags": (
                2**32 - 1,
                [
                    lambda n: op.set("k", b"", flags=n),
                    lambda n: op.add("k", b"", flags=n),
                    lambda n: op.replace("k", b"", flags=n),
                    lambda n: op.cas("k", b"", 1, flags=n),
                ],
            ),
            "exptime": (
                2**32 - 1,
                [
                    lambda n: op.set("k", b"", exptime=n),
                    lambda n: op.add("k", b"", exptime=n),
                    lambda n: op.replace("k", b"", exptime=n),
                    lambda n: op.cas("k", b"", 1, exptime=n),
                    lambda n: op.touch("k", n),
                    lambda n: op.gat("k", n),
                    lambda n: op.gatk("k", n),
                ],
            ),
            "exptime ": (
                2**32 - 2,
                [
                    lambda n: op.incr("k", initial=0, exptime=n),
                    lambda n: op.decr("k", initial=0, exptime=n),
                    lambda n: op.incr("k", exptime=n),
                ],
            ),
            "delta": (2**64 - 1, [lambda n: op.incr("k", n), lambda n: op.decr("k", n)]),
            "initial": (
                2**64 - 1,
                [lambda n: op.incr("k", initial=n), lambda n: op.decr("k", initial=n)],
            ),
            "cas": (
                2**64 - 1,
                [
                    lambda n: op.append("k", b"", cas=n),
                    lambda n: op.prepend("k", b"", cas=n),
                    lambda n: op.delete("k", cas=n),
                    lambda n: op.cas("k", b"", n or 1),
                ],
            ),
            "delay": (2**32 - 1, [lambda n: op.flush_all(n)]),
        }
        for name, (most, makes) in largest.items():
            for make in makes:
                for good in (0, 1, most, True):
                    make(good)
                for bad in (-1, most + 1, -(2**70), 2**70):
                    said = str(self.assertRaises(InvalidArgument, make, bad))
                    self.assertRegex(said, f"^{name.strip()} is from [01] to {most}, not {bad}$")
                for strange in ("1", 1.0, 1.5, nan, b"1", [1]):
                    said = str(self.assertRaises(InvalidArgument, make, strange))
                    expected = f"{name.strip()} is an int, not {type(strange).__name__}"
                    self.assertEqual(said, expected)

    def test_cas_of_zero(self) -> None:
        """A cas of 0 would store whatever there is, so it is refused."""
        said = str(self.assertRaises(InvalidArgument, op.cas, "k", b"", 0))
        self.assertIn("cas is from 1", said)

    def test_stats_argument(self) -> None:
        """What picks the statistics is text of at most 250 bytes."""
        self.assertIn("251 bytes", str(self.assertRaises(InvalidArgument, op.stats, "x" * 251)))
        self.assertIn("252 bytes", str(self.assertRaises(InvalidArgument, op.stats, "é" * 126)))
        for bad in (5, None, ["items"], "\ud800", 1.5):
            said = str(self.assertRaises(InvalidArgument, op.stats, bad))
            self.assertIn("the argument of stats", said)


class ExptimeTests(SynchronousTestCase):
    NOW = 1_700_000_000.25

    def test_conversion(self) -> None:
        """Never stays never, up to 30 days are relative, and more is a Unix time."""
        now = 1_700_000_001  # never before it was asked for
        for exptime, expected in (
            (0, 0),
            (0.0, 0),
            (-0.0, 0),
            (1, 1),
            (True, 1),
            (LONGEST_RELATIVE, LONGEST_RELATIVE),
            (LONGEST_RELATIVE + 1, now + LONGEST_RELATIVE + 1),
            (31 * 86_400, now + 31 * 86_400),
            (1_700_000_000, now + 1_700_000_000),
            (0.001, 1),
            (1.0, 1),
            (1.001, 2),
            (1e-300, 1),
            (LONGEST_RELATIVE - 0.5, LONGEST_RELATIVE),
            (LONGEST_RELATIVE + 0.5, now + LONGEST_RELATIVE + 1),
            (Fraction(5, 2), 3),
            (Decimal("2.5"), 3),
        ):
            self.assertEqual(absolute_exptime(exptime, self.NOW), expected)  # type: ignore[arg-type]  # on purpose

    def test_whole_now(self) -> None:
        """At a whole second nothing is rounded."""
        self.assertEqual(LONGEST_RELATIVE, 30 * 24 * 60 * 60)
        self.assertEqual(absolute_exptime(2_592_001, 1_700_000_000.0), 1_702_592_001)

    def test_over(self) -> None:
        """Whatever is below 0 is a Unix time long over: a small number would still live."""
        for exptime in (-1, -0.5, -0.001, -1e300, -(2**70), Fraction(-1, 3)):
            over = absolute_exptime(exptime, self.NOW)  # type: ignore[arg-type]  # on purpose
            self.assertTrue(LONGEST_RELATIVE < over < 86_400 * 365)

    def test_no_time(self) -> None:
        """What is no number of seconds is refused."""
        for bad in (nan, inf, -inf, None, "60", b"60", [60], 1j, Decimal("NaN"), Decimal("inf")):
            said = str(self.assertRaises(InvalidArgument, absolute_exptime, bad, self.NOW))
            self.assertIn("exptime is a number of seconds", said)

    def test_overflow(self) -> None:
        """Beyond what 32 bits hold is refused; the largest number there means something else."""
        last = 0xFFFFFFFF - 1 - 1_700_000_000
        self.assertEqual(absolute_exptime(last, 1_700_000_000), 0xFFFFFFFE)
        for exptime in (last + 1, last + 2, 2**32, 1e300, 2**1000):
            said = str(self.assertRaises(InvalidArgument, absolute_exptime, exptime, 1_700_000_000))
            self.assertIn("beyond what 32 bits can hold", said)

    @quickly
    @given(
        st.one_of(st.integers(1, 2**31), st.floats(1e-9, 2**31)),
        st.floats(1.6e9, 2**31 - 1),
    )
    def test_never_too_early(self, exptime: float, now: float) -> None:
        """An item never goes before its time, and at most two seconds after it."""
        sent = absolute_exptime(exptime, now)
        over = now + sent if sent <= LONGEST_RELATIVE else sent
        self.assertGreaterEqual(over, now + exptime - 1e-6)
        self.assertLess(over, now + exptime + 2 + 1e-6)
        self.assertTrue(0 < sent < 2**32 - 1)


class AnswerTests(SynchronousTestCase):
    def test_item(self) -> None:
        """A read gives value, flags and cas."""
        hit = Response(0, 0, 1, 2**64 - 1, b"\xde\xad\xbe\xef", b"", b"value")
        for operation in (op.get("k"), op.gets("k"), op.gat("k", 0)):
            item = operation.read([hit])
            self.assertEqual(item, RawItem(b"value", 0xDEADBEEF, 2**64 - 1))
            assert item is not None
            self.assertEqual((item.value, item.flags, item.cas), (b"value", 0xDEADBEEF, 2**64 - 1))

    def test_keyed_item(self) -> None:
        """A read that asked for the key gives it too."""
        hit = Response(0, 0, 1, 9, b"\0\0\0\x10", b"k", b"")
        for operation in (op.getk("k"), op.gatk("k", 0)):
            item = operation.read([hit])
            self.assertEqual(item, KeyedItem(b"k", b"", 16, 9))
            assert item is not None
            self.assertEqual((item.key, item.value, item.flags, item.cas), (b"k", b"", 16, 9))

    def test_done(self) -> None:
        """A write that was done gives True."""
        for operation in (
            op.set("k", b""),
            op.add("k", b""),
            op.replace("k", b""),
            op.cas("k", b"", 1),
            op.append("k", b""),
            op.prepend("k", b"", cas=1),
            op.delete("k"),
            op.delete("k", cas=1),
            op.touch("k", 0),
            op.flush_all(),
            op.noop(),
            op.quit(),
        ):
            self.assertIs(operation.read([Response(0, cas=5)]), True)

    def test_touched(self) -> None:
        """The flags that memcached sends for a touch do no harm."""
        self.assertIs(op.touch("k", 0).read([Response(0x1C, extras=bytes(4))]), True)

    def test_number(self) -> None:
        """Counting gives the new number, of 64 bits without a sign."""
        for number in (0, 1, 2**63, 2**64 - 1):
            answer = [Response(5, value=number.to_bytes(8))]
            self.assertEqual(op.incr("k").read(answer), number)
            self.assertEqual(op.decr("k").read(answer), number)

    def test_text(self) -> None:
        """The version is what the server says."""
        self.assertEqual(op.version().read([Response(0x0B, value=b"1.6.18")]), b"1.6.18")

    def test_statistics(self) -> None:
        """Statistics are numbers by name; the empty one that ends them is none."""
        end = Response(0x10)
        self.assertEqual(op.stats().read([end]), {})
        answers = [Response(0x10, key=b"pid", value=b"1"), Response(0x10, key=b"x"), end]
        self.assertEqual(op.stats().read(answers), {b"pid": b"1", b"x": b""})

    def test_broken_statistics(self) -> None:
        """Statistics that end with an error are no shorter list."""
        answers = [Response(0x10, key=b"pid", value=b"1"), Response(0x10, Status.OUT_OF_MEMORY)]
        self.assertRaises(MemcacheError, op.stats().read, answers)

    def test_silence(self) -> None:
        """Silence is a miss of a quiet read, the success of a quiet write, and no number."""
        for make, request in REQUESTS:
            expected = None if request.opcode in self.READS_AND_COUNTS else True
            self.assertIs(make(quiet=True).read([]), expected)

    READS_AND_COUNTS = (
        Opcode.GET,
        Opcode.GETK,
        Opcode.GAT,
        Opcode.GATK,
        Opcode.INCREMENT,
        Opcode.DECREMENT,
    )

    def test_every_status(self) -> None:
        """A miss and an unmet condition are results; every other status is its own error."""
        for operation, unmet in UNMET:
            opcode = operation.request.opcode
            for status in (*Status, 0x07, 0x08, 0x99, 0xFFFF):
                if status == Status.OK:
                    continue
                answer = Response(opcode, status, value=b"Too bad.\r\n")
                if status in unmet:
                    self.assertIs(operation.read([answer]), unmet[status])
                    continue
                error = self.assertRaises(ServerError, operation.read, [answer])
                self.assertIs(type(error), SERVER_ERRORS.get(status, ServerError))
                self.assertEqual((error.opcode, error.status), (opcode, status))
                self.assertEqual(error.text, "Too bad.\\r\\n")

    def test_errors_of_quiet_requests(self) -> None:
        """The error of a quiet request means what that of the loud one does."""
        error = self.assertRaises(
            NonNumericValue,
            op.incr("k", quiet=True).read,
            [Response(Opcode.INCREMENTQ, Status.NON_NUMERIC_VALUE)],
        )
        self.assertEqual(error.opcode, Opcode.INCREMENTQ)
        self.assertIs(op.add("k", b"", quiet=True).read([Response(0x12, 2)]), False)
        self.assertIs(op.delete("k", quiet=True).read([Response(0x14, 1)]), False)

    def test_server_error(self) -> None:
        """The error of an answer carries its opcode, its status and its text, made fit to read."""
        error = op.server_error(Response(0x0A, 0x81, value=b"\x1b[31m"))
        self.assertIs(type(error), UnknownCommand)
        self.assertEqual((error.opcode, error.status, error.text), (10, 0x81, "\\x1b[31m"))
        self.assertIs(type(op.server_error(Response(0, 1))), KeyNotFound)
