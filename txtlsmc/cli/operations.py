"""``tlsmc get``, ``set``, ``delete``, ``stats`` and ``flush``: the client from the shell."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python import usage

from txtlsmc.cli.asking import Asking, outcomes_of
from txtlsmc.cli.command import whole_number
from txtlsmc.cli.printing import (
    complain,
    key_text,
    print_json,
    said_by,
    value_bytes,
    value_fields,
    value_line,
)
from txtlsmc.client import MemcacheClient
from txtlsmc.errors import KeyNotFound, MemcacheError, PartialResult
from txtlsmc.settings import ClientSettings

_MISSING: Final = object()
_NOT_FOUND: Final = 1
_LONGEST_EXPTIME: Final = 2**31 - 1
Outcomes = Sequence[tuple[bytes, Any]]
#: By server, what those that could do it answered, and what was wrong with the others.
Told = tuple[dict[str, Any], PartialResult | None]


class _OnKeys(Asking):
    """A command that takes keys, and does the same to each."""

    def parseArgs(self, *keys: str) -> None:
        """Take the keys."""
        if not keys:
            raise usage.UsageError("which KEY?")
        self["keys"] = self.read_keys(keys)

    async def ask_each(self, ask: Callable[[bytes], Deferred[Any]]) -> Outcomes:
        """Do it to each key, but once only."""
        return await outcomes_of(list(dict.fromkeys(self["keys"])), ask)

    def code_of(self, outcomes: Outcomes, missing: object) -> int:
        """Complain of each error and, unless that is in the JSON, of each *missing* item."""
        for key, outcome in outcomes:
            if isinstance(outcome, MemcacheError):
                complain(f"{key_text(key)}: {said_by(outcome)}")
            elif outcome is missing and not self["json"]:
                complain(f"{key_text(key)}: not found")
        errors = [outcome for _, outcome in outcomes if isinstance(outcome, MemcacheError)]
        if errors:
            return errors[0].exit_code
        return _NOT_FOUND if any(outcome is missing for _, outcome in outcomes) else 0


class GetOptions(_OnKeys):
    """Fetch values."""

    synopsis = "tlsmc get [options] KEY…"
    longdesc = (
        "Prints the value of one KEY as it is; of several, a line KEY<tab>VALUE for each, in which"
        " control characters and what is not UTF-8 are escaped. Exits with 1 if one is not found."
    )

    async def ask(self, client: MemcacheClient) -> Outcomes:
        """Fetch them."""
        return await self.ask_each(lambda key: client.get(key, _MISSING))

    def tell(self, outcome: Outcomes) -> int:
        """Print what was found."""
        found = [
            (key, value)
            for key, value in outcome
            if value is not _MISSING and not isinstance(value, MemcacheError)
        ]
        if self["json"]:
            print_json([_got(key, value) for key, value in outcome])
        elif len(outcome) > 1:
            for key, value in found:
                print(f"{key_text(key)}\t{value_line(value)}")
        elif found:
            value = value_bytes(found[0][1])
            if sys.stdout.isatty() and not value.endswith(b"\n"):
                value += b"\n"  # for a person; in a pipe it is what was stored
            sys.stdout.buffer.write(value)
            sys.stdout.buffer.flush()
        return self.code_of(outcome, _MISSING)


def _got(key: bytes, value: object) -> dict[str, Any]:
    if isinstance(value, MemcacheError):
        return {"key": key_text(key), "error": said_by(value)}
    if value is _MISSING:
        return {"key": key_text(key), "found": False}
    return {"key": key_text(key), "found": True, **value_fields(value)}


class DeleteOptions(_OnKeys):
    """Remove items."""

    synopsis = "tlsmc delete [options] KEY…"
    longdesc = "Prints nothing if all is well. Exits with 1 if one of them is not found."

    async def ask(self, client: MemcacheClient) -> Outcomes:
        """Remove them."""
        return await self.ask_each(client.delete)

    def tell(self, outcome: Outcomes) -> int:
        """Tell which were there."""
        if self["json"]:
            print_json(
                [
                    {"key": key_text(key), "error": said_by(done)}
                    if isinstance(done, MemcacheError)
                    else {"key": key_text(key), "deleted": done}
                    for key, done in outcome
                ]
            )
        return self.code_of(outcome, False)


def _as_type(kind: str, data: bytes) -> object:
    """
    Return the value of a type that *data* is.

    Raises:
        usage.UsageError: it is none; the value is not shown.
    """
    if kind == "bytes":
        return data
    if kind == "int" and re.fullmatch(b"-?[0-9]{1,20}", data.strip()):
        return int(data)
    if kind == "bool" and data.strip() in (b"true", b"false"):
        return data.strip() == b"true"
    if kind == "str":
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    raise usage.UsageError(f"the value is not {_TYPES[kind]}")


_TYPES: Final = {
    "str": "text in UTF-8: say --type bytes",
    "bytes": "bytes",
    "int": "a decimal number of at most 20 digits",
    "bool": "true or false",
}


class SetOptions(Asking):
    """Store a value."""

    synopsis = "tlsmc set [options] KEY VALUE"
    longdesc = (
        "Stores VALUE as text; where it is '-', what is read from the standard input, as bytes."
        " Prints nothing if all is well."
    )
    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        ["exptime", None, "0", "SECONDS until it expires; 0 is never"],
        ["type", None, None, f"TYPE to store it as: {', '.join(_TYPES)}"],
    ]

    def parseArgs(self, *words: str) -> None:
        """Take the key and the value."""
        if len(words) != 2:
            raise usage.UsageError(
                f"one KEY and one VALUE are wanted, not {len(words)} words; put a value with blanks"
                " between quotes"
            )
        (self["key"],) = self.read_keys(words[:1])
        self["value"] = words[1]

    def postOptions(self) -> None:
        """Check the options."""
        self["exptime"] = whole_number("exptime", self["exptime"], 0, _LONGEST_EXPTIME)
        if self["type"] not in (None, *_TYPES):
            raise usage.UsageError(f"--type is one of {', '.join(_TYPES)}, not {self['type']!r}")

    def prepare(self, settings: ClientSettings) -> None:
        """Make the value what it is to be stored as."""
        piped = self["value"] == "-"
        usual = "bytes" if piped or settings.codec == "raw" else "str"
        data = sys.stdin.buffer.read() if piped else os.fsencode(self["value"])
        self["value"] = _as_type(self["type"] or usual, data)

    async def ask(self, client: MemcacheClient) -> bool:
        """Store it."""
        return await client.set(self["key"], self["value"], exptime=self["exptime"])

    def tell(self, outcome: bool) -> int:
        """Tell that it is done."""
        if self["json"]:
            print_json({"key": key_text(self["key"]), "stored": outcome})
        return 0


class StatsOptions(Asking):
    """Ask every server for its numbers."""

    synopsis = "tlsmc stats [options] [ARGUMENT]"
    longdesc = (
        "Prints SERVER<tab>NAME<tab>VALUE for each number of each server."
        " ARGUMENT is a group of them: items, slabs, settings, …"
    )

    def parseArgs(self, *words: str) -> None:
        """Take the group."""
        if len(words) > 1:
            raise usage.UsageError(f"one ARGUMENT at most, not {len(words)} words")
        self["argument"] = words[0] if words else None

    async def ask(self, client: MemcacheClient) -> Told:
        """Ask for them."""
        return await _told(client.stats(self["argument"]))

    def tell(self, outcome: Told) -> int:
        """Print them."""
        told, error = outcome
        if self["json"]:
            print_json(told)
        else:
            for server, numbers in told.items():
                for name, value in numbers.items():
                    print(f"{server}\t{value_line(name)}\t{value_line(value)}")
        if error is not None and all(isinstance(e, KeyNotFound) for e in error.errors.values()):
            # What the error says of keys is not what this status means here.
            complain(f"{', '.join(error.errors)}: no statistics {self['argument']!r}")
            return error.exit_code
        return _code_of_servers(error)


class FlushOptions(Asking):
    """Empty the cache."""

    synopsis = "tlsmc flush [options]"
    longdesc = (
        "Forgets every item, on all servers and for all who use them, whatever their namespace."
        " Asks first on a terminal; elsewhere it wants --yes."
    )
    optFlags = [  # noqa: RUF012 - the interface of usage.Options
        ["yes", None, "Do not ask."],
    ]

    def prepare(self, settings: ClientSettings) -> None:
        """Ask whether it is meant."""
        if self["yes"]:
            return
        if not sys.stdin.isatty():
            raise usage.UsageError("this empties the cache for everybody: say --yes if you mean it")
        names = ", ".join(server.name for server in settings.servers)
        print(f"Empty {names} for everybody? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            complain("nothing was done")
            sys.exit(1)

    async def ask(self, client: MemcacheClient) -> Told:
        """Do it."""
        names = [health.server.name for health in client.nodes()]
        done = client.flush_all().addCallback(lambda _: dict.fromkeys(names, True))
        return await _told(done)

    def tell(self, outcome: Told) -> int:
        """Tell which servers did it."""
        told, error = outcome
        if self["json"]:
            print_json({"flushed": list(told)})
        return _code_of_servers(error)


async def _told(done: Deferred[dict[str, Any]]) -> Told:
    try:
        return await done, None
    except PartialResult as error:
        return error.found if isinstance(error.found, dict) else {}, error


def _code_of_servers(error: PartialResult | None) -> int:
    """Complain of each server that could not do it."""
    if error is None:
        return 0
    for name, cause in error.errors.items():
        said = said_by(cause)
        complain(said if name in said else f"{name}: {said}")
    return error.exit_code
