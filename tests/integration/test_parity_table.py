"""The table of exchanges is complete, and the comparison of two servers sees every difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.parity import operations, shapes
from tests.integration.parity.client import Section
from tests.integration.parity.exchange import Alone, Exchange, keys_of
from tests.integration.parity.transcript import compared
from tests.integration.test_parity import CLASSES, known_difference
from txtlsmc.wire.frames import Response
from txtlsmc.wire.opcodes import OPCODES, Opcode, Status


class TableTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Each exchange of a class has a test of its own."""
        for cls in CLASSES:
            names = [exchange.name for exchange in cls.exchanges()]
            self.assertEqual(len(names), len(set(names)))
            for name in names:
                self.assertTrue(hasattr(cls, f"test_{name}"), name)

    def test_keys(self) -> None:
        """No two exchanges that share a server ask for the same key."""
        for cls in CLASSES:
            owners: dict[bytes, str] = {}
            for exchange in cls.exchanges():
                if exchange.alone is Alone.NO:
                    for key in keys_of(exchange):
                        self.assertEqual(owners.setdefault(key, exchange.name), exchange.name, key)

    def test_opcodes(self) -> None:
        """Every opcode is asked for, well formed and with every wrong shape."""
        names = {exchange.name for exchange in shapes.shape_exchanges()}
        for row in OPCODES.values():
            word = row.opcode.name.lower()
            self.assertTrue(
                {f"shape_{word}_long_extras", f"shape_{word}_a_key_of_251_bytes"} <= names
            )
        asked = {exchange.name for exchange in operations.each_exchanges()}
        self.assertEqual(asked, {f"each_{row.opcode.name.lower()}" for row in OPCODES.values()})

    def test_differences(self) -> None:
        """Every name in the list of known differences is that of an exchange."""
        for cls in CLASSES:
            names = [exchange.name for exchange in cls.exchanges()]
            for difference in cls.differences:
                self.assertTrue(
                    any(known_difference([difference], name) for name in names),
                    (cls.__name__, difference.reason),
                )
        every = [exchange.name for cls in CLASSES for exchange in cls.exchanges()]
        for difference in {difference for cls in CLASSES for difference in cls.differences}:
            for pattern in difference.names:
                self.assertTrue(any(fnmatchcase(name, pattern) for name in every), pattern)


class ComparisonTests(SynchronousTestCase):
    def compare(
        self, left: Response, right: Response, *, endings: tuple[str, str] = ("", "")
    ) -> bool:
        """Return whether a server that says *left* says the same as one that says *right*."""
        return self.compare_all([left], [right], endings=endings)

    def compare_all(
        self,
        left: list[Response],
        right: list[Response],
        *,
        endings: tuple[str, str] = ("", ""),
        told: frozenset[bytes] = frozenset(),
    ) -> bool:
        """Return whether a server that says *left* says the same as one that says *right*."""
        lines, others = compared(
            Exchange("name", "says", (), told=told),
            [Section(left, endings[0])],
            [Section(right, endings[1])],
        )
        return lines == others

    def test_fields(self) -> None:
        """A difference in any field of a frame is one."""
        base = Response(Opcode.GETK, Status.OK, 1, 2, b"3333", b"key", b"value")
        self.assertTrue(self.compare(base, replace(base)))
        for changed in (
            replace(base, opcode=Opcode.GET),
            replace(base, status=Status.KEY_NOT_FOUND),
            replace(base, opaque=2),
            replace(base, cas=0),
            replace(base, extras=b"3334"),
            replace(base, extras=b"3333k", key=b"ey"),
            replace(base, key=b"keyv", value=b"alue"),
            replace(base, value=b"valuf"),
            replace(base, value=b"v" * 10_000),
        ):
            self.assertFalse(self.compare(base, changed), changed)
        long = replace(base, value=b"v" * 10_000)
        self.assertFalse(self.compare(long, replace(base, value=b"v" * 9_999 + b"w")))

    def test_number(self) -> None:
        """A frame more is a difference, and so is another end of the connection."""
        frame = Response(Opcode.NOOP)
        self.assertFalse(self.compare_all([frame], [frame, frame]))
        self.assertFalse(self.compare(frame, frame, endings=("open", "closed")))

    def test_cas(self) -> None:
        """Of versions only their order counts."""

        def versions(left: Sequence[int], right: Sequence[int]) -> bool:
            one, two = ([Response(Opcode.SET, cas=cas) for cas in each] for each in (left, right))
            return self.compare_all(one, two)

        self.assertTrue(versions([5, 7, 7, 0, 5], [50, 51, 51, 0, 50]))
        self.assertFalse(versions([5, 7, 7], [5, 7, 8]))
        self.assertFalse(versions([5, 7, 5], [5, 7, 7]))
        self.assertFalse(versions([5, 7], [7, 5]))
        self.assertFalse(versions([5, 0], [5, 7]))

    def test_made_up(self) -> None:
        """What a server makes up for a login may differ, and nothing around it."""

        def challenges(left: bytes, right: bytes) -> bool:
            status = Status.AUTHENTICATION_CONTINUE
            one, two = (Response(Opcode.SASL_AUTH, status, value=value) for value in (left, right))
            return self.compare(one, two)

        first = b"r=clientnonceabc,s=QSXCR+Q6sek8bf92,i=4096"
        self.assertTrue(challenges(first, b"r=clientnoncexyz,s=W22ZaJ0SNY7soEsU,i=4096"))
        self.assertFalse(challenges(first, b"r=clientnoncexyz,s=W22ZaJ0SNY7soEsU,i=4097"))
        self.assertFalse(challenges(first, b"r=othernonce,s=W22ZaJ0SNY7soEsU,i=4096"))
        self.assertTrue(challenges(b"<1.2@here>", b"<random@there>"))
        self.assertFalse(challenges(b"<1.2@here>", b"<random@there>x"))
        self.assertFalse(challenges(b"", b"v=" + b"A" * 43 + b"="))

    def test_statistics(self) -> None:
        """The real one may tell more, and other numbers, unless an exchange is about those."""

        def told(**numbers: bytes) -> list[Response]:
            items = numbers.items()
            named = [Response(Opcode.STAT, key=name.encode(), value=value) for name, value in items]
            return [*named, Response(Opcode.STAT)]

        def same(left: list[Response], right: list[Response], *wanted: bytes) -> bool:
            return self.compare_all(left, right, told=frozenset(wanted))

        self.assertTrue(same(told(pid=b"1", more=b"2"), told(pid=b"3")))
        self.assertFalse(same(told(pid=b"1"), told(pid=b"3"), b"pid"))
        self.assertFalse(same(told(pid=b"1", more=b"2"), told(pid=b"1"), b"more"))
        self.assertFalse(same(told(pid=b"1"), told(pid=b"1", more=b"2")))
        self.assertFalse(same(told(a=b"1", b=b"2"), told(b=b"2", a=b"1")))
        self.assertFalse(same(told(a=b"1"), told(a=b"1.5")))
        self.assertFalse(same(told(a=b"yes"), told(a=b"no")))
