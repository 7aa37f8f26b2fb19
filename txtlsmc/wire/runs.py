"""
Runs: many requests of one quiet opcode, which are asked and answered as a whole.

What is done for each request of a run is done in one loop for all of them, and nothing is made for
each that is not sent or received: to build, number, keep and read a hundred reads one by one takes
several times as long as the round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, Generic, TypeVar

from txtlsmc.errors import MemcacheError
from txtlsmc.wire.frames import HEADER_SIZE, REQUEST_MAGIC, Request, Response
from txtlsmc.wire.opcodes import Opcode, Status
from txtlsmc.wire.operations import (
    Operation,
    encode_value,
    item_reader,
    server_error,
    store_extras,
)

T = TypeVar("T")

#: The largest opaque.
OPAQUES: Final = 0xFFFFFFFF
#: A request's header: magic and opcode, key length, extras length to vbucket, body length, opaque,
#: cas.
_HEADER: Final = Struct(">HHIIIQ")
# To look up a member of an enumeration takes as long as to compare ten numbers.
_OK: Final = int(Status.OK)
_NOT_FOUND: Final = int(Status.KEY_NOT_FOUND)


@dataclass(slots=True)
class Run(Generic[T]):
    """
    Many requests, and what their answers mean.

    Attributes:
        opcode: a quiet one.
        keys: as they travel.
        silent: the result of a request that is not answered.
        hit: turns value, flags and cas of an item into the result.
        read: turns another answer into the result, or raises the `ServerError`.
        extras, values: one for each key; or nothing, where the opcode has none.
    """

    opcode: int
    keys: Sequence[bytes]
    silent: T
    hit: Callable[[bytes, int, int], T]
    read: Callable[[Response], T]
    extras: Sequence[bytes] = ()
    values: Sequence[bytes] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"<Run of {len(self.keys)}>"  # keys and values are the users' data

    @property
    def size(self) -> int:
        """How many bytes its requests are."""
        parts = sum(map(len, self.keys)) + sum(map(len, self.extras)) + sum(map(len, self.values))
        return HEADER_SIZE * len(self.keys) + parts

    def frames(self, first_opaque: int) -> list[bytes]:
        """Return the bytes of each request, numbered from *first_opaque*."""
        pack, kind, numbered = _HEADER.pack, REQUEST_MAGIC << 8 | self.opcode, first_opaque
        if not (self.extras or self.values):
            return [
                pack(kind, len(key), 0, len(key), opaque & OPAQUES, 0) + key
                for opaque, key in enumerate(self.keys, numbered)
            ]
        none = (b"",) * len(self.keys)
        bodies = zip(self.extras or none, self.keys, self.values or none, strict=True)
        return [
            b"".join(
                (
                    pack(
                        kind,
                        len(key),
                        len(extras) << 24,
                        len(extras) + len(key) + len(value),
                        opaque & OPAQUES,
                        0,
                    ),
                    extras,
                    key,
                    value,
                )
            )
            for opaque, (extras, key, value) in enumerate(bodies, numbered)
        ]

    def part(self, numbers: Sequence[int]) -> Run[T]:
        """Return a run of those of its requests that have *numbers*."""
        return Run(
            self.opcode,
            [self.keys[number] for number in numbers],
            self.silent,
            self.hit,
            self.read,
            [self.extras[number] for number in numbers] if self.extras else (),
            [self.values[number] for number in numbers] if self.values else (),
        )

    def operations(self) -> list[Operation[T]]:
        """Return its requests one by one."""

        def read(responses: list[Response]) -> T:
            return self.read(responses[0]) if responses else self.silent

        none = (b"",) * len(self.keys)
        bodies = zip(self.keys, self.extras or none, self.values or none, strict=True)
        return [Operation(Request(self.opcode, *body), read) for body in bodies]

    def outcomes(self, told: list[T | MemcacheError]) -> RunOutcomes[T]:
        """Return what became of it, from what became of its `operations`."""
        results, errors = [self.silent] * len(told), {}
        for number, outcome in enumerate(told):
            if isinstance(outcome, MemcacheError):
                errors[number] = outcome
            else:
                results[number] = outcome
        return RunOutcomes(results, errors)


@dataclass(slots=True)
class RunOutcomes(Generic[T]):
    """
    What became of a run.

    Attributes:
        results: one for each request; that of a failed one has no meaning.
        errors: why a request failed, by its number.
    """

    results: list[T]
    errors: dict[int, MemcacheError]


def run_of_gets(keys: Sequence[bytes], hit: Callable[[bytes, int, int], T], miss: T) -> Run[T]:
    """
    GETQ for each of *keys*.

    Args:
        keys: as they travel, checked.
        hit: turns value, flags and cas into the result.
        miss: the result where there is none.
    """

    read = item_reader(hit, miss)
    return Run(int(Opcode.GETQ), keys, miss, hit, lambda response: read([response]))


def run_of_sets(
    keys: Sequence[bytes], values: Sequence[bytes], flags: Sequence[int], exptime: int
) -> Run[bool]:
    """
    SETQ for each of *keys*: True.

    Args:
        keys: as they travel, checked.
        values, flags: one for each.
        exptime: of all, as the server counts it.

    Raises:
        InvalidArgument: a value is not bytes, or a number is beyond 32 bits.
    """
    packed: dict[int, bytes] = {}  # there are few different marks
    extras = []
    for mark in flags:
        known = packed.get(mark) if type(mark) is int else None
        if known is None:
            known = packed[mark] = store_extras(mark, exptime)
        extras.append(known)
    taken = [encode_value(value) for value in values]
    return Run(int(Opcode.SETQ), keys, True, _no_item, _read_done, extras, taken)


def run_of_deletes(keys: Sequence[bytes]) -> Run[bool]:
    """DELETEQ for each of *keys*, as they travel: True, or False where there was nothing."""
    return Run(int(Opcode.DELETEQ), keys, True, _no_item, _read_deleted)


def _no_item(value: bytes, flags: int, cas: int) -> bool:
    raise AssertionError("only reads are answered with items")


def _read_done(response: Response) -> bool:
    if response.status != _OK:
        raise server_error(response)
    return True


def _read_deleted(response: Response) -> bool:
    return response.status != _NOT_FOUND and _read_done(response)
