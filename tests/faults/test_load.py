"""Tests of the load and its verdicts: each finds what it is for, and nothing where all is well."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.faults import values
from tests.faults.load import Load
from tests.faults.local import Broken, LazyReader, Local
from tests.faults.proxied import Seen
from tests.faults.values import Stamp, Wrong
from tests.faults.verdicts import (
    CORRUPT,
    CROSSED,
    DOUBLED,
    GROWN,
    LEAKED,
    LOST_WRITE,
    NOT_RECOVERED,
    SHORT_VALUE,
    UNANSWERED,
    UNVERIFIED,
    Resources,
    Verdicts,
    pause,
)
from tests.memcached import MemcachedOptions, MemcachedTestCase
from txtlsmc.wire import operations
from txtlsmc.wire.frames import Request, RequestReader, Response

_VALUE = values.make(b"key", 7, 100)


class ValueTests(SynchronousTestCase):
    def test_right(self) -> None:
        """A value says whose it is, whatever its length."""
        for length in (0, 1, 63, 64, 65, 100_000):
            self.assertEqual(values.read(values.make(b"key", 7, length)), Stamp(b"key", 7))

    def test_corrupt(self) -> None:
        """No byte of a value can be another."""
        for place in range(len(_VALUE)):
            wrong = values.read(_VALUE[:place] + bytes([_VALUE[place] ^ 1]) + _VALUE[place + 1 :])
            self.assertIsInstance(wrong, Wrong, place)
        self.assertEqual(values.read(b"what is this").kind, "corrupt")  # type: ignore[union-attr]  # it is wrong

    def test_short(self) -> None:
        """A value that lost its end is short, once it has said how long it is."""
        for length in range(len(b"key 7 100 "), len(_VALUE)):
            wrong = values.read(_VALUE[:length])
            assert isinstance(wrong, Wrong)
            self.assertEqual(wrong.kind, "short_value")


class _Liar(Protocol):
    """Answers all that came at once as it is told."""

    def __init__(self, answers: Callable[[list[Request]], bytes | None]) -> None:
        self._answers, self._reader = answers, RequestReader(2**20)

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        requests = [each for each in self._reader.feed(data) if isinstance(each, Request)]
        said = self._answers(requests)
        if said is None:
            self.transport.loseConnection()
        else:
            self.transport.write(said)


class _Liars(ServerFactory):
    noisy = False

    def __init__(self, answers: Callable[[list[Request]], bytes | None]) -> None:
        self._answers = answers

    def buildProtocol(self, addr: IAddress | None) -> _Liar:
        return _Liar(self._answers)


def _answer(request: Request, *, opcode: int | None = None, opaque: int | None = None) -> bytes:
    response = Response(
        request.opcode if opcode is None else opcode,
        opaque=request.opaque if opaque is None else opaque,
    )
    return response.encode()


class LocalTests(TestCase):
    """One local connection, to a server that lies."""

    async def finds(
        self, answers: Callable[[list[Request]], bytes | None], *requests: Request
    ) -> set[str]:
        """Return what is found, when the connection is lost over it."""
        listening = reactor.listenTCP(0, _Liars(answers), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        address = listening.getHost()
        assert isinstance(address, IPv4Address)
        verdicts = Verdicts()
        local = await Local.dial((address.host, address.port), verdicts, answer_seconds=0.2)
        with self.assertRaises(Broken):
            await local.ask(requests or (operations.noop().request,))
        await local.close()
        return verdicts.kinds

    async def test_crossed(self) -> None:
        """An answer under another opaque or opcode, or in another order, is somebody else's."""
        noops = operations.noop().request, operations.noop().request
        self.assertEqual(await self.finds(lambda r: _answer(r[0], opaque=5)), {CROSSED})
        self.assertEqual(await self.finds(lambda r: _answer(r[0], opcode=0)), {CROSSED})
        self.assertEqual(
            await self.finds(lambda r: _answer(r[1]) + _answer(r[0]), *noops), {CROSSED}
        )

    async def test_garbage(self) -> None:
        """What is no frame is corrupt."""
        self.assertEqual(await self.finds(lambda r: b"what is this"), {CORRUPT})

    async def test_unanswered(self) -> None:
        """No answer, or half of one, and no end of the connection either, is unanswered."""
        self.assertEqual(await self.finds(lambda r: b""), {UNANSWERED})
        self.assertEqual(await self.finds(lambda r: _answer(r[0])[:10]), {UNANSWERED})

    async def test_closed(self) -> None:
        """The end of the connection is nothing to complain of."""
        self.assertEqual(await self.finds(lambda r: None), set())


class LoadTests(MemcachedTestCase):
    """The load without a tunnel, and what it finds when somebody else touches its keys."""

    timeout = 60

    def memcached_options(self) -> MemcachedOptions:
        return {"arguments": ("-M", "-m", "256")}

    async def ran(self, rounds: int = 100) -> Load:
        """Return a load that ran without a finding."""
        address = self.memcached.address
        load = Load([address], [address], connections=3, most_rounds=rounds)
        await load.run()
        self.assertEqual(load.verdicts.kinds, set(), load.verdicts)
        return load

    async def ask(self, *requests: Request) -> list[Response | None]:
        """Ask the server itself."""
        local = await Local.dial(self.memcached.address, Verdicts())
        try:
            return await local.ask(requests)
        finally:
            await local.close()

    async def test_well(self) -> None:
        """Where all is well nothing is found, and every worker does what it may."""
        load = await self.ran(300)
        self.assertEqual((await load.judge()).kinds, set(), load.verdicts)
        self.assertEqual(load.rounds, {0: 300, 1: 300, 2: 300})
        self.assertEqual((load.broken, load.refused, load.errors), (0, 0, {}))
        self.assertGreater(len(load.acknowledged()), 10)
        self.assertGreater(len(load.counted()), 5)

    async def test_killed(self) -> None:
        """A load outlives its connections; it says who is not served, until they are."""
        address = self.memcached.address
        load = Load([address], [address], connections=3)
        load.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(load.stop()))
        self.assertTrue(await load.served(5))
        await self.memcached.kill()
        await load.recovered(0.2)
        self.assertEqual(load.verdicts.kinds, {NOT_RECOVERED})
        self.assertGreater(load.refused, 0)
        await self.memcached.restart()
        self.assertTrue(await load.served(5))
        await load.stop()

    async def test_touched(self) -> None:
        """What somebody else does to a key is found, each by its name."""
        load = await self.ran()
        (one, number), (other, _) = list(load.acknowledged().items())[:2]
        counter = next(iter(load.counted()))
        right = values.make(one, number, 100)
        for kind, request in (
            (LOST_WRITE, operations.delete(one).request),
            (LOST_WRITE, operations.set(one, values.make(one, number + 1000, 9)).request),
            (CROSSED, operations.set(one, values.make(other, number, 9)).request),
            (CORRUPT, operations.set(one, right[:-1] + b"x").request),
            (SHORT_VALUE, operations.set(one, right[:-1]).request),
            (DOUBLED, operations.incr(counter).request),
            (LOST_WRITE, operations.decr(counter).request),
            (CROSSED, operations.incr(counter, 10**9).request),
            (LOST_WRITE, operations.delete(counter).request),
        ):
            load.verdicts.findings = Verdicts().findings
            await self.ask(request)
            self.assertEqual((await load.judge()).kinds, {kind}, f"{request}: {load.verdicts}")
            if request.key == one:
                await self.ask(operations.set(one, right).request)

    async def test_lazy_reader(self) -> None:
        """A lazy reader is served, takes nothing, and can be closed again."""
        await self.ask(operations.set("k", bytes(2**19)).request)
        lazy = await LazyReader.dial(
            self.memcached.address, operations.get("k").request.encode() * 64
        )
        stats = await self.ask(operations.noop().request)
        self.assertEqual(len(stats), 1)
        self.assertFalse(lazy.gone.called)
        await lazy.close()
        await lazy.close()


class ResourceTests(TestCase):
    async def judged(self, before: Resources) -> set[str]:
        verdicts = Verdicts()
        await verdicts.judge_resources(os.getpid(), before, most_mib=8, seconds=0.1)
        return verdicts.kinds

    async def test_resources(self) -> None:
        """Descriptors and memory that were not there before are found, and nothing else."""
        await pause(0)  # the reactor's own descriptors come when it starts
        before = Resources.of(os.getpid())
        self.assertEqual(await self.judged(before), set())
        ends = os.pipe()
        self.assertEqual(await self.judged(before), {LEAKED})
        for end in ends:
            os.close(end)
        held = bytearray(b"x") * 2**26  # so much never comes from what was freed before
        self.assertEqual(await self.judged(before), {GROWN})
        del held

    def test_unverified(self) -> None:
        """What was sent to a bad certificate is found; what was sent to a good one is right."""
        for bad, received, kinds in ((True, 1, {UNVERIFIED}), (True, 0, set()), (False, 1, set())):
            verdicts = Verdicts()
            verdicts.unverified([Seen("expired", 1, bad=bad, received=received)])
            self.assertEqual(verdicts.kinds, kinds)
