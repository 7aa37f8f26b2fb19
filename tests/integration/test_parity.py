"""
The embedded server answers as the real memcached does, frame by frame, and closes when it does.

The tests are made from a table: one for each exchange and each way that a server can be set up.
The first test of a class goes through all exchanges of the class with both servers at once, and
each test then compares what was said in its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import ClassVar, NamedTuple

from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from tests.integration.parity import expiry, logins, operations, server, shapes, sizes, streams
from tests.integration.parity.client import Section
from tests.integration.parity.exchange import Alone, Exchange, keys_of
from tests.integration.parity.logins import Flights, by_plain, by_scram
from tests.integration.parity.recording import Outcome, Setting, record
from tests.integration.parity.transcript import compared
from tests.memcached import needs_memcached
from txtlsmc.wire.frames import Response
from txtlsmc.wire.opcodes import OPCODES, Opcode, Status

MIB = 2**20


class Difference(NamedTuple):
    """
    Where the servers differ, and are to.

    Attributes:
        reason: why.
        names: of the exchanges, with * for anything; each must differ.
    """

    reason: str
    names: tuple[str, ...]


LONG_KEYS = Difference(
    "memcached has a read buffer of 16 KiB: it closes without an answer when the key does not fit",
    ("shape_*_a_key_of_65535_bytes",),
)
UNREAD_VALUES = Difference(
    "memcached does not look for a value that GAT, TOUCH and STAT can not have, and takes it for"
    " the next request; we refuse it, as it does for all others",
    (
        *("shape_gat*_a_*value", "shape_gat*_a_body_length_too_large"),
        *("shape_touch_a_*value", "shape_touch_a_body_length_too_large"),
        *("shape_stat_a_*value", "shape_stat_a_body_length_too_large"),
        *("shape_gat*_a_shorter_key_length", "shape_touch_a_shorter_key_length"),
    ),
)
UNKNOWN_OPCODES = Difference(
    "memcached skips the key and the extras of an unknown opcode twice, and so loses its place",
    ("unknown_*_extras*", "unknown_*_a_key", "unknown_*_a_key_of_24_bytes", "unknown_*_everything"),
)
UNSENT_ANSWERS = Difference(
    "memcached forgets the answers that it has not sent yet when there is no request behind them",
    ("magic_*_at_once", "unfinished_50_at_once", "unfinished_60_at_once", "unfinished_91_at_once"),
)
EARLY_REFUSALS = Difference(
    "we refuse as soon as the header is there what memcached refuses behind the key",
    (
        *("unfinished_wrong_extras", "unfinished_a_long_key", "unfinished_lengths_that_lie"),
        *("unfinished_an_unknown_opcode", "unfinished_an_unknown_opcode_and_value"),
    ),
)
NOT_COLLECTED = Difference(
    "we refuse what is over max_body by its header alone: without the key, and before the value",
    ("size_times_5", "announced_times_5", "announced_half_a_gib"),
)
HELD_ITEMS = Difference(
    "memcached does not pad a shorter number while the old item is in an answer it has not sent",
    ("held_decrement",),
)
EARLY_FLUSH = Difference(
    "memcached flushes up to two seconds early: in a second is at once",
    ("flush_in_1_second",),
)
LAZY_FLUSH = Difference(
    "memcached flushes an item when it is asked for: a later FLUSH brings back the others",
    ("flush_revoked",),
)
NO_ANSWER = Difference(
    "memcached does not answer this at all", ("stat_sizes_enable", "stat_sizes_disable")
)
TEXT_ONLY = Difference(
    "memcached counts values that are too large for its text protocol only", ("stat_of_too_large",)
)
LATE_SCRAM = Difference(
    "memcached looks at the channel binding and at whom one acts for a step later than we do",
    (
        *("first_scram_binding", "first_scram_other", "twice_scram_binding", "twice_scram_other"),
        *("after_half_a_scram_scram_other", "after_wrong_scram_other"),
    ),
)
LONG_MECHANISM = Difference(
    "we do not collect what is over max_body, and so do not see that the mechanism is too long",
    ("long_mmm*_5242880",),
)


class ParityTests(TestCase):
    """
    The base of all: subclasses say what is asked, and how the servers are set up.

    Attributes:
        setting: how.
        differences: those that are known.
    """

    timeout = 120
    setting: ClassVar[Setting] = Setting()
    differences: ClassVar[Sequence[Difference]] = ()
    _recorded: ClassVar[dict[str, Outcome] | Failure | None] = None

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        """Return what is asked."""
        return ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for exchange in cls.exchanges():
            setattr(cls, f"test_{exchange.name}", _test(exchange.name, exchange.says))

    async def compare(self, name: str) -> None:
        """Fail unless both servers said the same, or what they said differs as is known."""
        setting = self.setting
        reason = needs_memcached(sasl=setting.sasl, tls=setting.tls)
        if reason is not None:
            raise SkipTest(reason)
        cls = type(self)
        if cls._recorded is None:
            try:
                cls._recorded = await record(setting, tuple(cls.exchanges()))
            except Exception:
                cls._recorded = Failure()
        recorded = cls._recorded
        outcome = recorded if isinstance(recorded, Failure) else recorded[name]
        if isinstance(outcome, Failure):
            outcome.raiseException()
        real, memory = outcome
        known = known_difference(self.differences, name)
        if known is None:
            self.assertEqual(memory, real, "\n".join(["", "memcached:", *real, "", "we:", *memory]))
        else:
            self.assertNotEqual(memory, real, f"this is not so any more: {known.reason}")


def _test(name: str, says: str) -> Callable[[ParityTests], Awaitable[None]]:
    async def test(self: ParityTests) -> None:
        await self.compare(name)

    test.__name__ = f"test_{name}"
    test.__doc__ = f"{says[0].upper()}{says[1:]}: both servers answer alike."
    return test


def known_difference(differences: Iterable[Difference], name: str) -> Difference | None:
    """Return the one that an exchange is known for."""
    for difference in differences:
        if any(fnmatchcase(name, pattern) for pattern in difference.names):
            return difference
    return None


def behind(flights: Flights, exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
    """Yield *exchanges* that begin with other flights."""
    for exchange in exchanges:
        yield exchange.behind(*flights)


def with_names(names: Iterable[str], exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
    """Yield those of *exchanges* whose name is like one of *names*."""
    patterns = tuple(names)
    for exchange in exchanges:
        if any(fnmatchcase(exchange.name, pattern) for pattern in patterns):
            yield exchange


# A server without anything ------------------------------------------------------------------


class OperationTests(ParityTests):
    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return chain(
            operations.keyed_exchanges(),
            operations.keyless_exchanges(),
            operations.joined_exchanges(),
            sizes.flags_exchanges(),
            expiry.exptime_exchanges(),
        )


class CountTests(ParityTests):
    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return operations.count_exchanges()


class ShapeTests(ParityTests):
    differences = (LONG_KEYS, UNREAD_VALUES, UNKNOWN_OPCODES, UNSENT_ANSWERS)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return chain(
            shapes.shape_exchanges(), shapes.unknown_exchanges(), shapes.header_exchanges()
        )


class StreamTests(ParityTests):
    differences = (UNSENT_ANSWERS, EARLY_REFUSALS, HELD_ITEMS)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return chain(
            streams.pipeline_exchanges(),
            streams.quiet_exchanges(),
            streams.cut_exchanges(),
            streams.unfinished_exchanges(),
            streams.held_exchanges(),
        )


class SizeTests(ParityTests):
    differences = (NOT_COLLECTED,)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return chain(sizes.size_exchanges(MIB), sizes.announced_exchanges(MIB))


class LargeItemTests(ParityTests):
    setting = Setting(arguments=("-I", "2m"), options={"max_item": 2 * MIB})
    differences = (NOT_COLLECTED,)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        settings = with_names(["stat_settings"], server.stat_exchanges())
        return chain(sizes.size_exchanges(2 * MIB), settings)


class WaitingTests(ParityTests):
    """All that takes time, side by side."""

    differences = (EARLY_FLUSH, LAZY_FLUSH, NO_ANSWER, TEXT_ONLY)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return chain(expiry.waiting_exchanges(), server.flush_exchanges(), server.stat_exchanges())


class ForbiddenFlushTests(ParityTests):
    setting = Setting(arguments=("-F",), options={"flush_enabled": False})

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        settings = with_names(["stat_settings"], server.stat_exchanges())
        return chain(server.forbidden_flush_exchanges(), settings)


# SASL ---------------------------------------------------------------------------------------


class NobodyTests(ParityTests):
    """Before anybody logged in."""

    setting = Setting(sasl=True)
    differences = (LONG_KEYS, UNSENT_ANSWERS)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return chain(
            logins.nobody_exchanges(),
            shapes.shape_exchanges(),
            shapes.unknown_exchanges(),
            shapes.header_exchanges(),
        )


class LoginTests(ParityTests):
    setting = Setting(sasl=True)
    differences = (LATE_SCRAM, LONG_MECHANISM)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return chain(
            logins.word_exchanges(), logins.dialogue_exchanges(), logins.long_word_exchanges()
        )


class AfterPlainTests(ParityTests):
    setting = Setting(sasl=True)
    differences = (LONG_KEYS, UNREAD_VALUES, UNKNOWN_OPCODES, UNSENT_ANSWERS)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        some = ("getq", "gat", "set", "appendq", "increment", "flush", "noop", "stat", "sasl_auth")
        return behind(
            by_plain(),
            chain(
                operations.keyed_exchanges(),
                with_names(["noop*", "version*", "quit*"], operations.keyless_exchanges()),
                with_names([f"shape_{word}_*" for word in some], shapes.shape_exchanges()),
                with_names(["unknown_30_*"], shapes.unknown_exchanges()),
                with_names(["data_type_*", "magic_ff_*"], shapes.header_exchanges()),
                with_names(["stat_settings", "stat_nothing"], server.stat_exchanges()),
            ),
        )


class AfterScramTests(ParityTests):
    setting = Setting(sasl=True)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return behind(by_scram(), operations.each_exchanges())


# TLS ----------------------------------------------------------------------------------------


class TLSTests(ParityTests):
    """
    A choice, without large values: what comes behind one in the same flight may not be seen.

    Before 1.6.39 memcached overlooks what OpenSSL has read already, until more comes.
    """

    setting = Setting(tls=True)
    differences = (LONG_KEYS,)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return chain(
            operations.each_exchanges(),
            streams.pipeline_exchanges(),
            with_names(["cut_set_*", "cut_into_1000"], streams.cut_exchanges()),
            with_names(["shape_get_*extras", "shape_set_*"], shapes.shape_exchanges()),
        )


class TLSLoginTests(ParityTests):
    setting = Setting(sasl=True, tls=True)

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        return chain(
            behind(by_plain(), operations.each_exchanges()),
            with_names(["*_alone"], logins.nobody_exchanges()),
            with_names(["scram", "cram", "wrong"], logins.dialogue_exchanges()),
        )


# The table and the comparison themselves -----------------------------------------------------

CLASSES: Sequence[type[ParityTests]] = (
    *(OperationTests, CountTests, ShapeTests, StreamTests, SizeTests, LargeItemTests, WaitingTests),
    *(ForbiddenFlushTests, NobodyTests, LoginTests, AfterPlainTests, AfterScramTests),
    *(TLSTests, TLSLoginTests),
)


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
