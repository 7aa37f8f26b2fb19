"""
The embedded server answers as the real memcached does, frame by frame, and closes when it does.

The tests are made from a table: one for each exchange and each way that a server can be set up.
The first test of a class goes through all exchanges of the class with both servers at once, and
each test then compares what was said in its own.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import ClassVar, NamedTuple

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from tests.integration.parity import expiry, logins, operations, server, shapes, sizes, streams
from tests.integration.parity.client import SILENT
from tests.integration.parity.exchange import Exchange
from tests.integration.parity.logins import Flights, by_plain, by_scram
from tests.integration.parity.recording import Outcome, Setting, record
from tests.memcached import needs_memcached

MIB = 2**20
#: When a class that is not through is given up.
DEADLINE = 120.0


class Difference(NamedTuple):
    """
    Where the servers differ, and are to.

    Attributes:
        reason: why.
        names: of the exchanges, with * for anything; each must differ.
        ours: what must be found in the lines of our server.
    """

    reason: str
    names: tuple[str, ...]
    ours: str


LONG_KEYS = Difference(
    "memcached has a read buffer of 16 KiB: it closes without an answer when the key does not fit",
    ("shape_*_a_key_of_65535_bytes",),
    r" status=0x(04|20) .*\nclosed$",
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
    r" status=0x04 .*\nclosed$",
)
UNKNOWN_OPCODES = Difference(
    "memcached skips the key and the extras of an unknown opcode twice, and so loses its place",
    ("unknown_*_extras*", "unknown_*_a_key", "unknown_*_a_key_of_24_bytes", "unknown_*_everything"),
    r"^0x.. status=0x81 .*\nfence 0\nfence 1\nopen\nclosed$",
)
UNSENT_ANSWERS = Difference(
    "memcached forgets the answers that it has not sent yet when there is no request behind them",
    ("magic_*_at_once", "unfinished_50_at_once", "unfinished_60_at_once", "unfinished_91_at_once"),
    r"^(VERSION|GETK) status=0x00 .*\nclosed$",
)
EARLY_REFUSALS = Difference(
    "we refuse as soon as the header is there what memcached refuses behind the key",
    (
        *("unfinished_wrong_extras", "unfinished_a_long_key", "unfinished_lengths_that_lie"),
        *("unfinished_an_unknown_opcode", "unfinished_an_unknown_opcode_and_value"),
    ),
    r" status=0x(04|81) .*\nclosed$",
)
NOT_COLLECTED = Difference(
    "we refuse what is over max_body by its header alone: without the key, and before the value",
    ("size_times_5", "announced_times_5", "announced_half_a_gib"),
    r"^SET status=0x03 ",
)
HELD_ITEMS = Difference(
    "memcached does not pad a shorter number while the old item is in an answer it has not sent",
    ("held_decrement",),
    r" value='9 '$",
)
EARLY_FLUSH = Difference(
    "memcached flushes up to two seconds early: in a second is at once",
    ("flush_in_1_second",),
    r"^FLUSH .*\n(GETK status=0x00 .*\n){3}fence",
)
LAZY_FLUSH = Difference(
    "memcached flushes an item when it is asked for: a later FLUSH brings back the others",
    ("flush_revoked",),
    r"^FLUSH .*\n(GETK status=0x01 .*\n){3}fence",
)
NO_ANSWER = Difference(
    "memcached does not answer this at all",
    ("stat_sizes_enable", "stat_sizes_disable"),
    r"^STAT status=0x01 ",
)
TEXT_ONLY = Difference(
    "memcached counts values that are too large for its text protocol only",
    ("stat_of_too_large",),
    r" key='store_too_large' value='1'$",
)
LATE_SCRAM = Difference(
    "memcached looks at the channel binding and at whom one acts for a step later than we do",
    (
        *("first_scram_binding", "first_scram_other", "twice_scram_binding", "twice_scram_other"),
        *("after_half_a_scram_scram_other", "after_wrong_scram_other"),
    ),
    r"^SASL_AUTH status=0x20 ",
)
LONG_MECHANISM = Difference(
    "we do not collect what is over max_body, and so do not see that the mechanism is too long",
    ("long_mmm*_5242880",),
    r"^SASL_AUTH status=0x82 ",
)


class ParityTests(TestCase):
    """
    The base of all: subclasses say what is asked, and how the servers are set up.

    Attributes:
        setting: how.
        differences: those that are known.
    """

    timeout = 2 * DEADLINE  # the deadline is kept in good order, and trial's is not
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
            known = known_difference(cls.differences, exchange.name)
            setattr(cls, f"test_{exchange.name}", _test(exchange, known))

    async def compare(self, name: str, known: Difference | None) -> None:
        """Fail unless both servers said the same, or what they said differs as is *known*."""
        setting = self.setting
        reason = needs_memcached(sasl=setting.sasl, tls=setting.tls)
        if reason is not None:
            raise SkipTest(reason)
        cls = type(self)
        if cls._recorded is None:
            recording = Deferred.fromCoroutine(record(setting, tuple(cls.exchanges())))
            recording.addTimeout(DEADLINE, IReactorTime(reactor))
            try:
                cls._recorded = await recording
            except Exception:
                cls._recorded = Failure()
        recorded = cls._recorded
        outcome = recorded if isinstance(recorded, Failure) else recorded[name]
        if isinstance(outcome, Failure):
            outcome.raiseException()
        real, memory = outcome
        self.assertNotIn(SILENT, real + memory, "\n".join(memory))
        if known is None:
            self.assertEqual(memory, real, "\n".join(["", "memcached:", *real, "", "we:", *memory]))
        else:
            self.assertNotEqual(memory, real, f"this is not so any more: {known.reason}")
            self.assertIsNotNone(re.search(known.ours, "\n".join(memory), re.MULTILINE), memory)


def _test(exchange: Exchange, known: Difference | None) -> Callable[[ParityTests], Awaitable[None]]:
    async def test(self: ParityTests) -> None:
        await self.compare(exchange.name, known)

    verdict = "both servers answer alike" if known is None else "the servers differ, as is known"
    test.__name__ = f"test_{exchange.name}"
    test.__doc__ = f"{exchange.says[0].upper()}{exchange.says[1:]}: {verdict}."
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

    @classmethod
    def exchanges(cls) -> Iterable[Exchange]:
        some = with_names(["size_[!t]*"], sizes.size_exchanges(2 * MIB))
        return chain(some, with_names(["stat_settings"], server.stat_exchanges()))


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


CLASSES: Sequence[type[ParityTests]] = (
    *(OperationTests, CountTests, ShapeTests, StreamTests, SizeTests, LargeItemTests, WaitingTests),
    *(ForbiddenFlushTests, NobodyTests, LoginTests, AfterPlainTests, AfterScramTests),
    *(TLSTests, TLSLoginTests),
)
