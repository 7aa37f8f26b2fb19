"""
Unchanged clients pass the tunnel, and see there what they see at a server without TLS.

Each does the same calls on the tunnel and on servers like those behind it, and the results are
compared.
"""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any, Final

from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SkipTest

from tests.integration.test_memccapable import assert_capable
from tests.integration.tunnel import Tunnel, TunnelTestCase, blocking
from tests.integration.unchanged import KEYS, Addresses, Login, pylibmc_client, run
from tests.memcached import RealMemcached
from tests.secrecy import USER, password, wrong_password

#: Of what is compared, what has to come of some calls: else both could fail alike.
_RIGHT: Final = {
    "missing": {"default", None},
    "set": {True},
    "add again": {False},
    "cas": {True},
    "incr": {30, 20},
    "decr below 0": {0},
    "get large": {"the large value"},
    "delete": {True},
    "flushed": {None},
}


def nobody() -> Login:
    return ()


def right() -> Login:
    return USER, password()


def wrong() -> Login:
    return USER, wrong_password()


class TwinTestCase(TunnelTestCase):
    """A tunnel before three servers, and their twins, which are reached without one."""

    members = 3

    def needs(self, module: str) -> None:
        """Skip the test unless *module* is there."""
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise SkipTest(f"{module} can not be imported: {error}") from None

    async def twins(self, *, sasl: bool = False) -> list[RealMemcached]:
        """Start servers without TLS."""
        users = {USER: password()} if sasl else None
        return await gatherResults([self.start_memcached(sasl=users) for _ in self.cluster])

    async def same(self, script: str, login: Any = nobody) -> dict[str, Any]:
        """All that comes of a script through the tunnel comes of it without; return it."""
        twins = await self.twins(sasl=login is not nobody)
        tunnel = await self.tunnel()
        addresses = [twin.address for twin in twins]
        direct = await blocking(lambda: run(script, addresses, login))
        through = await blocking(lambda: run(script, tunnel.addresses, login))
        self.assertEqual(through, direct)
        return dict(through)

    async def calls(self, script: str, login: Any = nobody) -> None:
        """The same comes of every call, and it is right."""
        found = await self.same(script, login)
        for name, values in _RIGHT.items():
            self.assertIn(found[name], values, name)
        self.assertEqual(len(found["get_multi"]), len(KEYS))
        self.assertTrue(all(found["stats"]))


class PylibmcTests(TwinTestCase):
    async def start_cluster(self) -> None:
        self.needs("pylibmc")
        await super().start_cluster()

    async def test_calls(self) -> None:
        """Without a password, what comes of each call comes of it without the tunnel."""
        await self.calls("pylibmc_calls")

    async def test_ketama(self) -> None:
        """Keys are shared out between the servers, and the servers hold them."""
        tunnel = await self.tunnel()
        stored = dict.fromkeys(KEYS, "value")
        await blocking(lambda: pylibmc_client(tunnel.addresses, ()).set_multi(stored))
        held = []
        for place in range(3):
            found = await (await self.direct(place)).get_multi(KEYS)
            held.append(set(found))
        self.assertEqual(sum(map(len, held)), len(KEYS))
        self.assertEqual(set.union(*held), set(KEYS))
        self.assertTrue(all(held))

    async def test_failover(self) -> None:
        """When a server is killed its keys go to the others, after as many errors as directly."""
        twins = await self.twins()
        tunnel = await self.tunnel()
        for behaviors in ({"remove_failed": 1}, {"remove_failed": 3}):
            addresses = [twin.address for twin in twins]
            direct = await self._fail_over(None, addresses, twins[1], behaviors)
            through = await self._fail_over(tunnel, tunnel.addresses, self.cluster[1], behaviors)
            self.assertEqual(direct[-2:], [{}, {}])
            self.assertEqual(through[-2:], [{}, {}])
            for name in {*direct[1], *through[1]}:
                more = through[1].get(name, 0) - direct[1].get(name, 0)
                self.assertLessEqual(abs(more), 1, (name, direct, through))
            await twins[1].restart()
            await self.cluster[1].restart()
            await self.served(tunnel, 1)

    async def _fail_over(
        self,
        tunnel: Tunnel | None,
        addresses: Addresses,
        killed: RealMemcached,
        behaviors: dict[str, int],
    ) -> list[dict[str, int]]:
        """Return how often what was wrong: before a server is killed, and three times after."""
        behaviors = {"dead_timeout": 60, "retry_timeout": 1, **behaviors}
        client = await blocking(lambda: pylibmc_client(addresses, (), **behaviors))

        def round_of_calls() -> dict[str, int]:
            wrong: Counter[str] = Counter()
            for key in KEYS:
                try:
                    client.set(key, key)
                except Exception as error:  # the library has many
                    wrong[type(error).__name__] += 1
            for key in KEYS:
                wrong["missed"] += client.get(key) != key
            return dict(+wrong)

        rounds = [await blocking(round_of_calls)]
        await killed.kill()
        if tunnel is not None:
            await self.refused(tunnel, 1)
        rounds += [await blocking(round_of_calls) for _ in range(3)]
        await blocking(client.disconnect_all)
        return rounds


class PylibmcLoginTests(TwinTestCase):
    async def start_cluster(self) -> None:
        self.needs("pylibmc")
        await super().start_cluster()

    async def test_login(self) -> None:
        """With user name and password too, for an app whose settings were not changed."""
        await self.calls("pylibmc_calls", right)

    async def test_wrong_login(self) -> None:
        """With a wrong password it fails as it does without the tunnel."""
        found = await self.same("pylibmc_tries", wrong)
        self.assertNotIn(True, found.values())
        self.assertNotIn("value", found.values())


class RelayPylibmcTests(PylibmcTests):
    mode = "relay"
    sasl = False


class RelayPylibmcLoginTests(PylibmcLoginTests):
    mode = "relay"


class BMemcachedTests(TwinTestCase):
    async def start_cluster(self) -> None:
        self.needs("bmemcached")
        await super().start_cluster()

    async def test_calls(self) -> None:
        """Without a password, what comes of each call comes of it without the tunnel."""
        await self.calls("bmemcached_calls")


class BMemcachedLoginTests(TwinTestCase):
    async def start_cluster(self) -> None:
        self.needs("bmemcached")
        await super().start_cluster()

    async def test_login(self) -> None:
        """With user name and password too, for an app whose settings were not changed."""
        await self.calls("bmemcached_calls", right)

    async def test_wrong_login(self) -> None:
        """With a wrong password it fails as it does without the tunnel."""
        found = await self.same("bmemcached_tries", wrong)
        self.assertEqual(set(found.values()), {"MemcachedException"})


class RelayBMemcachedTests(BMemcachedTests):
    mode = "relay"
    sasl = False


class RelayBMemcachedLoginTests(BMemcachedLoginTests):
    mode = "relay"


class MemccapableTests(TunnelTestCase):
    async def test_memccapable(self) -> None:
        """libmemcached's own check of servers finds no fault in the tunnel."""
        tunnel = await self.tunnel()
        await assert_capable(self, *tunnel.addresses[0])


class RelayMemccapableTests(MemccapableTests):
    mode = "relay"
    sasl = False
