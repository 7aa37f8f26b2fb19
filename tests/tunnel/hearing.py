"""What the tunnel says in the log while a test runs."""

from __future__ import annotations

from typing import Any

from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer


@implementer(ILogObserver)
class Heard:
    """
    Hears the tunnel's events, and nothing else.

    Attributes:
        events: so far, in their order.
    """

    def __init__(self, test: SynchronousTestCase) -> None:
        """Listen until *test* is over."""
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self)
        test.addCleanup(globalLogPublisher.removeObserver, self)

    def __call__(self, event: LogEvent) -> None:
        """Hear one."""
        if event.get("log_namespace") == "txtlsmc.tunnel":
            self.events.append(event)

    @property
    def names(self) -> list[str]:
        """The names of the events so far."""
        return [event["event"] for event in self.events]

    @property
    def lines(self) -> list[str]:
        """The events so far, as a person reads them."""
        return [
            eventAsText(event, includeTimestamp=False, includeSystem=False) for event in self.events
        ]
