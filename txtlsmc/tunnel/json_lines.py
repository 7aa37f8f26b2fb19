"""Twisted's whole log as one JSON object a line, for what collects the output of a process."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TextIO

from twisted.logger import ILogObserver, LogEvent, eventAsText
from zope.interface import implementer


@implementer(ILogObserver)
class JSONLines:
    """Writes each event as a line: the tunnel's own with their fields, all others as text."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: LogEvent) -> None:
        """Write one event."""
        time = datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds")
        if "json" in event and event.get("log_namespace") == "txtlsmc.tunnel":
            said = json.loads(event["json"])
        else:
            level = getattr(event.get("log_level"), "name", "info")
            said = {
                "event": "log",
                "level": level,
                "text": eventAsText(event, includeTimestamp=False, includeSystem=False),
            }
        line = json.dumps({"time": time, **said}, ensure_ascii=False)
        self._out.write(f"{line}\n")
        self._out.flush()


def observer() -> JSONLines:
    """Return what twistd's ``--logger`` asks for: lines on the standard output."""
    return JSONLines(sys.stdout)
