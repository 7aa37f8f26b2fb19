"""The tunnel itself with one line changed: the battery finds each out, and for what it is."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from twisted.trial.unittest import SkipTest

from tests.faults.cases import FaultsTestCase, authority
from tests.faults.controls import Control
from tests.faults.tunnel import TunnelProcess, missing
from tests.faults.wrong_tunnels import PRODUCT


class TunnelControlTests(FaultsTestCase):
    """One test for each control, which are made below."""

    async def check(self, control: Control) -> None:
        reason = missing(control.mode)
        if reason is not None:
            raise SkipTest(reason)
        path = self.altered(control.patch)
        tunnel = TunnelProcess(authority(), mode=control.mode, path=path)
        battery = await self.assemble(tunnel)
        battery.answer_seconds, battery.recovery_seconds = 2, 3
        await control.scenario(battery)
        found = battery.verdicts.kinds
        self.assertIn(control.verdict, found, f"{battery.verdicts} {tunnel.log()}")
        self.assertEqual(found - control.besides, {control.verdict}, battery.verdicts)


def _test_of(control: Control) -> Callable[[TunnelControlTests], Awaitable[None]]:
    async def test(self: TunnelControlTests) -> None:
        await self.check(control)

    test.__doc__ = f"A {control.mode} that {control.name} is found out."
    return test


for _control in PRODUCT:
    _name = re.sub(r"\W+", "_", f"test_{_control.mode}_{_control.name}")
    setattr(TunnelControlTests, _name, _test_of(_control))
