"""Tests of `txtlsmc.wire.codecs`."""

from __future__ import annotations

import array
import enum
import itertools
import os
import pickle
import traceback
import zlib
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import CodecError, InvalidSetting
from txtlsmc.wire.codecs import CODEC_NAMES, Codec, codec_named

LIBRARIES = ("pylibmc", "bmemcached", "pymemcache")
INSECURE = "-insecure-pickle"

quickly = settings(deadline=None, database=None, max_examples=200)

#: Twenty digits are the most, with any sign.
numbers = st.integers(-(10**20) + 1, 10**20 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
binaries = st.binary(max_size=300)


class Color(enum.IntEnum):
    RED = 7


class Word(str):
    """A str that says something else of itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not me"

    def encode(self, *arguments: object, **options: object) -> bytes:
        return b"not me"


class Blob(bytes):
    """Bytes that say something else of themselves."""

    __slots__ = ()

    def __bytes__(self) -> bytes:
        return b"not me"


class Refuses:
    """Can not be pickled, and says so with all that it holds."""

    def __reduce__(self) -> str:
        raise RuntimeError("my secret")


def raises(name: str) -> bytes:
    """Return a pickle that runs ``int(name)``."""
    return b"cbuiltins\nint\n(V" + name.encode() + b"\ntR."


class CodecTestCase(SynchronousTestCase):
    def assert_unreadable(self, codec: Codec, data: bytes, flags: int, words: str = "") -> str:
        """To read it fails, with an error that names codec and flags and does not hold the data."""
        error = self.assertRaises(CodecError, codec.decode, data, flags)
        self.assertEqual((error.codec, error.flags), (codec.name, flags))
        self.assert_silent(error)
        self.assertIn(f"codec {codec.name}, flags {flags}: ", str(error))
        self.assertIn(words, str(error))
        return str(error)

    def assert_not_taken(self, codec: Codec, value: object, words: str = "") -> str:
        """To store it fails, with an error that names the codec and does not hold the value."""
        error = self.assertRaises(CodecError, codec.encode, value)
        self.assertEqual((error.codec, error.flags), (codec.name, None))
        self.assert_silent(error)
        self.assertIn(f"codec {codec.name}: ", str(error))
        self.assertIn(words, str(error))
        return str(error)

    def assert_silent(self, error: CodecError) -> None:
        # Python's own errors hold the value, and would be shown or kept alive with ours.
        self.assertIsNone(error.__context__)
        self.assertNotIn("secret", str(error) + repr(vars(error)))
        self.assertNotIn("secret", "".join(traceback.format_exception_only(error)))


class MarksTests(CodecTestCase):
    def test_table(self) -> None:
        """Each codec marks each type as its library does."""
        cases: list[tuple[object, bytes, dict[str, int]]] = [
            (b"", b"", {"pylibmc": 0, "bmemcached": 16, "pymemcache": 0}),
            (b"\0\xff", b"\0\xff", {"pylibmc": 0, "bmemcached": 16, "pymemcache": 0}),
            ("", b"", {"pylibmc": 16, "bmemcached": 0, "pymemcache": 16}),
            ("grüße 🙂", "grüße 🙂".encode(), {"pylibmc": 16, "bmemcached": 0, "pymemcache": 16}),
            (0, b"0", {"pylibmc": 4, "bmemcached": 2, "pymemcache": 2}),
            (-17, b"-17", {"pylibmc": 4, "bmemcached": 2, "pymemcache": 2}),
            (2**64, b"18446744073709551616", {"pylibmc": 4, "bmemcached": 2, "pymemcache": 2}),
            (True, b"1", {"pylibmc": 2}),
            (False, b"0", {"pylibmc": 2}),
        ]
        for value, data, marks in cases:
            for library, flags in marks.items():
                for name in (library, library + INSECURE):
                    codec = codec_named(name)
                    self.assertEqual(codec.encode(value), (data, flags))
                    back = codec.decode(data, flags)
                    self.assertEqual(back, value)
                    self.assertIs(type(back), type(value))

    def test_long(self) -> None:
        """What old versions marked as long is read as the int that it is."""
        for name in ("bmemcached", "pymemcache"):
            self.assertEqual(codec_named(name).decode(b"12", 4), 12)

    def test_two_means_two_things(self) -> None:
        """The same mark is a bool to one library and an int to the others."""
        self.assertIs(codec_named("pylibmc").decode(b"1", 2), True)
        for name in ("bmemcached", "pymemcache"):
            one = codec_named(name).decode(b"1", 2)
            self.assertIs(type(one), int)
        said = self.assert_unreadable(codec_named("pylibmc"), b"42", 2, "neither 0 nor 1")
        self.assertIn("pymemcache", said)
        self.assertIn("bmemcached", said)

    def test_unknown_flags(self) -> None:
        """Marks that the library does not make, alone or together, are not guessed at."""
        known = {"pylibmc": {0, 1, 2, 4, 16}, "bmemcached": {0, 1, 2, 4, 16}}
        known["pymemcache"] = known["bmemcached"]
        for name, marks in known.items():
            codec = codec_named(name)
            for flags in (*range(64), 2**16, 2**16 + 4, 2**31, 2**32 - 1):
                if flags & ~8 not in marks:
                    self.assert_unreadable(codec, zlib.compress(b"1"), flags, "another client")

    @quickly
    @given(st.sampled_from(CODEC_NAMES), binaries, st.integers(0, 2**32 - 1) | st.integers(0, 31))
    def test_anything(self, name: str, data: bytes, flags: int) -> None:
        """Whatever is stored, it is read or fails as a `CodecError`."""
        if name.endswith(INSECURE) and flags & ~8 == 1:
            return  # to read that would be to run it
        codec = codec_named(name)
        try:
            value = codec.decode(data, flags)
        except CodecError as error:
            self.assertEqual((error.codec, error.flags), (name, flags))
        else:
            self.assertIn(type(value), (bytes, str, int, bool))


class RoundTripTests(CodecTestCase):
    @quickly
    @given(
        st.sampled_from([*LIBRARIES, *(name + INSECURE for name in LIBRARIES)]),
        numbers | texts | binaries | st.builds(lambda text, n: text * n, texts, st.integers(1, 20)),
        st.none() | st.integers(0, 50),
    )
    def test_round_trip(self, name: str, value: object, compress_above: int | None) -> None:
        """What is stored comes back, as the same type, compressed or not."""
        data, flags = codec_named(name, compress_above=compress_above).encode(value)
        self.assertIs(type(data), bytes)
        back = codec_named(name).decode(data, flags)
        self.assertEqual(back, value)
        self.assertIs(type(back), type(value))

    @quickly
    @given(st.sampled_from(["pylibmc", "pylibmc" + INSECURE]), st.booleans())
    def test_bool(self, name: str, value: bool) -> None:
        """A bool of pylibmc's comes back as a bool, and not as 0 or 1."""
        codec = codec_named(name, compress_above=0)
        self.assertIs(codec.decode(*codec.encode(value)), value)

    @quickly
    @given(binaries, st.integers(0, 2**32 - 1))
    def test_raw(self, value: bytes, flags: int) -> None:
        """Raw bytes come back as they are, whatever anybody marked them with."""
        codec = codec_named("raw")
        self.assertEqual(codec.encode(value), (value, 0))
        self.assertEqual(codec.decode(value, flags), value)

    def test_derived_types(self) -> None:
        """What is derived from str, bytes or int is stored as that, by what it really holds."""
        for name in (*LIBRARIES, *(library + INSECURE for library in LIBRARIES)):
            codec = codec_named(name)
            for value, plain in ((Color.RED, 7), (Word("word"), "word"), (Blob(b"blob"), b"blob")):
                data, flags = codec.encode(value)
                self.assertIs(type(data), bytes)
                self.assertEqual((data, flags), codec.encode(plain))
                self.assertIs(type(codec.decode(data, flags)), type(plain))
        data, _ = codec_named("raw").encode(Blob(b"blob"))
        self.assertIs(type(data), bytes)
        self.assertEqual(data, b"blob")

    def test_like_bytes(self) -> None:
        """A bytearray or memoryview is stored as bytes: those that it holds now."""
        for name in CODEC_NAMES:
            codec = codec_named(name)
            mutable = bytearray(b"before")
            for value in (mutable, memoryview(mutable)):
                data, flags = codec.encode(value)
                mutable[:] = b"after!"
                self.assertEqual((data, flags), codec.encode(b"before"))
                self.assertIs(type(data), bytes)
                mutable[:] = b"before"
            self.assertEqual(codec.encode(memoryview(b"abcdef")[::2])[0], b"ace")
            shorts = array.array("H", [1, 2])
            self.assertEqual(codec.encode(memoryview(shorts))[0], shorts.tobytes())


class NumberTests(CodecTestCase):
    marks = (("pylibmc", 4), ("bmemcached", 2), ("bmemcached", 4), ("pymemcache", 2))

    def test_twenty_digits(self) -> None:
        """An int has at most twenty digits, when it is stored as when it is read."""
        for name, flags in self.marks:
            codec = codec_named(name)
            for number in (10**20 - 1, -(10**20) + 1):
                self.assertEqual(codec.decode(codec.encode(number)[0], flags), number)
            for number in (10**20, -(10**20), 10**5000):
                self.assert_not_taken(codec, number, "20 digits")
            for data in (b"1" + bytes(20).replace(b"\0", b"0"), b"-" + b"9" * 21, b"9" * 100_000):
                self.assert_unreadable(codec, data, flags, "20 digits")

    def test_strict(self) -> None:
        """Much that Python would take for a number is none in a cache."""
        wrong = (b"", b"-", b"+1", b"--1", b" 1", b"1\n", b"1\t", b"\n1", b"1_000", b"1.0", b"1e3")
        for data in (
            *wrong,
            b"0x10",
            b"1L",
            b"one",
            b"1 2",
            b"1\0",
            "٣".encode(),
            b"\xb2",
            b"secret",
        ):
            for name, flags in self.marks:
                self.assert_unreadable(codec_named(name), data, flags, "marked as an int")

    def test_after_decrement(self) -> None:
        """A counter is read after the server counted: one grown shorter has blanks behind it."""
        for name, flags in self.marks:
            codec = codec_named(name)
            self.assertEqual(codec.decode(b"9 ", flags), 9)
            self.assertEqual(codec.decode(b"0" + b" " * 19, flags), 0)
            self.assert_unreadable(codec, b"0" + b" " * 20, flags)

    def test_bool_is_a_digit(self) -> None:
        """A bool is stored as 0 or 1, and nothing else is one."""
        codec = codec_named("pylibmc")
        for data in (b"", b"2", b"-1", b"00", b"01", b"1 ", b"True", b"t", b"\1", b"10", b"secret"):
            self.assert_unreadable(codec, data, 2, "marked as a bool")

    def test_never_compressed(self) -> None:
        """The server can count with every number that is stored, compression or not."""
        for name in LIBRARIES:
            codec = codec_named(name, compress_above=0)
            self.assertEqual(codec.encode(10**19)[0], b"1" + b"0" * 19)
            self.assertLess(len(zlib.compress(b"1" + b"0" * 19)), 20)  # it would be smaller


class TextTests(CodecTestCase):
    def test_not_utf8(self) -> None:
        """Bytes that are marked as text and are none fail, and are not shown."""
        for name, flags in (("pylibmc", 16), ("bmemcached", 0), ("pymemcache", 16)):
            codec = codec_named(name)
            for data in (
                b"secret \xff",
                b"\xc3",
                b"\xed\xa0\x80",
                b"\xc0\x80",
                "é".encode("latin-1"),
            ):
                self.assert_unreadable(codec, data, flags, "not UTF-8")
            self.assert_unreadable(codec, zlib.compress(b"secret \xff"), flags | 8, "not UTF-8")

    def test_half_a_pair(self) -> None:
        """Text that UTF-8 has no form for is refused at once."""
        for name in LIBRARIES:
            self.assert_not_taken(codec_named(name), "secret \ud800", "surrogate")


class OtherTypesTests(CodecTestCase):
    def test_refused_at_once(self) -> None:
        """Other types are refused when they are stored, with the type and the ways out."""
        for name in LIBRARIES:
            codec = codec_named(name)
            for value in (None, 1.5, ["secret"], {"secret": 1}, date(2020, 1, 1), object()):
                said = self.assert_not_taken(codec, value, f"no {type(value).__name__}:")
                self.assertIn("JSON", said)
                self.assertIn(name + INSECURE, said)
                self.assertIn("run code", said)
                taken = "str, int and bool" if name == "pylibmc" else "bytes, str and int,"
                self.assertIn(taken, said)

    def test_bool_without_mark(self) -> None:
        """Where a library has no mark for bools, True does not turn into 1 unasked."""
        for name in ("bmemcached", "pymemcache"):
            self.assert_not_taken(codec_named(name), True, "no bool:")

    def test_raw(self) -> None:
        """The raw codec takes nothing but bytes."""
        codec = codec_named("raw")
        for value in ("secret", 1, True, None, ["secret"], array.array("B", b"secret")):
            self.assert_not_taken(codec, value, f"no {type(value).__name__}:")


class PickleTests(CodecTestCase):
    def test_not_unpickled(self) -> None:
        """A pickled value is not read, and the error says how it could be, and what that means."""
        ran = self.mktemp()
        evil = b"cos\nmkdir\n(V" + ran.encode() + b"\ntR."
        for name in LIBRARIES:
            codec = codec_named(name)
            for data, flags in ((evil, 1), (zlib.compress(evil), 9)):
                said = self.assert_unreadable(codec, data, flags, "is pickled")
                self.assertIn(f"the codec {name}{INSECURE} reads it", said)
                self.assertIn("run code", said)
                self.assertIn("trusted", said)
        self.assertEqual(codec_named("raw").decode(evil, 1), evil)
        self.assertFalse(os.path.exists(ran))
        codec_named("pylibmc" + INSECURE).decode(evil, 1)  # and it would have run
        self.assertTrue(os.path.exists(ran))

    def test_pickled_by_name(self) -> None:
        """The codec made for it by name stores other types and reads them."""
        values = (None, 1.5, ["a", {"b": (1, 2)}], date(2020, 1, 1), {1, 2}, Color)
        for name in LIBRARIES:
            codec = codec_named(name + INSECURE)
            for value in values:
                data, flags = codec.encode(value)
                self.assertEqual(flags, 1)
                self.assertEqual(codec.decode(data, flags), value)
            self.assertEqual(data[:2], b"\x80\x04")  # the protocol that all supported Pythons read

    def test_bool_is_pickled(self) -> None:
        """As the libraries that have no mark for bools do it, they are pickled like the rest."""
        for name in ("bmemcached", "pymemcache"):
            codec = codec_named(name + INSECURE)
            data, flags = codec.encode(True)
            self.assertEqual((pickle.loads(data), flags), (True, 1))
            self.assertIs(codec.decode(data, flags), True)

    def test_compressed(self) -> None:
        """A pickled value is compressed like any other."""
        codec = codec_named("pylibmc" + INSECURE, compress_above=100)
        data, flags = codec.encode(["a" * 1000])
        self.assertEqual(flags, 9)
        self.assertLess(len(data), 100)
        self.assertEqual(codec.decode(data, flags), ["a" * 1000])

    def test_not_picklable(self) -> None:
        """What can not be pickled is refused with its type, and is not shown."""
        codec = codec_named("pylibmc" + INSECURE)
        self.assert_not_taken(codec, Refuses(), "this Refuses can not be pickled (RuntimeError)")
        self.assert_not_taken(codec, lambda: "secret", "this function can not be pickled")
        deep: list[object] = []
        for _ in range(100_000):
            deep = [deep]
        self.assert_not_taken(codec, deep, "this list can not be pickled (RecursionError)")

    def test_not_unpicklable(self) -> None:
        """A pickled value that is damaged, or that raises something, fails as any other."""
        codec = codec_named("pylibmc" + INSECURE)
        for data, why in (
            (b"", "EOFError"),
            (b"secret", "UnpicklingError"),
            (pickle.dumps("secret")[:-3], "UnpicklingError"),
            (b"csecret\nthing\n.", "ModuleNotFoundError"),
            (raises("secret"), "ValueError"),
        ):
            self.assert_unreadable(codec, data, 1, f"can not be unpickled ({why})")

    def test_large_int(self) -> None:
        """An int that is too large is refused, and not pickled in silence."""
        self.assert_not_taken(codec_named("pylibmc" + INSECURE), 10**20, "20 digits")


class CompressionTests(CodecTestCase):
    def test_off_by_default(self) -> None:
        """Nothing is compressed unless a threshold is set."""
        for name in (*LIBRARIES, *(library + INSECURE for library in LIBRARIES)):
            for value in (b"a" * 100_000, "a" * 100_000):
                data, flags = codec_named(name).encode(value)
                self.assertEqual((len(data), flags & 8), (100_000, 0))

    def test_threshold(self) -> None:
        """Values above the threshold are compressed; those of just that size are not."""
        letters: tuple[str | bytes, ...] = (b"a", "a")
        for name, value in itertools.product(LIBRARIES, letters):
            codec = codec_named(name, compress_above=50)
            plain = codec.encode(value)[1]
            self.assertEqual(codec.encode(value * 50), (b"a" * 50, plain))
            data, flags = codec.encode(value * 51)
            self.assertEqual(flags, plain | 8)
            self.assertEqual(zlib.decompress(data), b"a" * 51)
            self.assertEqual(codec_named(name).decode(data, flags), value * 51)
        # It is the bytes that count, and not the characters.
        self.assertEqual(codec_named("pylibmc", compress_above=50).encode("é" * 26)[1], 24)
        self.assertEqual(codec_named("pylibmc", compress_above=0).encode(b""), (b"", 0))

    def test_only_when_smaller(self) -> None:
        """What zlib makes no smaller is stored as it is."""
        self.assertEqual(codec_named("pylibmc", compress_above=0).encode(b"short"), (b"short", 0))

    def test_all_types_are_read(self) -> None:
        """A compressed value of any type is read: some libraries compress numbers too."""
        for name, flags, data, value in (
            ("pylibmc", 12, b"17", 17),
            ("pylibmc", 10, b"1", True),
            ("pylibmc", 8, b"x", b"x"),
            ("pylibmc", 24, b"x", "x"),
            ("bmemcached", 10, b"17", 17),
            ("bmemcached", 8, b"x", "x"),
            ("bmemcached", 24, b"x", b"x"),
            ("pymemcache", 10, b"17", 17),
        ):
            back = codec_named(name).decode(zlib.compress(data), flags)
            self.assertEqual(back, value)
            self.assertIs(type(back), type(value))

    def test_unreadable(self) -> None:
        """A compressed value that is broken, or not whole, or has something behind it, fails."""
        data = zlib.compress(b"secret" * 100)
        for name, flags in (("pylibmc", 8), ("bmemcached", 24), ("pymemcache", 8)):
            codec = codec_named(name)
            self.assert_unreadable(codec, data[:-1], flags, "not whole")
            self.assert_unreadable(codec, b"", flags, "not whole")
            self.assert_unreadable(codec, data + b"x", flags, "behind the compressed value")
            self.assert_unreadable(codec, b"secret", flags, "damaged")

    def test_bound(self) -> None:
        """What a value may become has a bound, 64 MiB unless it is set."""
        data = zlib.compress(bytes(1000))
        self.assertEqual(codec_named("pylibmc", max_decompressed=1000).decode(data, 8), bytes(1000))
        narrow = codec_named("pylibmc", max_decompressed=999)
        self.assert_unreadable(narrow, data, 8, "more than 999 bytes")
        large = zlib.compress(bytes(64 * 2**20))
        self.assertEqual(len(bytes(codec_named("pylibmc").decode(large, 8))), 64 * 2**20)  # type: ignore[call-overload]  # bytes
        self.assert_unreadable(
            codec_named("pylibmc"), zlib.compress(bytes(64 * 2**20 + 1)), 8, "more than 67108864"
        )

    def test_writes_what_it_reads(self) -> None:
        """A value that would be over the bound when it is read back is stored as it is."""
        codec = codec_named("pylibmc", compress_above=10, max_decompressed=1000)
        for size, flags in ((1000, 8), (1001, 0)):
            data, marked = codec.encode(bytes(size))
            self.assertEqual(marked, flags)
            self.assertEqual(codec.decode(data, marked), bytes(size))


class NamesTests(CodecTestCase):
    def test_names(self) -> None:
        """These are all; each way round security says so in its name."""
        self.assertEqual(
            sorted(CODEC_NAMES),
            [
                "bmemcached",
                "bmemcached-insecure-pickle",
                "pylibmc",
                "pylibmc-insecure-pickle",
                "pymemcache",
                "pymemcache-insecure-pickle",
                "raw",
            ],
        )
        for name in CODEC_NAMES:
            codec = codec_named(name)
            self.assertEqual(codec.name, name)
            self.assertEqual(repr(codec), f"<codec {name}>")

    def test_no_such_codec(self) -> None:
        """An unknown name fails with those that there are."""
        wrong: tuple[object, ...] = ("pickle", "", "PYLIBMC", "raw-insecure-pickle", None, 3, [])
        for name in (*wrong, "pylibmc-insecure-pickle ", "-insecure-pickle", "pylibmc-insecure"):
            error = self.assertRaises(InvalidSetting, codec_named, name)
            self.assertIn(f"no codec {name!r}", str(error))
            for existing in CODEC_NAMES:
                self.assertIn(existing, str(error))

    def test_numbers(self) -> None:
        """Sizes are whole numbers of bytes."""
        wrong: object
        for wrong in (-1, 1.5, True, "100"):
            error = self.assertRaises(InvalidSetting, codec_named, "pylibmc", compress_above=wrong)
            self.assertIn(f"compress_above must be a number of bytes, not {wrong!r}", str(error))
        for wrong in (0, -1, 1.5, True, "100", None):
            error = self.assertRaises(
                InvalidSetting, codec_named, "pylibmc", max_decompressed=wrong
            )
            self.assertIn("max_decompressed must be", str(error))
        codec_named("pylibmc", compress_above=0, max_decompressed=1)

    def test_raw_does_not_compress(self) -> None:
        """Raw bytes have no mark, so nothing would tell the reader that they are compressed."""
        error = self.assertRaises(InvalidSetting, codec_named, "raw", compress_above=100)
        self.assertIn("can not compress", str(error))
