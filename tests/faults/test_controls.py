"""Tests of `tests.faults.controls`, on the example tunnel: right, and wrong in each way."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.cases import FaultsTestCase, example
from tests.faults.controls import NoSuchLine, Patch, changed
from tests.faults.tunnel import TunnelFailed
from tests.faults.wrong_tunnels import EXAMPLES

_SOURCE = "def f():\n    a = 1\n    b = 2\n    b = 2\n"


class PatchTests(SynchronousTestCase):
    def test_changed(self) -> None:
        """The one line is another, at its own indentation; the rest is as it was."""
        self.assertEqual(
            changed(_SOURCE, Patch("f.py", "a = 1", "a = 3")),
            "def f():\n    a = 3\n    b = 2\n    b = 2\n",
        )

    def test_not_once(self) -> None:
        """A line that is not there, only a part of one, or there twice is refused in words."""
        for line, said in (("c = 3", "0 times"), ("a =", "0 times"), ("b = 2", r"2 .*3, 4")):
            with self.assertRaisesRegex(NoSuchLine, f"one line of f.py.*{said}"):
                changed(_SOURCE, Patch("f.py", line, "pass"))


class ExampleTests(FaultsTestCase):
    async def test_right(self) -> None:
        """The example as it is gives no finding in any scenario."""
        battery = await self.assemble(example())
        for scenario in dict.fromkeys(control.scenario for control in EXAMPLES):
            await scenario(battery)
            self.assertEqual(battery.verdicts.kinds, set(), f"{scenario}: {battery.verdicts}")

    async def test_altered(self) -> None:
        """It is the altered copy that runs, and what it writes is kept."""
        patch = Patch(
            "tests/faults/example_tunnel.py",
            "said = parser.parse_args()",
            "raise SystemExit('altered')",
        )
        with self.assertRaisesRegex(TunnelFailed, "altered"):
            await self.assemble(example(path=self.altered(patch)))


class ControlTests(FaultsTestCase):
    async def check(self, name: str) -> None:
        (control,) = (each for each in EXAMPLES if each.name == name)
        battery = await self.assemble(example(path=self.altered(control.patch)))
        battery.answer_seconds, battery.recovery_seconds = 2, 3
        await control.scenario(battery)
        found = battery.verdicts.kinds
        self.assertIn(control.verdict, found, f"{name}: {battery.verdicts}")
        self.assertEqual(found - control.besides, {control.verdict}, f"{name}: {battery.verdicts}")

    async def test_crosses_answers(self) -> None:
        """Answers that go to another local are found."""
        await self.check("crosses two answers")

    async def test_flips_byte(self) -> None:
        """A flipped byte is found."""
        await self.check("flips a byte")

    async def test_drops_write(self) -> None:
        """A write that is acknowledged and not stored is found."""
        await self.check("drops a write")

    async def test_never_closes_local_side(self) -> None:
        """A local that is left without an answer and without an end is found."""
        await self.check("never closes the local side")

    async def test_never_closes_upstream_side(self) -> None:
        """Upstream connections that stay are found."""
        await self.check("never closes the upstream side")

    async def test_skips_verification(self) -> None:
        """What is sent to an untrusted server is found."""
        await self.check("skips verification")

    async def test_buffers_without_bound(self) -> None:
        """Answers that pile up in memory are found."""
        await self.check("buffers without bound")

    async def test_dies(self) -> None:
        """A tunnel that ends is found."""
        await self.check("dies")
