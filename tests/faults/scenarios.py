"""What is done to a tunnel, and judged: each scenario is a coroutine over a `Battery`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError

from tests.faults import values
from tests.faults.certificates import GOOD
from tests.faults.load import Address, Load
from tests.faults.local import Broken, LazyReader, Local
from tests.faults.proxied import How, Place
from tests.faults.proxy import FaultProxy
from tests.faults.verdicts import GROWN, NOT_RECOVERED, Resources, Verdicts, pause, resident_mib
from txtlsmc.wire import operations

_ROUNDS: Final = 60
#: Answers that nobody reads: 64 MiB of them.
_UNREAD, _UNREAD_VALUE = 128, 2**19


@dataclass
class Battery:
    """
    A tunnel with faults behind it.

    Attributes:
        proxy: behind the tunnel.
        local: where the tunnel listens.
        memcached: where the real server is, around everything.
        pid: the tunnel's process.
        connections: how many workers a load has.
        answer_seconds: within this a request is answered, or its connection ends.
        recovery_seconds: within this all are served again after the healing.
        verdicts: of all that was done.
    """

    proxy: FaultProxy
    local: Address
    memcached: Address
    pid: int
    connections: int = 4
    answer_seconds: float = 5
    recovery_seconds: float = 5
    verdicts: Verdicts = field(default_factory=Verdicts)
    _loads: int = 0

    def load(self, rounds: int = 100_000, large: int = 100_000) -> Load:
        """Return a load with keys of its own, whose findings are ours."""
        self._loads += 1
        return Load(
            [self.local],
            [self.memcached],
            self.verdicts,
            connections=self.connections,
            most_rounds=rounds,
            answer_seconds=self.answer_seconds,
            large=large,
            prefix=f"load{self._loads}",
        )


Scenario = Callable[[Battery], Awaitable[None]]


async def plain(battery: Battery) -> None:
    """A load, and no fault."""
    load = battery.load(_ROUNDS)
    await load.run(10)
    await load.judge()


async def small(battery: Battery) -> None:
    """The same with small values only: every answer is one piece."""
    load = battery.load(_ROUNDS, large=1000)
    await load.run(10)
    await load.judge()


async def resets(battery: Battery) -> None:
    """Connections are reset in the midst of a load, between answers and within them."""
    load = battery.load()
    load.start()
    try:
        await load.served(10)
        await battery.proxy.restart(0.05)
        if await load.recovered(battery.recovery_seconds):
            battery.proxy.cut(Place.HEADER, How.RESET, times=2)
            battery.proxy.cut(Place.BODY, How.CLOSE_NOTIFY, times=2, least=100)
            await load.served(10, battery.recovery_seconds)
            battery.proxy.heal()
            await load.recovered(battery.recovery_seconds)
    finally:
        await load.stop()
    await load.judge()


async def flapping(battery: Battery) -> None:
    """The server goes down and comes up again and again."""
    load = battery.load()
    load.start()
    try:
        await load.served(5)
        await battery.proxy.flap(5)
        await load.recovered(battery.recovery_seconds)
    finally:
        await load.stop()
    await load.judge()


async def churn(battery: Battery) -> None:
    """Many locals come, ask and go, in good order or by a reset, and nothing stays of them."""
    await _one(battery, orderly=True)
    await pause(0.1)
    before = Resources.of(battery.pid)
    for number in range(4):
        ones = [_one(battery, orderly=number % 2 == 0) for _ in range(10)]
        await gatherResults([Deferred.fromCoroutine(one) for one in ones])
    await battery.verdicts.judge_resources(battery.pid, before, seconds=3)


async def bad_certificate(battery: Battery, name: str = "other authority") -> None:
    """The server shows a certificate that must be refused, and the right one again."""
    battery.proxy.show(name)
    battery.proxy.reset_all()
    load = battery.load()
    load.start()
    try:
        await pause(0.5)
        battery.verdicts.unverified(battery.proxy.seen)
        battery.proxy.show(GOOD)
        await load.recovered(battery.recovery_seconds)
    finally:
        await load.stop()


async def unread(battery: Battery) -> None:
    """One local asks for 64 MiB and reads nothing, while others are served."""
    key = "unread"
    direct = await Local.dial(battery.memcached, battery.verdicts)
    value = values.make(key.encode(), 1, _UNREAD_VALUE)
    await direct.ask([operations.set(key, value).request])
    await direct.close()
    before = resident_mib(battery.pid)
    lazy = await LazyReader.dial(battery.local, operations.get(key).request.encode() * _UNREAD)
    load = battery.load()
    load.start()
    try:
        await load.served(20)
        await load.recovered(battery.recovery_seconds)
        await pause(0.3)
        after = resident_mib(battery.pid)
    finally:
        await load.stop()
        await lazy.close()
    if after - before > 16:
        battery.verdicts.add(GROWN, f"{after - before:.0f} MiB for a local that does not read")


async def _one(battery: Battery, *, orderly: bool) -> None:
    """Ask once over a connection of its own; whoever is not served says so."""
    try:
        local = await Local.dial(battery.local, battery.verdicts, battery.answer_seconds)
    except ConnectError as error:
        battery.verdicts.add(NOT_RECOVERED, f"a local was refused: {error}")
        return
    try:
        await local.ask([operations.noop().request])
    except Broken as error:
        battery.verdicts.add(NOT_RECOVERED, f"a local was closed: {error}")
    finally:
        await local.close(orderly=orderly)
