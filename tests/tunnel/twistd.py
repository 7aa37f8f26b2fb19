"""`twistd tlsmc-tunnel` as a process of its own, whose passages lead nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import txtlsmc
from tests.cli.processes import Command

_ROOT = str(Path(txtlsmc.__file__).parent.parent)


class Twistd(Command):
    """A running twistd; a line is awaited by anything that is in it."""

    program = (
        # Whom systemd has started knows itself by this number, which nobody knows beforehand.
        "import os; os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "from txtlsmc import tap\n"
        "tap._MODES = dict.fromkeys(tap._MODES, 'tests.tunnel.echoing.EchoPassage')\n"
        "from twisted.scripts.twistd import run\n"
        "run()"
    )

    def __init__(
        self,
        *words: str,
        options: Sequence[str] = ("-n", "--pidfile="),
        environ: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """
        Args:
            words: behind ``tlsmc-tunnel``.
            options: before it.
            environ: variables to add to ours, of which those that providers set are left out.
            more: see `Command`.
        """
        path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
        super().__init__(
            *(*options, "tlsmc-tunnel", *words),
            environ={"PYTHONPATH": path, **(environ or {})},
            **more,
        )

    def _look(self) -> None:
        lines = self.out.split("\n")[:-1]
        for awaited in list(self._awaited):
            if any(awaited[0] in line for line in lines):
                self._awaited.remove(awaited)
                awaited[1].callback(None)
