"""
What a memcached remembers: items, their time to live, their versions, and a byte limit.

Pure memory: the two clocks are handed in, and nothing here knows of connections or frames.  What
is answered, and when an item is gone, is what memcached 1.6.18 does; where it is vague we are
exact: one list of all items by their last use instead of several sampled ones, clocks without
ticks, and a flush that frees the memory at once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from txtlsmc.testing.items import AT_ONCE, MODULUS, NEVER, Deadline, Item, item_size, parse_number
from txtlsmc.wire.opcodes import Status
from txtlsmc.wire.operations import LONGEST_RELATIVE

#: How long before its start memcached counts its own time from: seconds, and one that is not seen.
_BEFORE_START: Final = 61


class Condition(Enum):
    """What must be so for a value to be stored without a cas."""

    ANY = "set"
    MISSING = "add"
    PRESENT = "replace"


#: What memcached answers when it was not so.
_UNMET: Final = {Condition.MISSING: Status.KEY_EXISTS, Condition.PRESENT: Status.KEY_NOT_FOUND}


class Result(NamedTuple):
    """
    How a change went.

    Attributes:
        status: `Status.OK`, or why nothing was changed.
        cas: the new version of the item; 0 when there is none.
        number: what `Store.count` came to.
    """

    status: Status
    cas: int = 0
    number: int = 0


class Store:
    """
    The items of one server.

    Exptimes are the protocol's: 0 is never, up to 30 days are seconds from now, more is a Unix
    time.  A cas of 0 is any.

    Attributes:
        counters: what happened, by memcached's names.
        max_bytes: the limit of `bytes_used`; items that were not used for longest make room.
        max_item: the limit of one item, by `item_size`.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        wall_clock: Callable[[], float],
        *,
        max_bytes: int,
        max_item: int,
    ) -> None:
        """
        Args:
            seconds: the clock for seconds from now, from any start.
            wall_clock: the clock for Unix times.
            max_bytes, max_item: see the class.
        """
        self.counters: Counter[str] = Counter()
        self.max_bytes, self.max_item = max_bytes, max_item
        self._seconds, self._wall_clock = seconds, wall_clock
        self._started = wall_clock()
        self._items: OrderedDict[bytes, Item] = OrderedDict()  # the least recently used first
        self._bytes_used = 0
        self._last_cas = 0
        self._flush = NEVER

    @property
    def bytes_used(self) -> int:
        """The size of all items; one whose time is over counts until somebody asks for it."""
        self._flush_if_due()
        return self._bytes_used

    def __len__(self) -> int:
        self._flush_if_due()
        return len(self._items)

    # Reading

    def get(self, key: bytes) -> Item | None:
        """Return the item under *key*, if there is one, and note that it was used."""
        item = self._used(key)
        self.counters.update(("cmd_get", "get_misses" if item is None else "get_hits"))
        return item

    def touch(self, key: bytes, exptime: int) -> Item | None:
        """Give the item under *key*, if there is one, a new *exptime*, and return it."""
        item = self._used(key)
        self.counters.update(("cmd_touch", "touch_misses" if item is None else "touch_hits"))
        if item is not None:
            item.deadline = self._deadline(exptime)
        return item

    # Writing

    def store(
        self,
        condition: Condition,
        key: bytes,
        value: bytes,
        *,
        flags: int = 0,
        exptime: int = 0,
        cas: int = 0,
    ) -> Result:
        """
        Store a value.

        Args:
            condition: what must be so; with a *cas* only that counts, as in memcached.
            key, value, flags, exptime: the item.
            cas: the version that must be there now.
        """
        refusal = self._too_large(key, len(value), flags)
        if refusal is not None:
            if condition is Condition.ANY:
                self._remove(key)  # better none than the old one
            return Result(refusal)
        self.counters["cmd_set"] += 1
        old = self._live(key)
        if cas:
            status = self._compared(old, cas)
        elif condition is Condition.ANY or (old is None) is (condition is Condition.MISSING):
            status = Status.OK
        else:
            status = _UNMET[condition]
            if old is not None:
                self._items.move_to_end(key)
        if status is not Status.OK:
            return Result(status)
        return Result(status, self._put(key, Item(value, flags, self._deadline(exptime))))

    def concatenate(self, key: bytes, value: bytes, *, before: bool, cas: int = 0) -> Result:
        """Put *value* before or behind what is there."""
        refusal = self._too_large(key, len(value))
        if refusal is not None:
            return Result(refusal)
        self.counters["cmd_set"] += 1
        old = self._live(key)
        if old is None:
            return Result(Status.NOT_STORED)
        if cas not in (0, old.cas):
            return Result(Status.KEY_EXISTS)
        whole = value + old.value if before else old.value + value
        if item_size(key, len(whole), old.flags) > min(self.max_item, self.max_bytes):
            return Result(Status.NOT_STORED)
        return Result(Status.OK, self._put(key, Item(whole, old.flags, old.deadline)))

    def count(
        self,
        key: bytes,
        delta: int,
        *,
        up: bool,
        initial: int | None = None,
        exptime: int = 0,
        cas: int = 0,
    ) -> Result:
        """
        Add *delta* to the decimal number that is there, modulo 2**64, or take it off, down to 0.

        Where there is nothing, *initial* is stored with *exptime*, unless it is None.  A number
        with fewer digits than the old one is padded with spaces, as memcached does.
        """
        name = "incr" if up else "decr"
        old = self._live(key)
        if old is None:
            if initial is None:
                self.counters[f"{name}_misses"] += 1
                return Result(Status.KEY_NOT_FOUND)
            new = Item(b"%d" % initial, 0, self._deadline(exptime))
            return Result(Status.OK, self._put(key, new), initial)
        if old.value and cas not in (0, old.cas):
            return Result(Status.KEY_EXISTS)
        number = parse_number(old.value)
        if number is None:
            return Result(Status.NON_NUMERIC_VALUE)
        self.counters[f"{name}_hits"] += 1
        number = (number + delta) % MODULUS if up else max(0, number - delta)
        digits = b"%d" % number
        if len(digits) > len(old.value):
            new = Item(digits, old.flags, old.deadline)
            return Result(Status.OK, self._put(key, new), number)
        old.value, old.cas = digits.ljust(len(old.value)), self._next_cas()
        self._items.move_to_end(key)
        return Result(Status.OK, old.cas, number)

    def delete(self, key: bytes, cas: int = 0) -> Status:
        """Remove the item under *key*, if it is the version *cas*."""
        old = self._live(key)
        if old is None:
            self.counters["delete_misses"] += 1
            return Status.KEY_NOT_FOUND
        if cas not in (0, old.cas):
            return Status.KEY_EXISTS
        self.counters["delete_hits"] += 1
        self._remove(key)
        return Status.OK

    def flush(self, exptime: int = 0) -> None:
        """
        Forget everything, now or at *exptime*; this replaces an earlier flush that is to come.

        A Unix time of more than a minute before the server was started forgets nothing: so it is in
        memcached, whose time begins there.
        """
        self.counters["cmd_flush"] += 1
        self._flush_if_due()
        self._flush = self._deadline(exptime) if exptime else AT_ONCE
        if self._over(self._flush):
            self._next_cas()  # memcached spends one on knowing what was there before
            if self._flush.wall and self._flush.at <= self._started - _BEFORE_START:
                self._flush = NEVER
        self._flush_if_due()

    # Inside

    def _deadline(self, exptime: int) -> Deadline:
        if exptime == 0:
            return NEVER
        if exptime > LONGEST_RELATIVE:
            return Deadline(exptime, True)
        return Deadline(self._seconds() + exptime, False)

    def _over(self, deadline: Deadline) -> bool:
        now = self._wall_clock() if deadline.wall else self._seconds()
        return deadline.at <= now

    def _flush_if_due(self) -> None:
        if self._flush is not NEVER and self._over(self._flush):
            self._flush = NEVER
            self._items.clear()
            self._bytes_used = 0

    def _live(self, key: bytes) -> Item | None:
        self._flush_if_due()
        item = self._items.get(key)
        if item is not None and self._over(item.deadline):
            self._remove(key)
            self.counters["get_expired"] += 1
            return None
        return item

    def _used(self, key: bytes) -> Item | None:
        item = self._live(key)
        if item is not None:
            self._items.move_to_end(key)
        return item

    def _compared(self, old: Item | None, cas: int) -> Status:
        if old is None:
            self.counters["cas_misses"] += 1
            return Status.KEY_NOT_FOUND
        if old.cas != cas:
            self.counters["cas_badval"] += 1
            return Status.KEY_EXISTS
        self.counters["cas_hits"] += 1
        return Status.OK

    def _too_large(self, key: bytes, value_length: int, flags: int = 0) -> Status | None:
        size = item_size(key, value_length, flags)
        if size > self.max_item:
            self.counters["store_too_large"] += 1
            return Status.VALUE_TOO_LARGE
        if size > self.max_bytes:
            self.counters["store_no_memory"] += 1
            return Status.OUT_OF_MEMORY
        return None

    def _next_cas(self) -> int:
        self._last_cas += 1
        return self._last_cas

    def _put(self, key: bytes, item: Item) -> int:
        self._remove(key)
        item.cas = self._next_cas()
        self._items[key] = item
        self._bytes_used += item_size(key, len(item.value), item.flags)
        self.counters["total_items"] += 1
        while self._bytes_used > self.max_bytes:
            oldest, victim = next(iter(self._items.items()))
            self._remove(oldest)
            self.counters["reclaimed" if self._over(victim.deadline) else "evictions"] += 1
        return item.cas

    def _remove(self, key: bytes) -> None:
        old = self._items.pop(key, None)
        if old is not None:
            self._bytes_used -= item_size(key, len(old.value), old.flags)
