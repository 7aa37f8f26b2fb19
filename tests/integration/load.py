"""A load of sets and gets that knows which values are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred, gatherResults

from tests.integration.cluster import pause
from txtlsmc.client import MemcacheClient
from txtlsmc.errors import ConnectionClosed, MemcacheError, PartialResult, RequestTimeout

#: Between two rounds of a worker.
_REST = 0.005


class Failed(NamedTuple):
    """
    A call that failed.

    Attributes:
        operation: ``set``, ``get`` or ``get_multi``.
        place: of the server of its key, or of the one that a call for many keys names.
        error: why; of a call for many keys, what it says of that server.
    """

    operation: str
    place: int
    error: MemcacheError


class Load:
    """
    One worker for each key, which sets and gets it without end.

    A value says its key and its number.  So what a get finds can be judged: it has to be the last
    number that was stored, or a later one whose set failed after it may have been sent.  Nothing at
    all may be found only where the server has lost its memory since.

    Attributes:
        failures: all of them.
        wrong: what should not have been found, in words.
        rounds: how many sets and gets of a key both succeeded.
        forgetful: places of servers that were started anew.
    """

    def __init__(self, client: MemcacheClient, keys: Sequence[str]) -> None:
        """Take keys that are this load's own."""
        self.failures: list[Failed] = []
        self.wrong: list[str] = []
        self.rounds: Counter[str] = Counter()
        self.forgetful: set[int] = set()
        self._client, self._keys = client, keys
        self._places = {key: client.node_for(key).place for key in keys}
        self._names = {node.server.name: place for place, node in enumerate(client.nodes())}
        self._stored = dict.fromkeys(keys, 0)
        self._sent = dict.fromkeys(keys, 0)
        self._stopping = False
        self._working: Deferred[list[None]] | None = None

    def start(self) -> None:
        """Begin."""
        working = [Deferred.fromCoroutine(self._work(key)) for key in self._keys]
        self._working = gatherResults(working, consumeErrors=True)

    async def stop(self) -> None:
        """Let each worker finish its round; again, it changes nothing."""
        self._stopping = True
        working, self._working = self._working, None
        if working is not None:
            await working

    async def served(self, *places: int, rounds: int = 20) -> None:
        """Wait until every key at *places* had so many rounds more, since now."""
        wanted = {
            key: self.rounds[key] + rounds for key in self._keys if self._places[key] in places
        }
        while any(self.rounds[key] < least for key, least in wanted.items()):
            await pause(0.01)

    async def _work(self, key: str) -> None:
        number = 0
        while not self._stopping:
            number += 1
            stored = await self._set(key, number)
            if await self._get(key) and stored:
                self.rounds[key] += 1
            if number % 5 == 0:
                await self._get_multi()
            await pause(_REST)

    async def _set(self, key: str, number: int) -> bool:
        try:
            self._sent[key] = number
            await self._client.set(key, f"{key}={number}")
        except MemcacheError as error:
            if not (isinstance(error, (ConnectionClosed, RequestTimeout)) and error.sent):
                self._sent[key] = self._stored[key]
            self._failed("set", key, error)
            return False
        self._stored[key] = number
        return True

    async def _get(self, key: str) -> bool:
        least = self._stored[key]
        try:
            value = await self._client.get(key)
        except MemcacheError as error:
            self._failed("get", key, error)
            return False
        self._judge("get", key, value, least)
        return value is not None

    async def _get_multi(self) -> None:
        least = dict(self._stored)
        try:
            found = await self._client.get_multi(self._keys)
            missing: set[int] = set()
        except PartialResult as error:
            assert isinstance(error.found, dict)
            found = error.found
            missing = {self._names[name] for name in error.errors}
            for name, each in error.errors.items():
                self.failures.append(Failed("get_multi", self._names[name], each))
        for key in self._keys:
            if self._places[key] not in missing:
                self._judge("get_multi", key, found.get(key), least[key])

    def _failed(self, operation: str, key: str, error: MemcacheError) -> None:
        self.failures.append(Failed(operation, self._places[key], error))

    def _judge(self, operation: str, key: str, value: object, least: int) -> None:
        if value is None:
            if least and self._places[key] not in self.forgetful:
                self.wrong.append(f"{operation}: {key} is gone, and had {least}")
            return
        of, _, number = str(value).partition("=")
        if of != key or not least <= int(number) <= self._sent[key]:
            self.wrong.append(f"{operation}: {key} is {value!r}, not {least} to {self._sent[key]}")
