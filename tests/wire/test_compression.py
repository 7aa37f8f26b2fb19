"""Tests of `txtlsmc.wire.compression`."""

from __future__ import annotations

import random
import tracemalloc
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.wire.compression import BadCompression, compress, decompress

MIB = 2**20
quickly = settings(deadline=None, database=None, max_examples=200)


def bomb(size: int) -> bytes:
    """Return what *size* zeros are compressed to, without making them all."""
    stream = zlib.compressobj(9)
    pieces = [stream.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*pieces, stream.flush()])


class CompressTests(SynchronousTestCase):
    def test_smaller_only(self) -> None:
        """What zlib would not make smaller stays as it is."""
        self.assertIsNone(compress(b""))
        self.assertIsNone(compress(b"short"))
        shrunk = compress(bytes(100))
        assert shrunk is not None
        self.assertLess(len(shrunk), 100)
        # The largest run of zeros that gains nothing, where it would gain the first byte next.
        equal = next(n for n in range(100) if len(zlib.compress(bytes(n))) == n)
        self.assertIsNone(compress(bytes(equal)))


class DecompressTests(SynchronousTestCase):
    def assert_bad(self, data: bytes, words: str, most: int = MIB) -> None:
        error = self.assertRaises(BadCompression, decompress, data, most)
        self.assertIn(words, str(error))
        self.assertIsNone(error.__context__)  # zlib's own

    @quickly
    @given(st.binary(max_size=3000), st.integers(0, 9), st.integers(1, 40))
    def test_what_it_was(self, data: bytes, level: int, times: int) -> None:
        """What was compressed comes back, at whatever level."""
        whole = data * times
        self.assertEqual(decompress(zlib.compress(whole, level), max(1, len(whole))), whole)

    def test_large(self) -> None:
        """Sizes around the pieces that it works in make no difference, and neither do many."""
        noise = random.Random(3).randbytes(3 * 2**16)
        for size in (2**16 - 1, 2**16, 2**16 + 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB + 7):
            for whole in (bytes(size), (noise * (size // len(noise) + 1))[:size]):
                for level in (0, 1, 9):
                    data = zlib.compress(whole, level)
                    self.assertTrue(decompress(data, 6 * MIB) == whole, (size, level))
                    self.assertTrue(decompress(data, size) == whole, (size, level))

    def test_bound(self) -> None:
        """The bound is the most that may come of it, to the byte."""
        for size in (1, 100, 2**16, MIB, 2 * MIB + 5):
            data = zlib.compress(bytes(size))
            self.assertEqual(len(decompress(data, size)), size)
            if size > 1:
                self.assert_bad(data, f"more than {size - 1} bytes", size - 1)

    def test_bomb(self) -> None:
        """A value made to fill the memory is given up when it is over the bound."""
        data = bomb(512 * MIB)
        self.assertLess(len(data), MIB)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for most in (16 * MIB, MIB + MIB // 2, 100):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            self.assert_bad(data, f"more than {most} bytes", most)
            peak = tracemalloc.get_traced_memory()[1] - before
            # Beside the result: a slice of the value, and a piece that zlib is putting together.
            self.assertLess(peak, most + MIB + 2**18)

    def test_every_truncation(self) -> None:
        """A stream that ends too early is refused, wherever it ends."""
        data = zlib.compress(b"some text, some more text, and some text again")
        for cut in range(len(data)):
            self.assert_bad(data[:cut], "not whole")
        large = zlib.compress(random.Random(1).randbytes(2**17))
        for cut in (2**16 - 1, 2**16, 2**16 + 1, 2**17, len(large) - 1):
            self.assert_bad(large[:cut], "not whole")

    def test_something_behind(self) -> None:
        """Whatever stands behind the stream is not dropped in silence."""
        data = zlib.compress(b"hello")
        for behind in (b"\0", b"more", data, bytes(2**17)):
            self.assert_bad(data + behind, "behind the compressed value")
        # Ends right where a slice does.
        noise = random.Random(2).randbytes(2**17)
        exact = next(
            stream
            for size in range(2**16 - 100, 2**16)
            if len(stream := zlib.compress(noise[:size], 0)) == 2**16
        )
        self.assertEqual(len(decompress(exact, MIB)), len(noise[: len(exact) - 11]))
        self.assert_bad(exact + b"x", "behind the compressed value")

    def test_damaged(self) -> None:
        """No byte of a stream can change unnoticed: it has a checksum."""
        data = zlib.compress(b"some text, some more text, and some text again")
        for place in range(len(data)):
            for bit in range(8):
                broken = bytearray(data)
                broken[place] ^= 1 << bit
                try:
                    read = decompress(bytes(broken), MIB)
                except BadCompression:
                    continue
                # Two bits of the header only say how hard it was tried.
                self.assertEqual(read, b"some text, some more text, and some text again")
        self.assert_bad(b"no zlib at all", "damaged")

    def test_other_formats(self) -> None:
        """Of gzip, and of zlib without a header or with a dictionary, nothing is guessed."""
        gzipped = zlib.compressobj(wbits=31)
        bare = zlib.compressobj(wbits=-15)
        dictionary = zlib.compressobj(zdict=b"hello")
        for stream in (gzipped, bare, dictionary):
            self.assert_bad(stream.compress(b"hello hello") + stream.flush(), "damaged")

    @quickly
    @given(st.binary(max_size=300))
    def test_anything(self, data: bytes) -> None:
        """Whatever it gets, it decompresses or says why not."""
        try:
            whole = decompress(data, 1000)
        except BadCompression:
            return
        self.assertLessEqual(len(whole), 1000)
