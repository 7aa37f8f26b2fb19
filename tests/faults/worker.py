"""One worker of the load: what it does, and what it knows of its keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final

from tests.faults import values
from tests.faults.local import Broken, Local
from tests.faults.verdicts import CROSSED, DOUBLED, LOST_WRITE, Verdicts
from txtlsmc.wire import operations
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.opcodes import Status

#: Keys of a worker at one time; and of those that count.
_SLOTS: Final = 12
_COUNTERS: Final = 3
#: Between the first numbers of two keys that count: a stranger's number is known by its range.
_APART: Final = 1_000_000
_LENGTHS: Final = (0, 10, 300)


class Missing:
    """What a key has when nothing is stored under it."""

    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = Missing()
#: The number of a value, or of a count.
State = int | Missing


class Worker:
    """
    One worker.

    Attributes:
        number: which one; it is in all its keys.
        errors: the statuses of answers that were neither a success nor a condition that did not
            hold, and how often they came.
    """

    def __init__(
        self,
        verdicts: Verdicts,
        number: int,
        address: tuple[str, int],
        *,
        answer_seconds: float,
        large: int,
        random: Random,
        prefix: str,
    ) -> None:
        """
        Args:
            verdicts: get what is wrong.
            number: which one it is.
            address: where the tunnel listens.
            answer_seconds: within this a request is answered, or its connection ends.
            large: the length of the large values.
            random: chooses.
            prefix: of all keys.
        """
        self.number = number
        self.errors: Counter[int] = Counter()
        self._verdicts, self._address = verdicts, address
        self._answer_seconds, self._large, self._random = answer_seconds, large, random
        self._prefix = prefix
        self._local: Local | None = None
        self._written = self._made = 0
        #: What a key may have: more than one state where an answer was lost.
        self._states: dict[bytes, set[State]] = {}
        self._counts: dict[bytes, set[State]] = {}
        self._deleted: set[bytes] = set()
        self._keys = [self._new_key() for _ in range(_SLOTS)]
        self._counters = [self._new_counter() for _ in range(_COUNTERS)]
        self._steps: list[Callable[[], Awaitable[None]]] = [
            *([self._set] * 3 + [self._get] * 4 + [self._get_many] * 2),
            *(self._set_many, self._add, self._delete, self._count, self._set_large),
        ]

    async def step(self) -> None:
        """Do one thing; fails with `Broken`, or when it can not connect."""
        if self._local is None or self._local.lost:
            self._local = await Local.dial(self._address, self._verdicts, self._answer_seconds)
        await self._random.choice(self._steps)()

    async def close(self) -> None:
        """End the connection."""
        if self._local is not None:
            await self._local.close()

    def acknowledged(self) -> dict[bytes, int]:
        """Return the keys under which a value must be, and its number."""
        return _certain(self._states)

    def counted(self) -> dict[bytes, int]:
        """Return the keys that count, and how far."""
        return _certain(self._counts)

    # What is done -------------------------------------------------------------------------------

    async def _set(self, length: int | None = None) -> None:
        key = self._random.choice(self._keys)
        number, value = self._value(key, length)
        (answer,) = await self._write({key: number}, [operations.set(key, value).request])
        self._check(key, number, answer)

    async def _set_large(self) -> None:
        await self._set(self._large)

    async def _set_many(self) -> None:
        """Quiet sets and their fence: silence acknowledges them once the fence is answered."""
        chosen: dict[bytes, State] = {}
        requests = []
        for key in self._random.sample(self._keys, 4):
            number, value = self._value(key)
            chosen[key] = number
            requests.append(operations.set(key, value, quiet=True).request)
        answers = await self._write(chosen, [*requests, operations.noop().request])
        for (key, state), answer in zip(chosen.items(), answers, strict=False):
            self._check(key, state, answer)

    async def _add(self) -> None:
        key = self._random.choice(self._keys)
        number, value = self._value(key)
        (before,) = self._states[key]
        (answer,) = await self._write({key: number}, [operations.add(key, value).request])
        assert answer is not None
        if answer.status == Status.KEY_EXISTS:
            self._states[key] = {before}
            if before is MISSING:
                kind = LOST_WRITE if key in self._deleted else DOUBLED
                self._verdicts.add(kind, f"add finds {key!r}, which had nothing")
            return
        if answer.status == Status.OK and before is not MISSING:
            self._verdicts.add(LOST_WRITE, f"add finds nothing under {key!r}, which had {before}")
        self._check(key, number, answer)

    async def _delete(self) -> None:
        key = self._random.choice(self._keys)
        (before,) = self._states[key]
        self._deleted.add(key)
        (answer,) = await self._write({key: MISSING}, [operations.delete(key).request])
        assert answer is not None
        if answer.status == Status.KEY_NOT_FOUND:
            self._states[key] = {MISSING}
            if before is not MISSING:
                self._verdicts.add(LOST_WRITE, f"delete finds no {key!r}, which had {before}")
            return
        if answer.status == Status.OK and before is MISSING:
            self._verdicts.add(LOST_WRITE, f"delete finds {key!r}, which had nothing")
        self._check(key, MISSING, answer)

    async def _count(self) -> None:
        place = self._random.randrange(_COUNTERS)
        key = self._counters[place]
        first = self._first(key)
        (before,) = self._counts[key]
        after = first if isinstance(before, Missing) else before + 1
        self._counts[key] = {before, after}
        try:
            (answer,) = await self._ask([operations.incr(key, initial=first).request])
        except Broken:
            self._counters[place] = self._new_counter()
            raise
        assert answer is not None
        if answer.status != Status.OK:
            self.errors[answer.status] += 1
            self._counters[place] = self._new_counter()
            return
        self._counts[key] = {after}
        self._judge_count(key, int.from_bytes(answer.value, "big"))

    async def _get(self) -> None:
        key = self._random.choice(self._keys)
        self._judge(key, (await self._ask([operations.getk(key).request]))[0])

    async def _get_many(self) -> None:
        """Quiet gets and their fence."""
        keys = self._random.sample(self._keys, 8)
        requests = [operations.getk(key, quiet=True).request for key in keys]
        answers = await self._ask([*requests, operations.noop().request])
        for key, answer in zip(keys, answers, strict=False):
            self._judge(key, answer)

    # What is known ------------------------------------------------------------------------------

    async def _ask(self, requests: Sequence[Request]) -> list[Response | None]:
        assert self._local is not None
        return await self._local.ask(requests)

    async def _write(
        self, after: dict[bytes, State], requests: Sequence[Request]
    ) -> list[Response | None]:
        """Ask for what gives keys another state; retire them if the answer does not come."""
        for key, state in after.items():
            self._states[key].add(state)
        try:
            return await self._ask(requests)
        except Broken:
            for key in after:
                self._retire(key)
            raise

    def _check(self, key: bytes, state: State, answer: Response | None) -> None:
        """Take the answer to a write: it is done, or nothing more is known of the key."""
        if answer is None or answer.status == Status.OK:
            self._states[key] = {state}
        else:
            self.errors[answer.status] += 1
            self._states[key].add(MISSING)  # memcached drops what it can not replace
            self._retire(key)

    def _retire(self, key: bytes) -> None:
        if key in self._keys:
            self._keys[self._keys.index(key)] = self._new_key()

    def _judge(self, key: bytes, answer: Response | None) -> None:
        if answer is not None and answer.status not in (Status.OK, Status.KEY_NOT_FOUND):
            self.errors[answer.status] += 1
            return
        found: State = MISSING
        if answer is not None and answer.status == Status.OK:
            stamp = values.read(answer.value)
            if isinstance(stamp, values.Wrong):
                self._verdicts.add(stamp.kind, f"under {key!r}: {stamp.words}")
                return
            if not key == answer.key == stamp.key:
                words = f"{key!r} is answered with {answer.key!r} and the value of {stamp.key!r}"
                self._verdicts.add(CROSSED, words)
                return
            found = stamp.number
        if found not in self._states[key]:
            words = f"{key!r} has {found}, and should have {self._states[key]}"
            self._verdicts.add(LOST_WRITE, words)

    def _judge_count(self, key: bytes, found: State) -> None:
        possible = self._counts[key]
        if found in possible:
            return
        words = f"{key!r} has counted to {found}, and should have {possible}"
        numbers = [each for each in possible if isinstance(each, int)]
        if isinstance(found, Missing):
            self._verdicts.add(LOST_WRITE, words)
        elif not 0 <= found - self._first(key) < _APART:
            self._verdicts.add(CROSSED, words)
        else:
            self._verdicts.add(DOUBLED if found > max(numbers, default=0) else LOST_WRITE, words)
        self._counts[key] = {found}  # to say it once

    async def judge(self, direct: Local) -> None:
        """Read all keys there ever were from the server itself."""
        keys = list(self._states)
        for start in range(0, len(keys), 20):
            some = keys[start : start + 20]
            answers = await direct.ask([operations.getk(key).request for key in some])
            for key, answer in zip(some, answers, strict=True):
                self._judge(key, answer)
        for key in self._counts:
            (answer,) = await direct.ask([operations.get(key).request])
            assert answer is not None
            found = int(answer.value) if answer.status == Status.OK else MISSING
            self._judge_count(key, found)

    # Names and numbers --------------------------------------------------------------------------

    def _value(self, key: bytes, length: int | None = None) -> tuple[int, bytes]:
        self._written += 1
        return self._written, values.make(
            key, self._written, length or self._random.choice(_LENGTHS)
        )

    def _new_key(self) -> bytes:
        self._made += 1
        key = f"{self._prefix}-{self.number}-{self._made}".encode()
        self._states[key] = {MISSING}
        return key

    def _new_counter(self) -> bytes:
        self._made += 1
        key = f"{self._prefix}-{self.number}-{self._made}-count".encode()
        self._counts[key] = {MISSING}
        return key

    def _first(self, key: bytes) -> int:
        return (self.number * 10_000 + int(key.split(b"-")[-2])) * _APART


def _certain(states: dict[bytes, set[State]]) -> dict[bytes, int]:
    certain = {}
    for key, possible in states.items():
        if len(possible) == 1:
            (state,) = possible
            if isinstance(state, int):
                certain[key] = state
    return certain
