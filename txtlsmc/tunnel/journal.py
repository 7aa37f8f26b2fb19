"""
The tunnel's log: one line for each event that matters, through Twisted's log.

Each event has a name that stays the same, in the field ``event``, and what it is about in fields
beside it; written for people they are a sentence, as JSON they are an object.  What a local client
could cause as often as it likes is told at most once a minute, with the number of times.  No line
is written for a request; keys, values and secrets are in none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Final

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txtlsmc.errors import ConnectFailed, ConnectionClosed, MemcacheError, shown
from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.servers import Server

_EVERY: Final = 60.0
#: Of a server that fails ever differently; what comes after that is not told until it is back.
_MOST_CAUSES: Final = 16

_HINTS: Final = {
    "TLS hello": "it speaks TLS, and this listener does not: take TLS off in the client, which"
    " reaches the server over TLS all the same",
    "HTTP": "it speaks HTTP",
    "text": "it speaks memcached's text protocol: set the client to the binary one",
    "response": "it sends responses, as a server would",
}


def _bare(error: BaseException | Failure | str) -> BaseException | str:
    return error.value or "" if isinstance(error, Failure) else error


def cause(error: BaseException | Failure | str) -> str:
    """Return *error* in words that can be shown."""
    error = _bare(error)
    if isinstance(error, (ConnectFailed, ConnectionClosed)):
        # Without the server's name, which is told beside it, and what may have become of a request.
        return error.reason
    if isinstance(error, MemcacheError):
        return str(error)  # made fit to be read where it was made
    if isinstance(error, BaseException):
        words = str(error).rstrip(".")
        return shown(f"{type(error).__name__}: {words}" if words else type(error).__name__)
    return shown(error)


class Journal:
    """
    Writes the lines.

    Servers may tell of every connection as it becomes ready or is lost: only what is news is told.
    """

    def __init__(
        self, log_format: str = "text", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            log_format: ``"text"`` or ``"json"``.
            monotonic: seconds on a clock that never jumps.
        """
        # Not of the class, whose name Twisted would put in the place of the namespace.
        self._log = Logger(namespace="txtlsmc.tunnel")
        self._as_json, self._monotonic = log_format == "json", monotonic
        self._causes: dict[str, set[str]] = {}  # of servers that are not there, since when they are
        self._seen: set[str] = set()  # servers that were ready once
        self._told: dict[str, tuple[float, int]] = {}  # when, and how often it happened since

    # Servers

    def ready(self, server: Server | str) -> None:
        """Tell that a server can be used, unless that is known."""
        name = str(server)
        if name in self._seen and name not in self._causes:
            return
        if name in self._seen:
            self.back(server)
        else:
            self._seen.add(name)
            self._causes.pop(name, None)
            self._write("ready", LogLevel.info, "{server} is ready", server=name)

    def lost(self, server: Server | str, error: BaseException | Failure | str) -> None:
        """Tell why a server can not be used; each cause once until it is back."""
        name, why = str(server), cause(error)
        causes = self._causes.setdefault(name, set())
        if why in causes or len(causes) >= _MOST_CAUSES:
            return
        causes.add(why)
        bare = _bare(error)
        kind = "" if isinstance(bare, str) else type(bare).__name__
        self._write(
            "lost", LogLevel.warn, "{server} is down: {cause}", server=name, cause=why, error=kind
        )

    def back(self, server: Server | str) -> None:
        """Tell that a server can be used again."""
        name = str(server)
        self._seen.add(name)
        self._causes.pop(name, None)
        self._write("back", LogLevel.info, "{server} is back", server=name)

    def expires(self, server: Server | str, facts: CertificateFacts, days: int) -> None:
        """Tell that the certificate of a server, or of the listeners, expires in *days* days."""
        words = "has expired" if days < 0 else f"expires in {days} day{'' if days == 1 else 's'}"
        self._write(
            "expires",
            LogLevel.error if days <= 1 else LogLevel.warn,
            f"the certificate of {{server}} {words}: {{subject}}, valid until {{not_after}}",
            server=str(server),
            days=days,
            subject=facts.subject,
            not_after=facts.not_after.isoformat().replace("+00:00", "Z"),
        )

    # Local connections

    def limit(self, name: str, limit: float) -> None:
        """Tell that the limit *name*, which is set to *limit*, was reached."""
        self._seldom(
            "limit",
            name,
            "limit reached: {limit} of {value}",
            limit=name,
            value=limit,
        )

    def local_hint(self, kind: str) -> None:
        """Tell what a local client speaks that was closed for it: ``"TLS hello"``, ``"HTTP"``."""
        self._seldom(
            "local_hint",
            kind,
            "a local client was closed: {hint}",
            kind=shown(kind),
            hint=_HINTS.get(kind, shown(kind)),
        )

    def login_refused(self, server: Server | str) -> None:
        """Tell that a local client's user name or password is not the configured one."""
        self._seldom(
            "login_refused",
            str(server),
            "a local client of {server} gave another user name or password than the configured one",
            server=str(server),
        )

    # The tunnel itself

    def listening(self, server: Server | str, where: str) -> None:
        """Tell where a server is reached now."""
        self._write(
            "listening",
            LogLevel.info,
            "listening on {where} for {server}",
            server=str(server),
            where=where,
        )

    def not_started(self, error: BaseException | str) -> None:
        """Tell why the tunnel ends before it has begun."""
        self._write("not_started", LogLevel.error, "not started: {cause}", cause=cause(error))

    def exposed(self, where: str) -> None:
        """Tell that other machines reach a listener that asks nobody who they are."""
        self._write(
            "exposed",
            LogLevel.warn,
            "{where} can be reached from other machines, and asks nobody who they are: whoever"
            " reaches it has the rights of our credentials",
            where=where,
        )

    def draining(self, connections: int, seconds: float) -> None:
        """Tell that the tunnel ends, and what it waits for."""
        self._write(
            "draining",
            LogLevel.info,
            "ending: {connections} local connections have {seconds} s for their answers",
            connections=connections,
            seconds=seconds,
        )

    def stopped(self, *, in_time: bool = True) -> None:
        """Tell that all is closed, or that something did not close in time."""
        self._write(
            "stopped",
            LogLevel.info if in_time else LogLevel.warn,
            "ended: {how}",
            how="all connections are closed" if in_time else "some connections were still busy",
        )

    def reloaded(self, changes: Mapping[str, int]) -> None:
        """Tell that the settings were read anew, and how many of what changed."""
        said = ", ".join(f"{what}: {number}" for what, number in changes.items() if number)
        self._write(
            "reloaded",
            LogLevel.info,
            "settings, credentials and certificates read anew: {changes}",
            changes=said or "the same servers and listeners",
        )

    def not_reloaded(self, error: BaseException | str) -> None:
        """Tell that the new settings can not be used."""
        self._write(
            "not_reloaded",
            LogLevel.error,
            "settings not changed, the old ones stay: {cause}",
            cause=cause(error),
        )

    def needs_restart(self, names: str) -> None:
        """Tell which of the new settings are not in use before the tunnel is started anew."""
        self._write(
            "needs_restart",
            LogLevel.warn,
            "changed, and in use only after a restart: {settings}",
            settings=names,
        )

    def _seldom(self, event: str, what: str, words: str, **fields: object) -> None:
        key, now = f"{event} {what}", self._monotonic()
        since, times = self._told.get(key, (None, 0))
        if since is not None and now - since < _EVERY:
            self._told[key] = since, times + 1
            return
        self._told[key] = now, 0
        if times:
            words += " ({times} times since the last such line)"
        self._write(event, LogLevel.warn, words, times=times + 1, **fields)

    def _write(self, event: str, level: LogLevel, words: str, **fields: object) -> None:
        if self._as_json:
            said = {"event": event, "level": level.name, **fields, "text": words.format(**fields)}
            # As a field, for a brace in the text would be read as one.
            words, fields = "{json}", {**fields, "json": json.dumps(said, ensure_ascii=False)}
        self._log.emit(level, words, event=event, **fields)
