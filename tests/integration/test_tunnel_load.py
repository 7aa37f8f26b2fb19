"""Two hundred local connections at once, at a server that stays and at one that is killed."""

from __future__ import annotations

import os
import time
from typing import Final

from twisted.internet.defer import Deferred

from tests.integration.cluster import pause
from tests.integration.mixed import Mixed
from tests.integration.tunnel import TunnelProcess, TunnelTestCase, stat

#: How long the load lasts.  A release is tested with more.
_SECONDS: Final = float(os.environ.get("TXTLSMC_LOAD_SECONDS", "6"))
_EVERY: Final = min(3.0, _SECONDS / 3)
_WORKERS: Final = 200
#: Which memcached counts besides: the one that it listens on.
_OWN: Final = 1


class LoadTests(TunnelTestCase):
    timeout = int(_SECONDS) + 120

    async def load(self, process: TunnelProcess, *, forgetful: bool) -> Mixed:
        load = Mixed(lambda: self.local(process), _WORKERS, forgetful=forgetful)
        self.addCleanup(lambda: Deferred.fromCoroutine(load.stop()))
        await load.start()
        return load

    async def test_load(self) -> None:
        """No answer crosses, none is lost, and the server has one connection for all of them."""
        asker = await self.direct(0)
        before = await stat(asker, "curr_connections")
        made = await stat(asker, "total_connections")
        process = await self.process()
        load = await self.load(process, forgetful=False)
        until, most = time.monotonic() + _SECONDS, 0
        while time.monotonic() < until:
            most = max(most, await stat(asker, "curr_connections"))
            await pause(0.1)
        await load.stop()
        self.assertEqual(load.wrong, [])
        self.assertEqual(len(load.rounds), _WORKERS)
        self.assertEqual(len(load.done), 11, load.done)
        self.assertEqual(most - before, 1)
        self.assertEqual(await stat(asker, "total_connections") - made, 1)
        counters = await process.counters()
        self.assertEqual(counters["upstream_lost"], 0)
        self.assertEqual(counters["closed_upstream_lost"], 0)
        self.assertGreaterEqual(counters["local_connections_total"], _WORKERS)

    async def test_killed(self) -> None:
        """Killed and started anew, it costs connections; no answer crosses, and nobody hangs."""
        process = await self.process(upstream_connections=2)
        load = await self.load(process, forgetful=True)
        until, kills = time.monotonic() + _SECONDS, 0
        while time.monotonic() < until:
            await pause(_EVERY / 2)
            await self.cluster[0].kill()
            kills += 1
            await pause(0.2)
            await self.cluster[0].restart()
            restarted = time.monotonic()
            await load.served()
            self.assertLess(time.monotonic() - restarted, 10)
            asker = await self.direct(0)
            self.assertLessEqual(await stat(asker, "curr_connections"), 2 + 1 + _OWN)
        await load.stop()
        self.assertEqual(load.wrong, [])
        self.assertGreater(load.lost, 0)
        counters = await process.counters()
        self.assertGreaterEqual(counters["upstream_lost"], kills)
        self.assertLessEqual(counters["upstream_ready"], 2 * (kills + 1))
