"""A tunnel under test, as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Final, Protocol

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.faults.certificates import HOST
from tests.faults.verdicts import until
from txtlsmc.testing.authority import Authority

Address = tuple[str, int]

_LOOPBACK: Final = "127.0.0.1"
_START_SECONDS: Final = 60.0
#: In `/proc/net/tcp`.
_LISTENS: Final = "0A"

#: The repository, where the product is found when nothing else is said.
ROOT: Final = Path(__file__).parents[2]
#: The real tunnel; the options of `TunnelProcess` come behind.
PRODUCT: Final = (
    *("-c", "from twisted.scripts.twistd import run; run()"),
    *("--nodaemon", "--pidfile=", "--reactor=default", "tlsmc-tunnel"),
)


def missing(mode: str) -> str | None:
    """Return why the tunnel can not be started in *mode*, or None when it can."""
    if (ROOT / f"txtlsmc/tunnel/{mode}.py").exists():
        return None
    return f"the tunnel has no mode {mode} yet"


class TunnelFailed(RuntimeError):
    """The process did not come to listen; the text holds what it said."""


class TunnelUnderTest(Protocol):
    """What the battery needs of a tunnel, whatever it is."""

    async def start(self, servers: Sequence[Address]) -> list[Address]:
        """Start it for *servers*, and return where it listens for each."""

    async def stop(self) -> None:
        """End it, and leave nothing behind."""


class _Child(ProcessProtocol):
    def __init__(self) -> None:
        self.written = bytearray()
        self.ended: Deferred[None] = Deferred()
        self.reason = ""

    def childDataReceived(self, child_fd: int, data: bytes) -> None:
        """Keep both outputs, in the order in which they came."""
        self.written += data

    def processEnded(self, reason: Failure) -> None:
        """Note how it ended."""
        self.reason = reason.getErrorMessage()
        self.ended.callback(None)


class TunnelProcess:
    """
    A tunnel in a process of its own, on free loopback ports that stay reserved.

    Attributes:
        pid: of the process; 0 before it was started.
    """

    def __init__(
        self,
        authority: Authority,
        *options: str,
        mode: str = "gateway",
        program: Sequence[str] = PRODUCT,
        path: Path = ROOT,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            authority: the one that it is to trust.
            options: more of its own, behind ours.
            mode: ``gateway`` or ``relay``.
            program: what Python is to run; our options go behind.
            path: where Python finds the product.
            environ: variables to add to ours.
        """
        self._folder = Path(mkdtemp(prefix="txtlsmc-tunnel-"))
        self._ca = authority.write_to(self._folder)
        self._mode, self._options, self._program = mode, options, program
        # The folder that a process is started in comes first with `-c`: it is an empty one.
        self._environ = {**os.environ, "PYTHONPATH": str(path), **(environ or {})}
        self._child = _Child()
        self._reserved: list[socket.socket] = []
        self.pid = 0

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._child.ended.called

    def log(self) -> str:
        """Return all that it wrote so far."""
        return self._child.written.decode("utf-8", "backslashreplace")

    async def start(self, servers: Sequence[Address]) -> list[Address]:
        """
        Start it for *servers*, which it is to know as localhost.

        Returns:
            Where it listens, one for each server.

        Raises:
            TunnelFailed: it ended, or did not listen in time; nothing is left of it.
        """
        addresses = [self._reserve() for _ in servers]
        words = [sys.executable, *self._program]
        for address, server in zip(addresses, servers, strict=True):
            words += ["--listen", f"{_LOOPBACK}:{address[1]}", "--server", f"{HOST}:{server[1]}"]
        words += ["--ca", str(self._ca), "--mode", self._mode, *self._options]
        process = reactor.spawnProcess(
            self._child, words[0], words, env=self._environ, path=str(self._folder)
        )
        assert process.pid is not None
        self.pid = process.pid
        up = await until(lambda: self.ended or self._listens(addresses), _START_SECONDS)
        if self.ended or not up:
            await self.stop()
            raise TunnelFailed(f"the tunnel does not listen. {self._child.reason} {self.log()}")
        return addresses

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.pid and not self.ended:
            os.kill(self.pid, number)

    async def wait(self) -> None:
        """Wait until the process has ended."""
        await until(lambda: self.ended, _START_SECONDS)

    async def stop(self) -> None:
        """Kill it, if it has not ended, and leave nothing behind; again, it changes nothing."""
        if self.pid:
            with suppress(ProcessExitedAlready, ProcessLookupError):
                self.signal(signal.SIGKILL)
            await self.wait()
        for each in self._reserved:
            each.close()
        rmtree(self._folder, ignore_errors=True)

    def _reserve(self) -> Address:
        reserved = socket.socket()
        self._reserved.append(reserved)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((_LOOPBACK, 0))
        address: Address = reserved.getsockname()
        return address

    def _listens(self, addresses: Sequence[Address]) -> bool:
        """Whether all ports are open; to dial would be a connection that the tunnel counts."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        open_ports = {int(row[1].split(":")[1], 16) for row in rows if row[3] == _LISTENS}
        return open_ports.issuperset(port for _, port in addresses)
