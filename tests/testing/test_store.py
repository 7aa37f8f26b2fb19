"""The embedded server's memory forgets, counts and evicts as memcached does."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.testing.items import ITEM_OVERHEAD, Item, item_size, parse_number
from txtlsmc.testing.store import Condition, Result, Store
from txtlsmc.wire.opcodes import Status

START = 1_800_000_000
DAY = 24 * 60 * 60
MIB = 2**20


class StoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.wall = float(START)
        self.store = self.make_store()

    def make_store(self, max_bytes: int = 64 * MIB, max_item: int = MIB) -> Store:
        return Store(self.clock.seconds, lambda: self.wall, max_bytes=max_bytes, max_item=max_item)

    def set(
        self, key: bytes, value: bytes, exptime: int = 0, flags: int = 0, cas: int = 0
    ) -> Result:
        return self.store.store(Condition.ANY, key, value, exptime=exptime, flags=flags, cas=cas)

    def value(self, key: bytes) -> bytes | None:
        item = self.store.get(key)
        return None if item is None else item.value

    def item(self, key: bytes) -> Item:
        item = self.store.get(key)
        assert item is not None
        return item


class ConditionTests(StoreTestCase):
    def test_set(self) -> None:
        """Set stores, whatever there was; value and flags come back."""
        self.assertEqual(self.set(b"a", b"1", flags=7), Result(Status.OK, 1))
        self.assertEqual(self.set(b"a", b"2", flags=2**32 - 1), Result(Status.OK, 2))
        item = self.item(b"a")
        self.assertEqual((item.value, item.flags, item.cas), (b"2", 2**32 - 1, 2))

    def test_add(self) -> None:
        """Add stores where there was nothing, and leaves alone what is there."""
        self.assertEqual(self.store.store(Condition.MISSING, b"a", b"1").status, Status.OK)
        again = self.store.store(Condition.MISSING, b"a", b"2")
        self.assertEqual(again, Result(Status.KEY_EXISTS))
        self.assertEqual(self.value(b"a"), b"1")

    def test_replace(self) -> None:
        """Replace stores where there was something."""
        missing = self.store.store(Condition.PRESENT, b"a", b"1")
        self.assertEqual(missing, Result(Status.KEY_NOT_FOUND))
        self.set(b"a", b"1")
        self.assertEqual(self.store.store(Condition.PRESENT, b"a", b"2").status, Status.OK)
        self.assertEqual(self.value(b"a"), b"2")

    def test_cas(self) -> None:
        """With a cas only the version counts, also for add and replace."""
        for condition in Condition:
            missing = self.store.store(condition, b"none", b"1", cas=1)
            self.assertEqual(missing, Result(Status.KEY_NOT_FOUND))
            version = self.set(b"a", b"1").cas
            other = self.store.store(condition, b"a", b"2", cas=version + 1)
            self.assertEqual(other, Result(Status.KEY_EXISTS))
            self.assertEqual(self.value(b"a"), b"1")
            same = self.store.store(condition, b"a", b"2", cas=version)
            self.assertEqual(same, Result(Status.OK, version + 1))
            self.assertEqual(self.value(b"a"), b"2")

    def test_cas_grows(self) -> None:
        """Every change gives the item a version that no item ever had."""
        seen = [self.set(b"a", b"5").cas, self.set(b"b", b"5").cas]
        seen.append(self.store.concatenate(b"a", b"6", before=False).cas)
        seen.append(self.store.count(b"a", 1, up=True).cas)
        seen.append(self.store.count(b"c", 1, up=True, initial=3).cas)
        self.assertEqual(seen, sorted(set(seen)))
        self.assertEqual(self.item(b"a").cas, seen[3])

    def test_touch_keeps_cas(self) -> None:
        """A new expiry time is no new version."""
        version = self.set(b"a", b"1").cas
        touched = self.store.touch(b"a", 60)
        self.assertEqual(touched and touched.cas, version)

    def test_delete(self) -> None:
        """Delete removes, if it is the version that was asked for."""
        self.assertEqual(self.store.delete(b"a"), Status.KEY_NOT_FOUND)
        version = self.set(b"a", b"1").cas
        self.assertEqual(self.store.delete(b"a", version + 1), Status.KEY_EXISTS)
        self.assertEqual(self.store.delete(b"a", version), Status.OK)
        self.assertIsNone(self.value(b"a"))

    def test_concatenate(self) -> None:
        """Append and prepend keep flags and time to live, and need something to be there."""
        missing = self.store.concatenate(b"a", b"x", before=True)
        self.assertEqual(missing, Result(Status.NOT_STORED))
        version = self.set(b"a", b"b", exptime=10, flags=3).cas
        other = self.store.concatenate(b"a", b"x", before=True, cas=version + 1)
        self.assertEqual(other, Result(Status.KEY_EXISTS))
        self.assertEqual(self.store.concatenate(b"a", b"a", before=True).status, Status.OK)
        self.assertEqual(self.store.concatenate(b"a", b"c", before=False).status, Status.OK)
        self.assertEqual((self.item(b"a").value, self.item(b"a").flags), (b"abc", 3))
        self.clock.advance(10)
        self.assertIsNone(self.value(b"a"))


class CountTests(StoreTestCase):
    def count(self, delta: int, up: bool = True, cas: int = 0) -> Result:
        return self.store.count(b"n", delta, up=up, cas=cas)

    def test_up_and_down(self) -> None:
        """Numbers go up modulo 2**64, and down to 0."""
        self.set(b"n", b"10")
        self.assertEqual(self.count(5).number, 15)
        self.assertEqual(self.count(16, up=False).number, 0)
        self.assertEqual(self.count(2**64 - 1).number, 2**64 - 1)
        self.assertEqual(self.count(3).number, 2)

    def test_padding(self) -> None:
        """A number that has become shorter is padded with spaces; a longer one makes room."""
        self.set(b"n", b"10", flags=9)
        self.count(1, up=False)
        self.assertEqual(self.value(b"n"), b"9 ")
        self.count(91)
        self.assertEqual(self.value(b"n"), b"100")
        self.assertEqual(self.item(b"n").flags, 9)

    def test_missing(self) -> None:
        """Where there is nothing, the initial number is stored, if there is one."""
        self.assertEqual(self.count(1), Result(Status.KEY_NOT_FOUND))
        created = self.store.count(b"n", 1, up=True, initial=7, exptime=5)
        self.assertEqual((created.status, created.number), (Status.OK, 7))
        self.assertEqual(self.value(b"n"), b"7")
        self.clock.advance(5)
        self.assertIsNone(self.value(b"n"))

    def test_time_to_live(self) -> None:
        """To count does not prolong the life of a number, whether it grows or not."""
        for value, delta in ((b"9", 1), (b"5", 1)):
            self.set(b"n", value, exptime=10)
            self.clock.advance(9)
            self.count(delta)
            self.assertIsNotNone(self.value(b"n"))
            self.clock.advance(1)
            self.assertIsNone(self.value(b"n"))

    def test_cas(self) -> None:
        """With a cas only that version is counted with."""
        version = self.set(b"n", b"1").cas
        self.assertEqual(self.count(1, cas=version + 1), Result(Status.KEY_EXISTS))
        self.assertEqual(self.count(1, cas=version).number, 2)

    def test_not_a_number(self) -> None:
        """What memcached does not take for a number can not be counted with."""
        for value in (b"", b"abc", b"5abc", b"0x10", b"-1", b"18446744073709551616", b"\xd9\xa3"):
            self.set(b"n", value)
            self.assertEqual(self.count(1), Result(Status.NON_NUMERIC_VALUE), value)
            self.assertEqual(self.value(b"n"), value)

    def test_numbers(self) -> None:
        """What C's strtoull takes for a number is one, with all its oddities."""
        for value, number in (
            (b"0", 0),
            (b"007", 7),
            (b" \t\n5", 5),
            (b"+5", 5),
            (b"5 ", 5),
            (b"5 abc", 5),
            (b"5\r\n", 5),
            (b"5\0abc", 5),
            (b"18446744073709551615", 2**64 - 1),
            (b"-18446744073709551615", 1),
            (b"18446744073709551615 -", None),
            (b"18446744073709551615\0-", 2**64 - 1),
        ):
            self.assertEqual(parse_number(value), number, value)


class ExpiryTests(StoreTestCase):
    def test_relative(self) -> None:
        """Up to 30 days are seconds from now, on the reactor's clock."""
        for exptime in (1, 30 * DAY):
            self.set(b"a", b"1", exptime)
            self.clock.advance(exptime - 0.5)
            self.assertEqual(self.value(b"a"), b"1")
            self.clock.advance(0.5)
            self.assertIsNone(self.value(b"a"))

    def test_absolute(self) -> None:
        """More than 30 days are a Unix time, on the wall clock."""
        self.set(b"a", b"1", START + 100)
        self.wall += 99.5
        self.assertEqual(self.value(b"a"), b"1")
        self.wall += 0.5
        self.assertIsNone(self.value(b"a"))

    def test_never(self) -> None:
        """0 is never."""
        self.set(b"a", b"1")
        self.clock.advance(10_000 * DAY)
        self.wall += 10_000 * DAY
        self.assertEqual(self.value(b"a"), b"1")

    def test_dead_at_once(self) -> None:
        """31 days, sent as seconds from now, are a time of 1970: the item is stored and dead."""
        self.assertEqual(self.set(b"a", b"1", 31 * DAY).status, Status.OK)
        self.assertIsNone(self.value(b"a"))

    def test_largest(self) -> None:
        """The largest exptime lives."""
        self.set(b"a", b"1", 2**32 - 1)
        self.assertEqual(self.value(b"a"), b"1")

    def test_dead_is_missing(self) -> None:
        """An item whose time is over is missing for every change."""
        for change, expected in (
            (lambda: self.store.delete(b"a"), Status.KEY_NOT_FOUND),
            (lambda: self.store.touch(b"a", 60), None),
            (lambda: self.store.concatenate(b"a", b"x", before=True).status, Status.NOT_STORED),
            (lambda: self.store.count(b"a", 1, up=True).status, Status.KEY_NOT_FOUND),
            (lambda: self.store.store(Condition.MISSING, b"a", b"2").status, Status.OK),
        ):
            self.set(b"a", b"1", 5)
            self.clock.advance(5)
            self.assertEqual(change(), expected)

    def test_touch(self) -> None:
        """Touch gives a new time to live, counted from then."""
        self.set(b"a", b"1", 10)
        self.clock.advance(9)
        self.assertIsNotNone(self.store.touch(b"a", 10))
        self.clock.advance(9)
        self.assertEqual(self.value(b"a"), b"1")
        self.store.touch(b"a", 0)
        self.clock.advance(1000)
        self.assertEqual(self.value(b"a"), b"1")


class FlushTests(StoreTestCase):
    def test_now(self) -> None:
        """A flush forgets what is there, and not what comes."""
        self.set(b"a", b"1")
        self.store.flush()
        self.assertEqual((len(self.store), self.store.bytes_used), (0, 0))
        self.set(b"a", b"2")
        self.assertEqual(self.value(b"a"), b"2")

    def test_later(self) -> None:
        """A flush with a delay forgets what is there when its time has come."""
        self.store.flush(10)
        self.set(b"a", b"1")
        self.clock.advance(9)
        self.assertEqual(self.value(b"a"), b"1")
        self.clock.advance(1)
        self.assertIsNone(self.value(b"a"))
        self.set(b"a", b"2")
        self.clock.advance(100)
        self.assertEqual(self.value(b"a"), b"2")

    def test_absolute(self) -> None:
        """A flush at a Unix time waits for the wall clock."""
        self.set(b"a", b"1")
        self.store.flush(START + 100)
        self.assertEqual(self.value(b"a"), b"1")
        self.wall += 100
        self.assertIsNone(self.value(b"a"))

    def test_past(self) -> None:
        """A flush at a time long before the server was started does nothing, as in memcached."""
        self.set(b"a", b"1")
        self.store.flush(START - 61)
        self.assertEqual(self.value(b"a"), b"1")
        self.store.flush(START - 60)
        self.assertIsNone(self.value(b"a"))

    def test_replaced(self) -> None:
        """There is one flush to come at most: the last one that was asked for."""
        self.store.flush(10)
        self.store.flush(20)
        self.set(b"a", b"1")
        self.clock.advance(10)
        self.assertEqual(self.value(b"a"), b"1")
        self.clock.advance(10)
        self.assertIsNone(self.value(b"a"))


class LimitTests(StoreTestCase):
    def test_item_size(self) -> None:
        """An item counts for key, value and 59 bytes, and for 4 more with flags."""
        self.set(b"abc", b"12345")
        self.assertEqual(self.store.bytes_used, 59 + 3 + 5)
        self.set(b"abc", b"12345", flags=1)
        self.assertEqual(self.store.bytes_used, 63 + 3 + 5)
        self.set(b"abc", b"12345")
        self.assertEqual(self.store.bytes_used, 59 + 3 + 5)
        self.store.delete(b"abc")
        self.assertEqual(self.store.bytes_used, 0)

    def test_largest(self) -> None:
        """With a key of 3 bytes the largest value has 1,048,514; with flags, 4 less."""
        self.assertEqual(self.set(b"abc", bytes(1_048_514)).status, Status.OK)
        self.assertEqual(self.set(b"abc", bytes(1_048_510), flags=1).status, Status.OK)
        refused = Result(Status.VALUE_TOO_LARGE)
        self.assertEqual(self.set(b"abc", bytes(1_048_515)), refused)
        self.assertEqual(self.set(b"abc", bytes(1_048_511), flags=1), refused)

    def test_refused_set(self) -> None:
        """A set that is refused removes the old item; an add or a replace leaves it."""
        too_large = bytes(MIB)
        for condition, left in (
            (Condition.MISSING, b"1"),
            (Condition.PRESENT, b"1"),
            (Condition.ANY, None),
        ):
            self.set(b"a", b"1")
            refused = self.store.store(condition, b"a", too_large)
            self.assertEqual(refused, Result(Status.VALUE_TOO_LARGE))
            self.assertEqual(self.value(b"a"), left)

    def test_concatenated(self) -> None:
        """What would become too large is not stored, and the old item stays."""
        half = bytes(600_000)
        self.set(b"a", half)
        appended = self.store.concatenate(b"a", half, before=False)
        self.assertEqual(appended, Result(Status.NOT_STORED))
        alone = self.store.concatenate(b"a", bytes(MIB), before=False)
        self.assertEqual(alone, Result(Status.VALUE_TOO_LARGE))
        self.assertEqual(self.value(b"a"), half)

    def test_no_memory(self) -> None:
        """An item that is larger than all there is, is refused, and evicts nothing."""
        self.store = self.make_store(max_bytes=1000)
        self.set(b"a", b"1")
        self.assertEqual(self.set(b"b", bytes(1000)), Result(Status.OUT_OF_MEMORY))
        self.assertEqual(self.value(b"a"), b"1")

    def test_eviction(self) -> None:
        """Where there is no room, what was not used for longest goes."""
        self.store = self.make_store(max_bytes=3 * item_size(b"a", 10))
        for key in (b"a", b"b", b"c"):
            self.set(key, bytes(10))
        self.store.get(b"a")
        self.store.touch(b"b", 0)
        self.set(b"d", bytes(10))
        self.assertEqual(
            [self.value(key) is not None for key in (b"c", b"a", b"b", b"d")],
            [False, True, True, True],
        )
        self.assertEqual(self.store.counters["evictions"], 1)

    def test_refused_add_is_use(self) -> None:
        """An add that is refused is a use of the item that is in its way."""
        self.store = self.make_store(max_bytes=2 * item_size(b"a", 10))
        self.set(b"a", bytes(10))
        self.set(b"b", bytes(10))
        self.store.store(Condition.MISSING, b"a", b"")
        self.set(b"c", bytes(10))
        self.assertEqual((self.value(b"a"), self.value(b"b")), (bytes(10), None))

    def test_reclaimed(self) -> None:
        """To make room by what is dead already is no eviction."""
        self.store = self.make_store(max_bytes=item_size(b"a", 10))
        self.set(b"a", bytes(10), exptime=1)
        self.clock.advance(1)
        self.set(b"b", bytes(10))
        self.assertEqual(self.store.counters["evictions"], 0)
        self.assertEqual(self.store.counters["reclaimed"], 1)


class CounterTests(StoreTestCase):
    def test_counters(self) -> None:
        """What happens is counted under memcached's names."""
        self.store.get(b"a")
        version = self.set(b"a", b"1").cas
        self.store.get(b"a")
        self.store.touch(b"a", 0)
        self.store.touch(b"b", 0)
        self.set(b"a", b"1", cas=version)
        self.set(b"a", b"1", cas=version)
        self.set(b"b", b"1", cas=version)
        self.store.count(b"a", 1, up=True)
        self.store.count(b"b", 1, up=True)
        self.store.count(b"a", 1, up=False)
        self.store.count(b"b", 1, up=False)
        self.set(b"b", bytes(MIB))
        self.store.delete(b"b")
        self.store.delete(b"a")
        self.store.flush()
        self.assertEqual(
            dict(self.store.counters),
            {
                "cmd_get": 2,
                "get_misses": 1,
                "get_hits": 1,
                "cmd_set": 4,
                "total_items": 2,
                "cmd_touch": 2,
                "touch_hits": 1,
                "touch_misses": 1,
                "cas_hits": 1,
                "cas_badval": 1,
                "cas_misses": 1,
                "incr_hits": 1,
                "incr_misses": 1,
                "decr_hits": 1,
                "decr_misses": 1,
                "store_too_large": 1,
                "delete_misses": 1,
                "delete_hits": 1,
                "cmd_flush": 1,
            },
        )


# Against a model ----------------------------------------------------------------------------

LIMIT = 260
MAX_ITEM = 200
KEYS = st.sampled_from([b"a", b"bb", b"ccc", b"dddd", b"eeeee"])
VALUES = st.binary(max_size=120) | st.integers(0, 2**64 - 1).map(lambda n: b"%d" % n)
EXPTIMES = st.sampled_from([0, 0, 1, 3, 10, 30 * DAY, START + 2, START + 20, START - 5])
VERSIONS = st.sampled_from(["any", "right", "wrong"])


@dataclass
class Known:
    """What the model knows of an item: its value, its version, and when it dies on which clock."""

    value: bytes
    cas: int
    dies: float | None
    on_wall: bool


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls against a list, kept in the order of use and searched through."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = Store(self.clock.seconds, self.wall, max_bytes=LIMIT, max_item=MAX_ITEM)
        self.known: list[tuple[bytes, Known]] = []
        self.last_cas = 0

    def wall(self) -> float:
        return START + self.clock.seconds()

    # The model

    def find(self, key: bytes) -> Known | None:
        for position, (name, known) in enumerate(self.known):
            if name == key:
                now = self.wall() if known.on_wall else self.clock.seconds()
                if known.dies is not None and now >= known.dies:
                    del self.known[position]
                    return None
                return known
        return None

    def use(self, key: bytes, known: Known) -> None:
        self.known = [pair for pair in self.known if pair[0] != key] + [(key, known)]

    def put(self, key: bytes, known: Known, result: Result) -> None:
        assert result.status is Status.OK and result.cas > self.last_cas, result
        known.cas = self.last_cas = result.cas
        self.use(key, known)
        while self.size() > LIMIT:
            del self.known[0]

    def size(self) -> int:
        return sum(ITEM_OVERHEAD + len(key) + len(known.value) for key, known in self.known)

    def lifetime(self, exptime: int) -> tuple[float | None, bool]:
        if exptime > 30 * DAY:
            return exptime, True
        return (self.clock.seconds() + exptime if exptime else None), False

    def version(self, which: str, known: Known | None) -> int:
        if which == "any":
            return 0
        return 2**63 if known is None or which == "wrong" else known.cas

    # What can happen

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        item, known = self.store.get(key), self.find(key)
        assert (item and (item.value, item.cas)) == (known and (known.value, known.cas))
        if known:
            self.use(key, known)

    @rule(key=KEYS, exptime=EXPTIMES)
    def touch(self, key: bytes, exptime: int) -> None:
        item, known = self.store.touch(key, exptime), self.find(key)
        assert (item is None) == (known is None)
        if known:
            known.dies, known.on_wall = self.lifetime(exptime)
            self.use(key, known)

    @rule(
        key=KEYS,
        value=VALUES,
        exptime=EXPTIMES,
        condition=st.sampled_from(Condition),
        which=VERSIONS,
    )
    def change(
        self, key: bytes, value: bytes, exptime: int, condition: Condition, which: str
    ) -> None:
        known = self.find(key)
        cas = self.version(which, known)
        result = self.store.store(condition, key, value, exptime=exptime, cas=cas)
        if cas:
            wanted = Status.KEY_NOT_FOUND if known is None else Status.KEY_EXISTS
            done = known is not None and cas == known.cas
        elif condition is Condition.MISSING:
            wanted, done = Status.KEY_EXISTS, known is None
            if known:
                self.use(key, known)
        else:
            wanted, done = Status.KEY_NOT_FOUND, known is not None or condition is Condition.ANY
        if done:
            self.put(key, Known(value, 0, *self.lifetime(exptime)), result)
        else:
            assert result == Result(wanted)

    @rule(key=KEYS, value=VALUES, before=st.booleans(), which=VERSIONS)
    def concatenate(self, key: bytes, value: bytes, before: bool, which: str) -> None:
        known = self.find(key)
        cas = self.version(which, known)
        result = self.store.concatenate(key, value, before=before, cas=cas)
        if known is None:
            assert result == Result(Status.NOT_STORED)
        elif cas not in (0, known.cas):
            assert result == Result(Status.KEY_EXISTS)
        else:
            whole = value + known.value if before else known.value + value
            if ITEM_OVERHEAD + len(key) + len(whole) > MAX_ITEM:
                assert result == Result(Status.NOT_STORED)
            else:
                self.put(key, Known(whole, 0, known.dies, known.on_wall), result)

    @rule(
        key=KEYS,
        delta=st.integers(0, 2**64 - 1),
        up=st.booleans(),
        initial=st.none() | st.integers(0, 2**64 - 1),
    )
    def count(self, key: bytes, delta: int, up: bool, initial: int | None) -> None:
        known = self.find(key)
        result = self.store.count(key, delta, up=up, initial=initial, exptime=3)
        if known is None:
            if initial is None:
                assert result == Result(Status.KEY_NOT_FOUND)
            else:
                assert result.number == initial
                self.put(key, Known(b"%d" % initial, 0, *self.lifetime(3)), result)
        elif result.status is Status.OK:
            number = int(known.value.split()[0].partition(b"\0")[0])
            number = (number + delta) % 2**64 if up else max(0, number - delta)
            assert result.number == number
            value = str(number).encode() + b" " * (len(known.value) - len(str(number)))
            self.put(key, Known(value, 0, known.dies, known.on_wall), result)
        else:
            assert result == Result(Status.NON_NUMERIC_VALUE)
            assert not known.value.isdigit() or int(known.value) >= 2**64

    @rule(key=KEYS, which=VERSIONS)
    def delete(self, key: bytes, which: str) -> None:
        known = self.find(key)
        cas = self.version(which, known)
        status = self.store.delete(key, cas)
        if known is None:
            assert status is Status.KEY_NOT_FOUND
        elif cas in (0, known.cas):
            assert status is Status.OK
            self.known = [pair for pair in self.known if pair[0] != key]
        else:
            assert status is Status.KEY_EXISTS

    @rule()
    def flush(self) -> None:
        self.store.flush()
        self.known.clear()

    @rule(seconds=st.sampled_from([0.5, 1, 5, 11, 31 * DAY]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def same_size(self) -> None:
        assert self.store.bytes_used == self.size() <= LIMIT
        assert len(self.store) == len(self.known)


class ModelTests(SynchronousTestCase):
    def test_any_sequence(self) -> None:
        """Whatever is done in whatever order, the store agrees with a list that is searched."""
        run_state_machine_as_test(
            StoreMachine,
            settings=settings(
                max_examples=60, stateful_step_count=40, deadline=None, database=None
            ),
        )
