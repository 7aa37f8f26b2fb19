"""Hostile local clients, while a good one works on and has not to notice."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from typing import Final

from twisted.internet.defer import Deferred

from tests.integration.cluster import pause
from tests.integration.mixed import Mixed
from tests.integration.tunnel import (
    TunnelProcess,
    TunnelTestCase,
    answered,
    blocking,
    lost,
    settled,
    stat,
)
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.wire.frames import HEADER, REQUEST_MAGIC, Request
from txtlsmc.wire.opcodes import MAX_KEY, Opcode

_MIB: Final = 2**20
_RESETS: Final = 5000
_GET: Final = Request(Opcode.GET, b"key").encode()
_SET: Final = Request(Opcode.SET, b"half", bytes(8), b"value" * 200).encode()
#: What a browser, a client that speaks TLS, and others say first.
_STRANGERS: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /set HTTP/1.1\r\nContent-Length: 4\r\n\r\n",
    bytes.fromhex("1603010200010001fc0303") + bytes(200),
    b"\x81" + bytes(23),
    b"get key\r\n",
    b"set key 0 0 5\r\nvalue\r\n",
    b"\0",
    b"\xff" * 5000,
)
#: Opcodes that would be felt by the good one if they passed, which they may.
_FELT: Final = (Opcode.FLUSH, Opcode.FLUSHQ)


def shapes() -> Iterator[bytes]:
    """Return requests of every opcode, of lengths that are right, wrong or a lie."""
    chosen = random.Random(1)
    for opcode in range(256):
        if opcode in _FELT:
            continue
        for extras in (0, 4, 8, 20, 21):
            for key in (0, 1, MAX_KEY, MAX_KEY + 1):
                value = chosen.choice((0, 1, 8))
                yield Request(opcode, b"k" * key, bytes(extras), b"v" * value).encode()
        # Lengths that do not fit into the body, and a body that never comes.
        yield HEADER.pack(REQUEST_MAGIC, opcode, 300, 200, 0, 0, 10, 7, 0) + bytes(10)
        yield HEADER.pack(REQUEST_MAGIC, opcode, 3, 8, 0, 0, 2**32 - 1, 7, 0) + bytes(100)


class HostileTests(TunnelTestCase):
    """
    A good client works through all of a test, and nothing changes for it or the server.

    Attributes:
        victim: the tunnel.
        asker: a connection to the server itself.
        load: what the good one does.
    """

    victim: TunnelProcess
    asker: MemcacheProtocol
    load: Mixed

    async def start_cluster(self) -> None:
        await super().start_cluster()
        self.asker = await self.direct(0)
        self.victim = await self.process(limits={"max_request": 200_000})
        self.load = Mixed(lambda: self.local(self.victim), 2, forgetful=False)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.load.stop()))
        await self.load.start()
        # What the first hostile ones cost once is not counted.
        for stranger in _STRANGERS:
            await self.closed_for(stranger)
        await self.load.served(100)
        self.before = (
            await stat(self.asker, "total_connections"),
            await settled(self.victim.descriptors, 0, 0.5),
            self.victim.memory(),
        )

    async def assert_unnoticed(self) -> None:
        """The good one works, on the same connection to the server; all is given back."""
        connections, descriptors, memory = self.before
        await self.load.served(20)
        await self.load.stop()
        self.assertEqual(self.load.wrong, [])
        self.assertEqual(await stat(self.asker, "total_connections"), connections)
        self.assertEqual(await settled(self.victim.descriptors, descriptors), descriptors)
        # What a burst takes once is kept by the allocator: four times as many take no more.
        self.assertLessEqual(self.victim.memory() - memory, 16 * _MIB)
        counters = await self.victim.counters()
        self.assertEqual(counters["upstream_lost"], 0)
        self.assertNotIn("Traceback", self.victim.log)

    async def closed_for(self, said: bytes) -> None:
        """Who says that is closed, and told nothing."""
        asking = await self.asking(self.victim)
        asking.send(said)
        await lost(asking)
        self.assertEqual(asking.responses, [])

    async def test_shapes(self) -> None:
        """Requests of every shape, each on a connection of its own and behind a right one."""
        said = list(shapes())
        for start in range(0, len(said), 50):
            batch = said[start : start + 50]
            crowd = await self.crowd(self.victim, len(batch))
            for asking, shape in zip(crowd, batch, strict=True):
                asking.send(_GET + shape)
            for asking in crowd:
                await answered(asking, 1)
                self.assertEqual(asking.responses[0].opcode, Opcode.GET)
                self._abort(asking)
        self.assertGreater(len(said), 5000)
        await self.assert_unnoticed()

    async def test_in_turn(self) -> None:
        """A wrong request is refused in its turn, between others; if it has to be, as the last."""
        refused = closed = 0
        for opcode in range(256):
            asking = await self.asking(self.victim)
            asking.send(_GET + Request(opcode, b"k", bytes(3)).encode() + _GET)
            await answered(asking, 3)
            opcodes = [each.opcode for each in asking.responses]
            self.assertIn(opcodes, ([Opcode.GET, opcode, Opcode.GET], [Opcode.GET, opcode]))
            self.assertNotEqual(asking.responses[1].status, 0)
            refused += len(opcodes) == 3
            closed += len(opcodes) == 2
            self._abort(asking)
        self.assertGreater(min(refused, closed), 10)
        await self.assert_unnoticed()

    async def test_strangers(self) -> None:
        """An HTTP request, a TLS hello, a text client, garbage: closed, and told nothing."""
        for stranger in _STRANGERS * 5:
            await self.closed_for(stranger)
        for hint in ("it speaks TLS", "it speaks HTTP", "text protocol"):
            self.assertEqual(self.victim.log.count(hint), 1, self.victim.log)
        await self.assert_unnoticed()

    async def test_halves(self) -> None:
        """Half a request is stored by nobody, wherever it ends, and however that is."""
        for end in range(1, len(_SET), 37):
            closed, reset = await self.crowd(self.victim, 2)
            for asking in (closed, reset):
                asking.send(_GET + _SET[:end])
                await answered(asking, 1)
            closed.transport.loseConnection()
            reset.transport.abortConnection()
        self.assertIsNone(await self.asker.get("half"))
        await self.assert_unnoticed()

    async def test_trickle(self) -> None:
        """Requests that come one byte at a time are served, and hold nobody up."""
        asking = await self.asking(self.victim)
        asking.transport.setTcpNoDelay(True)
        for byte in _SET + _GET:
            asking.send(bytes([byte]))
            await pause(0)
        await answered(asking, 2)
        self.assertEqual([each.status for each in asking.responses], [0, 1])
        self._abort(asking)
        await self.assert_unnoticed()

    async def test_resets(self) -> None:
        """Five thousand that connect and reset, some of them in the middle of something."""
        address = self.victim.addresses[0]

        def connect_and_reset() -> None:
            for number in range(_RESETS):
                with socket.create_connection(address, timeout=30) as each:
                    each.sendall((b"", _GET, _SET[:50], _GET * 100)[number % 4])
                    # Closed with a reset, not with the end of the stream.
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        await blocking(connect_and_reset)
        self.assertIsNone(await self.asker.get("half"))
        await self.assert_unnoticed()
