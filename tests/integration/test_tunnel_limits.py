"""What one local client can not do to the others, nor many to the tunnel."""

from __future__ import annotations

import time
from typing import Final

from tests.integration.cluster import pause, until
from tests.integration.tunnel import (
    Tunnel,
    TunnelTestCase,
    answered,
    lost,
    settled,
)
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode

_MIB: Final = 2**20
_LARGE: Final = 900_000
_FLOOD: Final = 10_000
#: Besides those that a neighbour may have on its way.
_FEW: Final = 8
#: An expiry that makes a counter fail when it is missing.
_NO_COUNTER: Final = b"\xff\xff\xff\xff"


def incr(key: bytes, opaque: int) -> bytes:
    """Return a request that counts *key* up by one."""
    extras = (1).to_bytes(8, "big") + bytes(8) + _NO_COUNTER
    return Request(Opcode.INCREMENT, key, extras, opaque=opaque).encode()


def get(key: bytes, opaque: int = 0) -> bytes:
    return Request(Opcode.GET, key, opaque=opaque).encode()


class FloodTests(TunnelTestCase):
    """One client asks for ten thousand things at once; how many come before another's one?"""

    async def overtaken(self, tunnel: Tunnel, answers: int) -> int:
        """
        Send the flood, and a single get once it has had so many answers.

        Returns:
            How many of the flood were served between the two.  The flood counts something up, so
            what the get finds tells that, however late anybody reads it.
        """
        flood, other = await self.asking(tunnel), await self.asking(tunnel)
        await (await self.local(tunnel)).set("count", b"0")
        counters = tunnel.hub.counters
        before = counters.answers
        flood.send(b"".join(incr(b"count", number) for number in range(_FLOOD)))
        while counters.answers - before < answers:
            await pause(0)
        told = counters.answers - before
        # Not by the transport, which would wait for the reactor while the gateway goes on.
        other.transport.getHandle().send(get(b"count"))  # type: ignore[attr-defined]  # a socket's
        await answered(other, 1)
        number = int(other.responses[0].value)
        await answered(flood, _FLOOD)
        self.assertEqual([each.opaque for each in flood.responses], list(range(_FLOOD)))
        values = [int.from_bytes(each.value, "big") for each in flood.responses]
        self.assertEqual(values, list(range(1, _FLOOD + 1)))
        return number - told

    async def test_flood(self) -> None:
        """A single get is answered before a window more of the flood, whenever it comes."""
        for window in (128, 16):
            tunnel = await self.tunnel(limits={"window": window})
            for answers in (0, 1000, 5000):
                # Twice: in the turn of the reactor in which the get is read, the answers to all
                # that was on its way may be read first, and as many more be asked for.
                self.assertLessEqual(await self.overtaken(tunnel, answers), 2 * window + _FEW)


class ReaderTests(TunnelTestCase):
    async def test_takes_nothing(self) -> None:
        """A client that asks for 180 MB and reads nothing costs little; others are served."""
        process = await self.process()
        good = await self.local(process)
        await good.set("large", b"v" * _LARGE)
        for _ in range(10):  # what one large answer takes is not counted
            await good.get("large")
        before = process.memory()
        greedy = await self.asking(process)
        greedy.transport.pauseProducing()
        greedy.send(get(b"large") * 200)
        most = 0
        for number in range(100):
            self.assertIs(await good.set("key", b"%d" % number), True)
            item = await good.get("key")
            assert item is not None
            self.assertEqual(item.value, b"%d" % number)
            most = max(most, process.memory())
            await pause(0.01)
        self.assertLessEqual(most - before, 8 * _MIB)
        self.assertIsNone(greedy.lost)
        greedy.transport.resumeProducing()
        await answered(greedy, 200)
        self.assertEqual({len(each.value) for each in greedy.responses}, {_LARGE})
        self.assertEqual(len(greedy.responses), 200)

    async def test_half_close(self) -> None:
        """Who asks for a hundred things and will ask no more has all answers, and then the end."""
        tunnel = await self.tunnel()
        await (await self.local(tunnel)).set("key", b"value")
        asking = await self.asking(tunnel)
        asking.send(b"".join(get(b"key", number) for number in range(100)))
        asking.transport.loseWriteConnection()
        await lost(asking)
        self.assertEqual([each.opaque for each in asking.responses], list(range(100)))
        self.assertEqual({each.value for each in asking.responses}, {b"value"})


class CrowdTests(TunnelTestCase):
    async def test_idle(self) -> None:
        """Three hundred that do nothing cost a descriptor and few bytes each, and no time."""
        process = await self.process()
        good = await self.local(process)
        for each in await self.crowd(process, 20):
            each.transport.abortConnection()  # what the first ones cost is not counted
        descriptors = await settled(process.descriptors, 0, 0.3)
        memory = process.memory()
        idle = await self.crowd(process, 300)
        await good.set("key", b"value")
        while (await process.counters())["local_connections"] < 302:
            await pause(0.01)
        self.assertEqual(process.descriptors() - descriptors, 300)
        self.assertLessEqual((process.memory() - memory) / 300, 12 * 1024)
        started = time.monotonic()
        await good.get("key")
        self.assertLess(time.monotonic() - started, 1)
        for each in idle:
            each.transport.loseConnection()
        self.assertEqual(await settled(process.descriptors, descriptors), descriptors)

    async def test_most(self) -> None:
        """One too many is closed at once, and served once another has gone."""
        tunnel = await self.tunnel(limits={"max_connections": 10})
        counters = tunnel.hub.counters
        await until(lambda: counters.local_connections <= 1)
        there = await self.crowd(tunnel, 10 - counters.local_connections)
        await until(lambda: counters.local_connections == 10)
        for more in await self.crowd(tunnel, 1):
            await lost(more)
        self.assertEqual(counters.refused_max_connections, 1)
        self.assertTrue(all(each.lost is None for each in there))
        there[0].transport.loseConnection()
        await until(lambda: counters.local_connections == 9)
        await (await self.served(tunnel)).noop()

    async def test_descriptors(self) -> None:
        """Without descriptors new ones are closed at once; old ones live, the server is dialled."""
        process = await self.process(descriptors=64)
        good = await self.local(process)
        crowd = await self.crowd(process, 200)
        await until(lambda: sum(each.lost is None for each in crowd) <= 64 - 32)
        self.assertGreater(sum(each.lost is None for each in crowd), 10)
        self.assertIs(await good.set("key", b"value"), True)
        counters = await process.counters()
        self.assertGreater(counters["refused_descriptors"], 0)
        # There are some kept for the server.
        await self.cluster[0].kill()
        while (await process.counters())["upstream_lost"] < 1:
            await pause(0.01)
        await self.cluster[0].restart()
        while (await process.counters())["upstream_ready"] < 2:
            await pause(0.01)
        served = [each for each in crowd if each.lost is None]
        served[0].send(get(b"key"))
        await answered(served[0], 1)
        self.assertEqual([each.status for each in served[0].responses], [1])
        for each in served:
            each.transport.loseConnection()
        await (await self.served(process)).noop()
        self.assertNotIn("Traceback", process.log)
