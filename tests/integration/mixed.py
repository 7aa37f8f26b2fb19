"""Many connections that do everything at once on values that tell whose they are."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.defer import Deferred, gatherResults

from tests.integration.cluster import pause
from txtlsmc.errors import ConnectFailed, ConnectionClosed, MemcacheError
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.wire.operations import RawItem

_KEYS: Final = 6
#: One in so many values is large.
_SELDOM: Final = 40
_LARGE: Final = 150_000


def value_of(key: str, number: int, size: int) -> bytes:
    """Return a value that says its key and its number, and has a checksum."""
    said = f"{key}:{number}:".encode() + key[-1].encode() * size
    return said + b":%08x" % zlib.crc32(said)


def is_of(key: str, value: bytes) -> bool:
    """Return whether *value* is one of *key*, and whole."""
    said, _, checksum = value.rpartition(b":")
    return value.startswith(f"{key}:".encode()) and checksum == b"%08x" % zlib.crc32(said)


class Mixed:
    """
    Workers, each with a connection and keys of its own, that know what each key has to hold.

    Attributes:
        wrong: what should not have happened, in words.
        done: how many operations were, by name.
        rounds: how many, by worker.
        lost: connections that ended.
    """

    def __init__(
        self, dial: Callable[[], Awaitable[MemcacheProtocol]], workers: int, *, forgetful: bool
    ) -> None:
        """
        Args:
            dial: makes a connection.
            workers: how many.
            forgetful: whether the server is started anew meanwhile: connections may end then, and
                everything may be missing.
        """
        self.wrong: list[str] = []
        self.done: Counter[str] = Counter()
        self.rounds: Counter[int] = Counter()
        self.lost = 0
        self.dial, self.forgetful, self.stopping = dial, forgetful, False
        self._workers = [_Worker(self, number) for number in range(workers)]
        self._working: Deferred[list[None]] | None = None

    async def start(self) -> None:
        """Connect all, and begin."""
        for worker in self._workers:
            await worker.connect()
        working = [Deferred.fromCoroutine(worker.work()) for worker in self._workers]
        self._working = gatherResults(working, consumeErrors=True)

    async def stop(self) -> None:
        """Let each worker finish its operation; again, it changes nothing."""
        self.stopping = True
        working, self._working = self._working, None
        if working is not None:
            await working

    async def served(self, rounds: int = 5) -> None:
        """Wait until each worker has done so many operations more, or something was wrong."""
        wanted = {worker: self.rounds[worker] + rounds for worker in range(len(self._workers))}
        while not self.wrong and any(self.rounds[each] < n for each, n in wanted.items()):
            await pause(0.01)


class _Worker:
    connection: MemcacheProtocol

    def __init__(self, load: Mixed, number: int) -> None:
        self._load, self._number = load, number
        self._random = random.Random(number)
        self._keys = [f"worker-{number}-{place}" for place in range(_KEYS)]
        self._counter = f"worker-{number}-counter"
        self._known: dict[str, bytes | None] = {}  # a key that is not in it may hold anything
        self._count: int | None = None
        self._made = 0
        self._operations = [
            *(self._set, self._get, self._get, self._get_multi, self._set_multi, self._cas),
            *(self._add, self._replace, self._append, self._delete, self._touch, self._incr),
        ]

    async def connect(self) -> None:
        """Connect, again and again while that may fail."""
        while True:
            try:
                self.connection = await self._load.dial()
                return
            except ConnectFailed:
                if not self._load.forgetful:
                    raise
                await pause(0.02)

    async def work(self) -> None:
        """Work until it is enough."""
        load = self._load
        while not load.stopping:
            operation = self._random.choice(self._operations)
            try:
                await operation(self._random.choice(self._keys))
            except ConnectionClosed as error:
                if not load.forgetful:
                    self._wrong(f"connection lost: {error}")
                    return
                load.lost += 1
                self._known.clear()
                self._count = None
                await self.connect()
            except MemcacheError as error:
                self._wrong(f"{operation.__name__}: {type(error).__name__}: {error}")
                return
            else:
                load.done[operation.__name__.strip("_")] += 1
                load.rounds[self._number] += 1

    def _wrong(self, words: str) -> None:
        self._load.wrong.append(f"worker {self._number}: {words}")

    def _new(self, key: str) -> bytes:
        self._made += 1
        large = self._random.randrange(_SELDOM) == 0
        return value_of(key, self._made, _LARGE if large else self._random.randrange(200))

    def _found(self, key: str, item: RawItem | None) -> None:
        value = None if item is None else item.value
        if value is None and self._load.forgetful:
            self._known[key] = None
        elif key not in self._known:
            if value is not None and not is_of(key, value) and b"+" not in value:
                self._wrong(f"{key} holds {value[:60]!r}")
        elif value != self._known[key]:
            held = (self._known[key] or b"nothing")[:60]
            self._wrong(f"{key} holds {(value or b'nothing')[:60]!r} and not {held!r}")

    def _judged(self, key: str, done: bool, should: bool, value: bytes | None) -> None:
        """Note an operation that was to be done if *should*, and made the key hold *value*."""
        if key in self._known and done != should and not self._load.forgetful:
            self._wrong(f"{key}: done is {done}")
        if done:
            self._known[key] = value
        elif self._load.forgetful:
            self._known.pop(key, None)

    async def _set(self, key: str) -> None:
        value = self._new(key)
        await self.connection.set(key, value)
        self._known[key] = value

    async def _set_multi(self, key: str) -> None:
        values = {each: self._new(each) for each in self._keys}
        await self.connection.set_multi(values)
        self._known.update(values)

    async def _get(self, key: str) -> None:
        self._found(key, await self.connection.get(key))

    async def _get_multi(self, key: str) -> None:
        found = await self.connection.get_multi(self._keys)
        for each in self._keys:
            self._found(each, found.get(each))

    async def _cas(self, key: str) -> None:
        item = await self.connection.gets(key)
        self._found(key, item)
        if item is not None:
            value = self._new(key)
            self._judged(key, await self.connection.cas(key, value, item.cas), True, value)

    async def _add(self, key: str) -> None:
        value, missing = self._new(key), self._known.get(key) is None
        self._judged(key, await self.connection.add(key, value), missing, value)

    async def _replace(self, key: str) -> None:
        value, there = self._new(key), self._known.get(key) is not None
        self._judged(key, await self.connection.replace(key, value), there, value)

    async def _append(self, key: str) -> None:
        held = self._known.get(key)
        if held is not None and len(held) < 1000:
            done = await self.connection.append(key, b"+more")
            self._judged(key, done, True, held + b"+more")

    async def _delete(self, key: str) -> None:
        there = self._known.get(key) is not None
        self._judged(key, await self.connection.delete(key), there, None)

    async def _touch(self, key: str) -> None:
        done = await self.connection.touch(key, 1000)
        if key in self._known:
            held = self._known[key]
            self._judged(key, done, held is not None, held)

    async def _incr(self, key: str) -> None:
        number = await self.connection.incr(self._counter, 3, initial=self._number)
        wanted = self._number if self._count is None else self._count + 3
        known = self._count is not None or not self._load.forgetful
        if known and number != wanted and not (self._load.forgetful and number == self._number):
            self._wrong(f"counted {number} and not {wanted}")
        self._count = number
