"""`tlsmc` as a process of its own, which the tests read, signal and wait for."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

_RUN = "from txtlsmc.cli import main; main()"


class Command(ProcessProtocol):
    """
    A running ``tlsmc``.

    Attributes:
        written: to its standard output so far.
        err: what it complained of so far.
        ended: fires with the exit code, or the negative number of the signal that ended it.
    """

    #: What the process runs, in Python.
    program: ClassVar[str] = _RUN

    def __init__(
        self,
        *words: str,
        environ: Mapping[str, str] | None = None,
        given: bytes = b"",
        terminal: bool = False,
        reads: bool = True,
        descriptors: Mapping[int, int] | None = None,
    ) -> None:
        """
        Args:
            words: behind ``tlsmc``.
            environ: variables to add to ours.
            given: what it reads from its standard input.
            terminal: whether that and what it prints to is a terminal.
            reads: whether we read what it prints; otherwise that pipe is closed.
            descriptors: of ours that it inherits, by the numbers they have there.
        """
        self.written, self.err = b"", ""
        self.ended: Deferred[int] = Deferred()
        self._awaited: list[tuple[str, Deferred[None]]] = []
        self._process = reactor.spawnProcess(
            self,
            sys.executable,
            [sys.executable, "-c", self.program, *words],
            env={**os.environ, **(environ or {})},
            usePTY=terminal,
            childFDs={0: "w", 1: "r", 2: "r", **descriptors} if descriptors else None,
        )
        self._process.write(given)
        if not terminal:
            self._process.closeStdin()
        if not reads:
            self._process.closeStdout()

    @property
    def out(self) -> str:
        """What it printed so far."""
        return self.written.decode("utf-8", "replace")

    def line(self, beginning: str) -> Deferred[None]:
        """Return a Deferred that fires when a line that begins so was printed."""
        done: Deferred[None] = Deferred()
        self._awaited.append((beginning, done))
        self._look()
        return done

    def value(self, beginning: str) -> str:
        """Return the rest of the line that begins so."""
        lines = (line for line in self.out.splitlines() if line.startswith(beginning))
        return next(lines).removeprefix(beginning)

    def _look(self) -> None:
        lines = self.out.split("\n")[:-1]  # whole ones
        for awaited in list(self._awaited):
            if any(line.startswith(awaited[0]) for line in lines):
                self._awaited.remove(awaited)
                awaited[1].callback(None)

    def signal(self, name: str) -> None:
        """Send it a signal: ``"TERM"``."""
        self._process.signalProcess(name)

    def kill(self) -> Deferred[int] | None:
        """End it, if it has not ended; for cleanups."""
        if self.ended.called:
            return None
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")
        return self.ended

    def outReceived(self, data: bytes) -> None:
        """Keep what it printed."""
        self.written += data
        self._look()

    def errReceived(self, data: bytes) -> None:
        """Keep what it complained of."""
        self.err += data.decode()

    def processEnded(self, reason: Failure) -> None:
        """Tell how it ended."""
        value = reason.value
        for _, done in self._awaited:
            done.errback(AssertionError(f"ended before it said that: {self.out}{self.err}"))
        signal = getattr(value, "signal", None)
        self.ended.callback(-signal if signal else getattr(value, "exitCode", 0) or 0)
