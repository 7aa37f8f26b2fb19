"""A load of many operations over many local connections, which knows what is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError

from tests.faults.local import Broken, Local
from tests.faults.verdicts import NOT_RECOVERED, Verdicts, pause, until
from tests.faults.worker import Worker

Address = tuple[str, int]

_LARGE: Final = 200_000
#: After a failed dial, and after each round.
_REST: Final = 0.02
_BREATH: Final = 0.001


class Load:
    """
    Workers with keys of their own, each on a local connection of its own.

    A key has one writer, so what a read may find is known.  Only a write whose connection ended
    before its answer leaves that open: the key is then used no more, and both are right in the end.
    Start the memcached behind with ``-M``, so that it evicts nothing.

    Attributes:
        verdicts: what was found.
        rounds: how many steps each worker completed.
        broken: how many steps ended with the connection.
        refused: how many dials failed.
    """

    def __init__(
        self,
        through: Sequence[Address],
        direct: Sequence[Address],
        verdicts: Verdicts | None = None,
        *,
        connections: int = 4,
        most_rounds: int = 100_000,
        answer_seconds: float = 10,
        large: int = _LARGE,
        seed: int = 1,
        prefix: str = "load",
    ) -> None:
        """
        Args:
            through: where the tunnel listens, one for each server.
            direct: the servers themselves, in the same order.
            verdicts: get what is found; those of others, when several loads run.
            connections: how many workers there are.
            most_rounds: after so many steps a worker ends by itself.
            answer_seconds: within this a request is answered, or its connection ends.
            large: the length of the large values; keep it small where records are of one byte.
            seed: of what is done when.
            prefix: of all keys.
        """
        self.verdicts = Verdicts() if verdicts is None else verdicts
        self.rounds: Counter[int] = Counter()
        self.broken = self.refused = 0
        self._direct = list(direct)
        self._stopping = False
        self._working: Deferred[list[None]] | None = None
        self._most_rounds = most_rounds
        self._workers = [
            Worker(
                self.verdicts,
                number,
                through[number % len(through)],
                answer_seconds=answer_seconds,
                large=large,
                random=Random(f"{seed} {number}"),
                prefix=prefix,
            )
            for number in range(connections)
        ]

    def acknowledged(self) -> dict[bytes, int]:
        """Return the keys of all workers under which a value must be, and its number."""
        return {key: n for each in self._workers for key, n in each.acknowledged().items()}

    def counted(self) -> dict[bytes, int]:
        """Return the keys of all workers that count, and how far."""
        return {key: n for each in self._workers for key, n in each.counted().items()}

    @property
    def errors(self) -> Counter[int]:
        """The statuses of all answers that were failures, and how often they came."""
        return sum((each.errors for each in self._workers), Counter())

    def start(self) -> None:
        """Begin."""
        working = [Deferred.fromCoroutine(self._work(each)) for each in self._workers]
        self._working = gatherResults(working, consumeErrors=True)

    async def run(self, seconds: float = 30) -> None:
        """Begin, and wait, for a time, until each worker did the most that it may."""
        self.start()
        try:
            await self.served(self._most_rounds, seconds)
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Let each worker finish its step; again, it changes nothing."""
        self._stopping = True
        working, self._working = self._working, None
        if working is not None:
            await working

    async def served(self, rounds: int = 20, seconds: float = 30) -> bool:
        """Wait, for a time, until every worker completed so many steps more; return whether."""
        wanted = [self.rounds[each.number] + rounds for each in self._workers]
        return await until(
            lambda: all(self.rounds[n] >= least for n, least in enumerate(wanted)), seconds
        )

    async def recovered(self, seconds: float, rounds: int = 3) -> bool:
        """Judge whether every worker is served again within a time; call it after the healing."""
        before = dict(self.rounds)
        recovered = await self.served(rounds, seconds)
        if not recovered:
            late = [
                each.number
                for each in self._workers
                if self.rounds[each.number] < before.get(each.number, 0) + rounds
            ]
            self.verdicts.add(NOT_RECOVERED, f"workers {late} are not served after {seconds:g} s")
        return recovered

    async def judge(self) -> Verdicts:
        """Hold what is stored, read around the tunnel, against what was acknowledged."""
        for each in self._workers:
            address = self._direct[each.number % len(self._direct)]
            direct = await Local.dial(address, self.verdicts)
            try:
                await each.judge(direct)
            finally:
                await direct.close()
        return self.verdicts

    async def _work(self, worker: Worker) -> None:
        try:
            while not self._stopping and self.rounds[worker.number] < self._most_rounds:
                try:
                    await worker.step()
                except ConnectError:
                    self.refused += 1
                    await pause(_REST)
                except Broken:
                    self.broken += 1
                    await pause(_REST)
                else:
                    self.rounds[worker.number] += 1
                    await pause(_BREATH)
        finally:
            await worker.close()
