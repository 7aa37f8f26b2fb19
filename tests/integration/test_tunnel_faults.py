"""What local clients see when the server is frozen, killed and started again."""

from __future__ import annotations

import time

from tests.integration.cluster import NAMES, pause
from tests.integration.tunnel import TunnelTestCase, answered, lost
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode

_GET = Request(Opcode.GET, b"key").encode()


class FaultTests(TunnelTestCase):
    async def test_frozen(self) -> None:
        """Who waits for a silent server is closed in time, and served again once it goes on."""
        tunnel = await self.tunnel(timeout=0.5)
        waiting, idle = await self.asking(tunnel), await self.asking(tunnel)
        self.cluster[0].pause()
        self.addCleanup(self.cluster[0].resume)
        started = time.monotonic()
        waiting.send(_GET)
        await lost(waiting)
        took = time.monotonic() - started
        self.assertGreater(took, 0.4)
        self.assertLess(took, 5)
        self.assertEqual(waiting.responses, [])
        await self.refused(tunnel)
        self.cluster[0].resume()
        await (await self.served(tunnel)).noop()
        self.assertIsNone(idle.lost)  # it waited for nothing
        idle.send(_GET)
        await answered(idle, 1)
        self.assertEqual([each.status for each in idle.responses], [1])
        self.assertEqual(tunnel.hub.counters.upstream_silent, 1)

    async def test_killed(self) -> None:
        """While the server is down new ones are closed at once; they are served soon after."""
        tunnel = await self.tunnel()
        waiting = await self.asking(tunnel)
        waiting.send(_GET)
        await answered(waiting, 1)
        await self.cluster[0].kill()
        await self.refused(tunnel)
        for _ in range(20):
            started = time.monotonic()
            for refused in await self.crowd(tunnel, 1):
                await lost(refused)
                self.assertEqual(refused.responses, [])
            self.assertLess(time.monotonic() - started, 2)
        await self.cluster[0].restart()
        started = time.monotonic()
        await (await self.served(tunnel)).noop()
        self.assertLess(time.monotonic() - started, 5)

    async def test_log(self) -> None:
        """The log names the cause once for as long as the server is down, and that it is back."""
        tunnel = await self.tunnel()
        await self.cluster[0].kill()
        await self.refused(tunnel)
        for _ in range(10):
            await self.crowd(tunnel, 5)
            await pause(0.02)
        await self.cluster[0].restart()
        await self.served(tunnel)
        lines = [line for line in self.told_of(0) if line.startswith(NAMES[0])]
        self.assertEqual(lines[0], f"{NAMES[0]} is ready")
        self.assertEqual(lines[-1], f"{NAMES[0]} is back")
        down = lines[1:-1]
        self.assertTrue(down)
        self.assertTrue(all(line.startswith(f"{NAMES[0]} is down: ") for line in down), down)
        self.assertEqual(len(set(down)), len(down))
        self.assertLessEqual(len(down), 3, down)

    async def test_nothing_is_kept(self) -> None:
        """What was asked of a dead server is not asked of the one that comes after it."""
        tunnel = await self.tunnel(timeout=5)
        asking = await self.asking(tunnel)
        self.cluster[0].pause()
        store = Request(Opcode.SET, b"key", bytes(8), b"late").encode()
        before = tunnel.hub.counters.forwarded
        asking.send(store)
        while tunnel.hub.counters.forwarded == before:
            await pause(0)
        await self.cluster[0].kill()
        await lost(asking)
        await self.cluster[0].restart()
        self.assertIsNone(await (await self.served(tunnel)).get("key"))
