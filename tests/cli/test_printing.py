"""How keys and values are printed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.cli.printing import key_text, said_by, value_bytes, value_fields, value_line
from txtlsmc.errors import ConnectRefused, NodeDown


class PrintingTests(SynchronousTestCase):
    def test_as_it_is(self) -> None:
        """Bytes and text are written as they were stored, numbers as decimal text."""
        for value, written in (
            (b"\xff\n", b"\xff\n"),
            ("grüße\n", "grüße\n".encode()),
            (-5, b"-5"),
            (True, b"true"),
            (False, b"false"),
            ([1], b"[1]"),
        ):
            self.assertEqual(value_bytes(value), written)

    def test_on_one_line(self) -> None:
        """On one line there is no tab, no line's end and no escape sequence of a terminal."""
        for value, line in (
            ("two\nlines\tand \x1b[31mred", r"two\nlines\tand \x1b[31mred"),
            (b"\xff\x00", r"\xff\x00"),
            ("grüße", "grüße"),
        ):
            self.assertEqual(value_line(value), line)

    def test_unambiguous(self) -> None:
        """A backslash that was stored differs from that of an escape."""
        self.assertEqual(value_line("a\\n"), r"a\\n")
        self.assertEqual(value_line(b"\\xff"), r"\\xff")

    def test_fields(self) -> None:
        """JSON tells the type; bytes that are no text come as base64, and say so."""
        for value, fields in (
            ("text", {"type": "str", "value": "text"}),
            (b"text", {"type": "bytes", "value": "text"}),
            (b"\xff\x00", {"type": "bytes", "base64": "/wA="}),
            (5, {"type": "int", "value": 5}),
            (True, {"type": "bool", "value": True}),
            ([1], {"type": "list", "repr": "[1]"}),
        ):
            self.assertEqual(value_fields(value), fields)

    def test_key(self) -> None:
        """A key that is not UTF-8 can be printed."""
        self.assertEqual(key_text(b"k\xff\xc3\xbc"), "k\\xffü")

    def test_why_a_server_is_down(self) -> None:
        """Of a server that is down it is told why, once."""
        why = ConnectRefused("mc:11211", "nobody listens")
        self.assertEqual(said_by(NodeDown("mc:11211", why)), "mc:11211: nobody listens")
        self.assertEqual(said_by(NodeDown("mc:11211")), "mc:11211 is down")
