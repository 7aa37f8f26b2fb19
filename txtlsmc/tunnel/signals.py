"""SIGHUP, by which the tunnel is told to read its settings anew."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


class ReloadSignal:
    """SIGHUP, where there is one."""

    def __init__(self, reactor: Any, reload: Callable[[], None]) -> None:
        """
        Args:
            reactor: calls *reload*, in its own thread.
            reload: what is to be done at each signal.
        """
        self._reactor, self._reload = reactor, reload
        self._number: int | None = getattr(signal, "SIGHUP", None)
        self._before: Any = None

    def install(self) -> None:
        """Begin to listen to it."""
        if self._number is None or threading.current_thread() is not threading.main_thread():
            return  # signals are for the main thread
        self._before = signal.signal(self._number, self._received) or signal.SIG_DFL

    def _received(self, *_: object) -> None:
        # It comes between any two steps of the program, so it waits for the reactor's turn.
        self._reactor.callFromThread(self._reload)

    def restore(self) -> None:
        """Leave it to whom it belonged before."""
        if self._before is not None and self._number is not None:
            signal.signal(self._number, self._before)
            self._before = None
