"""Names and passwords are the same however they were typed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.wire.saslprep import Unprepared, prepare


class PrepareTests(SynchronousTestCase):
    def assert_prepared(self, expected: str | Unprepared, *texts: str) -> None:
        for text in texts:
            for stored in (False, True):
                self.assertEqual(prepare(text, stored=stored), expected, ascii(text))

    def test_rfc_4013(self) -> None:
        """The examples of RFC 4013, section 3, come out as it says."""
        self.assert_prepared("IX", "I\u00adX", "\u2168")
        self.assert_prepared("user", "user")
        self.assert_prepared("USER", "USER")
        self.assert_prepared("a", "\u00aa")
        self.assert_prepared(Unprepared.PROHIBITED, "\u0007")
        self.assert_prepared(Unprepared.BIDIRECTIONAL, "\u0627\u0031")

    def test_spaces(self) -> None:
        """Every kind of space is a space, and what has no width is nothing."""
        self.assert_prepared("a b", "a b", "a\u00a0b", "a\u2003b", "a\u3000b", "a\u200bb")
        self.assert_prepared("ab", "a\u200db", "\ufeffab", "a\u2060b", "ab\ufe0f")

    def test_composition(self) -> None:
        """An accent may be a character of its own or not; letter case stays."""
        self.assert_prepared("\u00e9", "\u00e9", "e\u0301")
        self.assert_prepared("\u00c9", "E\u0301")
        self.assert_prepared("ffi", "\ufb03")

    def test_unicode_3_2(self) -> None:
        """Normalization is that of Unicode 3.2: what came later stays as it is."""
        # U+1D2C, "modifier letter capital A", is of Unicode 4.0, and an "A" since.
        self.assertEqual(prepare("\u1d2c", stored=False), "\u1d2c")

    def test_empty(self) -> None:
        """Nothing is no name, and neither is what SASLprep makes nothing of."""
        self.assert_prepared(Unprepared.EMPTY, "", "\u00ad", "\u200d\ufeff")

    def test_prohibited(self) -> None:
        """Each table of prohibited characters is looked into."""
        self.assert_prepared(
            Unprepared.PROHIBITED,
            "a\x00",  # C.2.1
            "a\x7fb",
            "a\u0085b",  # C.2.2
            "\ue000",  # C.3
            "\ufdd0",  # C.4
            "\U0001ffff",
            "\ud800",  # C.5
            "\ufffd",  # C.6
            "\u2ff0",  # C.7
            "\u200e",  # C.8
            "\U000e0041",  # C.9
        )

    def test_bidirectional(self) -> None:
        """Right-to-left text begins and ends as such, and has nothing of the other kind."""
        self.assert_prepared("\u05d0", "\u05d0")
        self.assert_prepared("\u05d01\u05d0", "\u05d01\u05d0")
        self.assert_prepared(
            Unprepared.BIDIRECTIONAL, "1\u05d0", "\u05d01", "\u05d0a\u05d0", "a\u05d0"
        )

    def test_unassigned(self) -> None:
        """A character that Unicode 3.2 does not know is good for a query, and not to be stored."""
        for text in ("\U0001f511", "key\U0001f511", "\u0221"):
            self.assertEqual(prepare(text, stored=False), text)
            self.assertEqual(prepare(text, stored=True), Unprepared.UNASSIGNED)

    @given(st.text(), st.booleans())
    def test_once_is_enough(self, text: str, stored: bool) -> None:
        """What is prepared stays what it is when it is prepared again."""
        prepared = prepare(text, stored=stored)
        if isinstance(prepared, str):
            self.assertEqual(prepare(prepared, stored=stored), prepared)

    @given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1))
    def test_ascii(self, text: str) -> None:
        """Printable ASCII stays as it is."""
        self.assertEqual(prepare(text, stored=True), text)
