"""A test case with a memcached, a proxy in front of it, and a tunnel in front of that."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint

from tests.faults.controls import Patch, copy_sources
from tests.faults.proxy import FaultProxy
from tests.faults.scenarios import Battery
from tests.faults.tunnel import ROOT, TunnelProcess
from tests.memcached import MemcachedOptions, MemcachedTestCase
from txtlsmc.testing.authority import Authority


@cache
def authority() -> Authority:
    return Authority()


def example(*, path: Path = ROOT) -> TunnelProcess:
    """Return the example tunnel."""
    program = (str(path / "tests/faults/example_tunnel.py"),)
    return TunnelProcess(authority(), mode="relay", program=program, path=path)


class FaultsTestCase(MemcachedTestCase):
    """
    Whatever the test starts is stopped when it is over.

    Attributes:
        proxy: in front of the memcached.
    """

    timeout = 120

    def memcached_options(self) -> MemcachedOptions:
        return {"arguments": ("-M", "-m", "256")}  # evicts nothing

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits, unittest does not
        async def start() -> None:
            await MemcachedTestCase.setUp(self)
            self.proxy = FaultProxy(
                authority(), TCP4ClientEndpoint(reactor, *self.memcached.address)
            )
            self.addCleanup(lambda: Deferred.fromCoroutine(self.proxy.stop()))
            self.proxy.start()

        return Deferred.fromCoroutine(start())

    def altered(self, patch: Patch) -> Path:
        """Return a folder with a copy of the sources, in which one line is another."""
        folder = TemporaryDirectory(prefix="txtlsmc-control-")
        self.addCleanup(folder.cleanup)
        copy_sources(Path(folder.name), patch)
        return Path(folder.name)

    async def assemble(self, tunnel: TunnelProcess) -> Battery:
        """Start *tunnel* in front of the proxy."""
        self.addCleanup(lambda: Deferred.fromCoroutine(tunnel.stop()))
        (local,) = await tunnel.start([self.proxy.address])
        return Battery(self.proxy, local, self.memcached.address, tunnel.pid)
