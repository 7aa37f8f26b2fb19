"""Faults between the tunnel and its server: what local clients see, and what the log says."""

from __future__ import annotations

import re
import signal
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest
from zope.interface import implementer

from tests.faults import scenarios, values
from tests.faults.cases import FaultsTestCase, authority
from tests.faults.certificates import BAD, OLD_TLS
from tests.faults.local import Broken, Local
from tests.faults.proxied import How, Place
from tests.faults.proxy import FaultProxy
from tests.faults.scenarios import Battery
from tests.faults.tunnel import TunnelProcess, missing
from tests.faults.verdicts import UNANSWERED, Resources, Verdicts, pause, until
from tests.memcached import MemcachedOptions
from tests.secrecy import USER, leaks, password
from txtlsmc.wire import operations
from txtlsmc.wire.frames import HEADER_SIZE, Request, ResponseReader
from txtlsmc.wire.opcodes import Opcode, Status

GATEWAY, RELAY = "gateway", "relay"
KEY: Final = "key"
VALUE: Final = values.make(KEY.encode(), 1, 1000)
#: Within this a local client has its answer, or the end of its connection.
_PROMPT: Final = 4.0
#: The same where nothing is to come.
_NEVER: Final = 1.0
#: Within this after the healing; a second is promised, the rest is for a busy machine.
_AGAIN: Final = 3.0


class Sees(Enum):
    """What becomes of a request."""

    ANSWER = "an answer"
    END = "the end of its connection"
    NOTHING = "nothing"


class Row(NamedTuple):
    """
    A fault, and what it looks like.

    Attributes:
        fault: its name.
        mode: of the tunnel.
        inflict: tells the proxy.
        live: what a local client sees that was connected before, and asks now.
        new: what one sees that connects now.
        log: what the log says of it, as a regular expression; empty for nothing.
        options: of the tunnel.
    """

    fault: str
    mode: str
    inflict: Callable[[FaultProxy], Awaitable[None]]
    live: Sees
    new: Sees
    log: str = ""
    options: tuple[str, ...] = ()


async def restart_and_refuse(proxy: FaultProxy) -> None:
    await proxy.refuse()
    proxy.reset_all()


async def refuse_new(proxy: FaultProxy) -> None:
    await proxy.refuse()


async def never_speak(proxy: FaultProxy) -> None:
    proxy.accept_silently()
    proxy.reset_all()


async def fall_silent(proxy: FaultProxy) -> None:
    proxy.fall_silent()


async def trickle(proxy: FaultProxy) -> None:
    proxy.trickle()


def cut(place: Place, how: How) -> Callable[[FaultProxy], Awaitable[None]]:
    async def inflict(proxy: FaultProxy) -> None:
        proxy.cut(place, how, times=2, least=100)

    return inflict


_SOON: Final = ("--timeout", "1")
_IDLE: Final = ("--relay-idle-seconds", "1")
_REFUSED: Final = "is down: nobody listens on"
_NOT_READY: Final = "is down: not ready within 1 s: the TLS handshake is not finished"


def _rows() -> list[Row]:
    answer, end, nothing = Sees.ANSWER, Sees.END, Sees.NOTHING
    rows = [
        Row("restart, and refused", GATEWAY, restart_and_refuse, end, end, _REFUSED),
        Row("restart, and refused", RELAY, restart_and_refuse, end, end, _REFUSED),
        # The gateway's one connection lives, and serves new local ones too.
        Row("new ones are refused", GATEWAY, refuse_new, answer, answer),
        Row("new ones are refused", RELAY, refuse_new, answer, end, _REFUSED),
        Row("accepts and never speaks", GATEWAY, never_speak, end, end, _NOT_READY, _SOON),
        Row("accepts and never speaks", RELAY, never_speak, end, end, _NOT_READY, _SOON),
        Row("falls silent", GATEWAY, fall_silent, end, end, "silent for 1 s", _SOON),
        Row("falls silent", RELAY, fall_silent, nothing, nothing),
        Row("falls silent, and is given up", RELAY, fall_silent, end, end, "", _IDLE),
        Row("records of one byte", GATEWAY, trickle, answer, answer),
        Row("records of one byte", RELAY, trickle, answer, answer),
    ]
    for place in Place:
        stall, reset, closed = (cut(place, how) for how in (How.STALL, How.RESET, How.CLOSE_NOTIFY))
        inside = f"in the {place.value}"
        rows += [
            Row(f"stall {inside}", GATEWAY, stall, end, end, "silent for 1 s", _SOON),
            Row(f"stall {inside}", RELAY, stall, nothing, nothing),
            Row(f"reset {inside}", GATEWAY, reset, end, end, "lost .*inside an answer"),
            Row(f"reset {inside}", RELAY, reset, end, end, "cut a connection in use"),
            Row(f"close_notify {inside}", GATEWAY, closed, end, end, "closed .*inside an answer"),
            Row(f"close_notify {inside}", RELAY, closed, end, end),
        ]
    return rows


class TunnelTestCase(FaultsTestCase):
    """
    The tunnel itself, behind which is the proxy.

    Attributes:
        tunnel: the process.
        battery: all that is used of it.
        answer_seconds: within this a request is answered, or its connection ends.
    """

    answer_seconds = _PROMPT
    tunnel: TunnelProcess
    battery: Battery

    async def started(self, mode: str, *options: str, **environ: str) -> None:
        """Start a tunnel."""
        reason = missing(mode)
        if reason is not None:
            raise SkipTest(reason)
        settings = Path(self.mktemp()).absolute()
        settings.write_text("[limits]\nconnect_timeout = 1\n")
        options = ("--config", str(settings), *options)
        self.tunnel = TunnelProcess(authority(), *options, mode=mode, environ=environ)
        self.battery = await self.assemble(self.tunnel)

    async def local(self) -> Local:
        """Connect to the tunnel."""
        local = await Local.dial(self.battery.local, self.battery.verdicts, self.answer_seconds)
        self.addCleanup(local.close)
        return local

    async def sees(self, local: Local | None, request: Request | None = None) -> Sees:
        """Ask for the value, over a new connection if there is none."""
        before = len(self.battery.verdicts.findings[UNANSWERED])
        try:
            local = local or await self.local()
            local.answer_seconds = self.answer_seconds
            (answer,) = await local.ask([request or operations.get(KEY).request])
        except (Broken, ConnectError):
            unanswered = self.battery.verdicts.findings[UNANSWERED]
            nothing = len(unanswered) > before
            del unanswered[before:]
            return Sees.NOTHING if nothing else Sees.END
        assert answer is not None
        if request is None:
            self.assertEqual((answer.status, answer.value), (Status.OK, VALUE))
        return Sees.ANSWER

    async def assert_served_again(self, request: Request | None = None) -> None:
        """A new local connection is served soon, however often it has to try."""
        end = reactor.seconds() + _AGAIN
        while await self.sees(None, request) is not Sees.ANSWER:
            if reactor.seconds() > end:
                self.fail(f"not served {_AGAIN:g} s after the healing: {self.tunnel.log()}")
            await pause(0.02)

    async def assert_logged(self, pattern: str) -> None:
        """A line of the log says so; it may come a moment later than what a local sees."""
        said = await until(lambda: re.search(pattern, self.tunnel.log()) is not None, 5)
        self.assertTrue(said, f"no line has {pattern!r}: {self.tunnel.log()}")

    async def direct(self, *requests: Request) -> Any:
        """Ask the server itself."""
        local = await Local.dial(self.memcached.address, Verdicts())
        try:
            return await local.ask(requests)
        finally:
            await local.close()


class FaultTests(TunnelTestCase):
    """One test for each row of the table, which are made below."""

    async def check(self, row: Row) -> None:
        await self.direct(operations.set(KEY, VALUE).request)
        await self.started(row.mode, *row.options)
        live = await self.local()
        self.assertIs(await self.sees(live), Sees.ANSWER)
        await row.inflict(self.proxy)
        self.answer_seconds = _NEVER if Sees.NOTHING in (row.live, row.new) else _PROMPT
        self.assertIs(await self.sees(live), row.live, f"who was there: {self.tunnel.log()}")
        self.assertIs(await self.sees(None), row.new, f"who is new: {self.tunnel.log()}")
        self.proxy.heal()
        self.answer_seconds = _PROMPT
        await self.assert_served_again()
        await self.assert_logged(row.log)
        self.assertEqual(self.battery.verdicts.kinds, set(), self.battery.verdicts)


def _test_of(row: Row) -> Callable[[FaultTests], Awaitable[None]]:
    async def test(self: FaultTests) -> None:
        await self.check(row)

    test.__doc__ = (
        f"{row.fault}, {row.mode}: who was there sees {row.live.value}, who is new"
        f" {row.new.value}; then all are served again."
    )
    return test


for _row in _rows():
    _name = re.sub(r"\W+", "_", f"test_{_row.mode}_{_row.fault}")
    setattr(FaultTests, _name, _test_of(_row))


class CertificateTests(TunnelTestCase):
    """Of a server with a bad certificate nobody sees anything, least of all the password."""

    #: What the log says of each.
    said: Final = {
        "expired": "its certificate .* expired on",
        "not yet valid": "its certificate .* is not valid until",
        "wrong host": "is for other.example, and not for localhost",
        "self-signed": "nobody but itself vouches",
        "other authority": "neither trusted nor sent along",
        "common name only": "no name or address in a subjectAltName",
        "NUL in the name": "a name in its certificate is a trick",
        OLD_TLS: "speaks no version of TLS that we accept",
    }

    def memcached_options(self) -> MemcachedOptions:
        return {"sasl": {USER: password()}}

    async def refused(self, mode: str) -> None:
        login = Request(Opcode.SASL_AUTH, b"PLAIN", value=f"\0{USER}\0{password()}".encode())
        for name in BAD:
            self.proxy.show(name)
            environ = {}
            if mode == GATEWAY:
                environ = {"TXTLSMC_USERNAME": USER, "TXTLSMC_PASSWORD": password()}
            await self.started(mode, **environ)
            request = operations.noop().request if mode == GATEWAY else login
            self.assertIs(await self.sees(None, request), Sees.END, name)
            await self.assert_logged(self.said[name])
            self.proxy.heal()
            await self.assert_served_again(request)
            self.assertEqual(leaks(self.tunnel.log()), [])
            await self.tunnel.stop()
        shown = {one.certificate for one in self.proxy.seen}
        self.assertTrue(shown.issuperset(BAD), shown)
        self.assertEqual([one for one in self.proxy.seen if one.bad and one.received], [])

    async def test_gateway(self) -> None:
        """The gateway refuses each, sends nothing, says why, and goes on with a good one."""
        await self.refused(GATEWAY)

    async def test_relay(self) -> None:
        """So does a relay."""
        await self.refused(RELAY)


class LoadTests(TunnelTestCase):
    """A load over many local connections, in every scenario."""

    async def check(self, mode: str, *scenarios: scenarios.Scenario) -> None:
        await self.started(mode)
        before = Resources.of(self.battery.pid)
        for scenario in scenarios:
            await scenario(self.battery)
            self.assertEqual(self.battery.verdicts.kinds, set(), self.battery.verdicts)
        await self.battery.verdicts.judge_resources(self.battery.pid, before)
        self.assertEqual(self.battery.verdicts.kinds, set(), self.battery.verdicts)

    every: Final = (
        *(scenarios.plain, scenarios.resets, scenarios.flapping, scenarios.churn),
        *(scenarios.bad_certificate, scenarios.unread),
    )

    async def test_gateway(self) -> None:
        """The gateway gives no finding: nothing crossed, lost, leaked or grown."""
        await self.check(GATEWAY, *self.every)

    async def test_relay(self) -> None:
        """Neither does a relay."""
        await self.check(RELAY, *self.every)


@implementer(IHalfCloseableProtocol)
class _HalfCloser(Protocol):
    """Sends requests, says that it sends no more, and reads to the end."""

    transport: Any

    def __init__(self, requests: bytes) -> None:
        self._requests, self._reader = requests, ResponseReader(2**20)
        self.answers = 0
        self.ended: Deferred[int] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._requests)
        self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self.answers += len(self._reader.feed(data))

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(self.answers)


class _Raw(Protocol):
    """Sends bytes."""

    transport: Any

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class LocalFaultTests(TunnelTestCase):
    """What local clients do."""

    async def raw(self, make: Callable[[], Protocol]) -> Any:
        factory = Factory.forProtocol(make)
        factory.noisy = False
        return await TCP4ClientEndpoint(reactor, *self.battery.local).connect(factory)

    async def half_close(self, mode: str) -> None:
        await self.direct(operations.set(KEY, VALUE).request)
        await self.started(mode)
        requests = operations.get(KEY).request.encode() * 100
        closer = await self.raw(lambda: _HalfCloser(requests))
        self.assertEqual(await closer.ended, 100)

    async def test_half_close_gateway(self) -> None:
        """Who asks 100 times and says that it was all gets 100 answers from the gateway."""
        await self.half_close(GATEWAY)

    async def test_half_close_relay(self) -> None:
        """So it does from a relay."""
        await self.half_close(RELAY)

    async def resets(self, mode: str) -> None:
        await self.started(mode)
        load = self.battery.load()
        load.start()
        try:
            for number in range(50):
                raw = await self.raw(_Raw)
                request = operations.set(f"half-{number}", VALUE).request.encode()
                raw.transport.write(request[: HEADER_SIZE + 20 + number * 15])
                await load.served(1)
                raw.transport.abortConnection()
                await raw.lost
        finally:
            await load.stop()
        self.assertEqual((await load.judge()).kinds, set(), load.verdicts)
        self.assertEqual((load.broken, load.refused), (0, 0))
        answers = await self.direct(*(operations.get(f"half-{n}").request for n in range(50)))
        self.assertEqual({each.status for each in answers}, {Status.KEY_NOT_FOUND})

    async def test_resets_gateway(self) -> None:
        """Half a set is never stored, and nobody else notices who sent it: gateway."""
        await self.resets(GATEWAY)

    async def test_resets_relay(self) -> None:
        """Half a set is never stored, and nobody else notices who sent it: relay."""
        await self.resets(RELAY)

    async def test_idle(self) -> None:
        """300 idle local connections of the gateway cost little, and hold up nobody."""
        await self.direct(operations.set(KEY, VALUE).request)
        await self.started(GATEWAY)
        self.assertIs(await self.sees(None), Sees.ANSWER)
        before = Resources.of(self.battery.pid)
        idle = await gatherResults([Deferred.fromCoroutine(self.local()) for _ in range(300)])
        served = await gatherResults([Deferred.fromCoroutine(self.sees(one)) for one in idle])
        self.assertEqual(set(served), {Sees.ANSWER})
        after = Resources.of(self.battery.pid)
        self.assertLessEqual(after.descriptors - before.descriptors, 300)
        self.assertLessEqual((after.resident_mib - before.resident_mib) * 1024 / 300, 12)
        self.assertIs(await self.sees(None), Sees.ANSWER)

    async def end(self, mode: str) -> None:
        await self.direct(operations.set(KEY, VALUE).request)
        await self.started(mode)
        live = await self.local()
        self.assertIs(await self.sees(live), Sees.ANSWER)
        self.proxy.fall_silent()
        asking = Deferred.fromCoroutine(self.sees(live))
        asked = self.proxy.received
        self.assertTrue(await until(lambda: self.proxy.received > asked, 5))
        self.tunnel.signal(signal.SIGTERM)
        self.assertTrue(await until(lambda: "ending" in self.tunnel.log(), 5), self.tunnel.log())
        self.proxy.heal()
        self.assertIs(await asking, Sees.ANSWER)
        self.assertTrue(await until(lambda: self.tunnel.ended, 6), self.tunnel.log())

    async def test_end_gateway(self) -> None:
        """SIGTERM lets the gateway answer what is in flight, and ends it."""
        await self.end(GATEWAY)

    async def test_end_relay(self) -> None:
        """So it does with a relay."""
        await self.end(RELAY)
