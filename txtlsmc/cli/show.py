"""What `tlsmc demo` prints: what was done, what came of it, and whether that is as it should be."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TextIO

from txtlsmc.errors import MemcacheError

_GREEN, _RED, _BOLD, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[0m"


@dataclass
class Show:
    """
    Lines for people.

    Attributes:
        out: where to.
        colours: whether to use them.
        surprises: how many things did not come out as said.
    """

    out: TextIO
    colours: bool
    surprises: int = 0

    def _painted(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self.colours else text

    def title(self, text: str) -> None:
        """Say what comes next."""
        print(f"\n{self._painted(_BOLD, text)}", file=self.out, flush=True)

    def result(self, what: str, got: object, as_said: bool) -> None:
        """Tell what came out, and whether it is what it should be."""
        self.surprises += not as_said
        mark = self._painted(_GREEN, "ok") if as_said else self._painted(_RED, "UNEXPECTED")
        print(f"  {mark:2}  {what:<42} {got}", file=self.out, flush=True)

    async def expect(self, what: str, done: Awaitable[object], expected: object) -> None:
        """Wait for *done*, which should come to *expected*."""
        try:
            got = await done
        except MemcacheError as error:
            self.result(what, f"{type(error).__name__}: {error}", False)
        else:
            self.result(what, repr(got), got == expected)

    async def refuse(
        self, what: str, done: Awaitable[object], expected: type[MemcacheError]
    ) -> None:
        """Wait for *done*, which should fail with *expected*."""
        try:
            await done
        except MemcacheError as error:
            self.result(what, type(error).__name__, isinstance(error, expected))
            print(f"      {error}", file=self.out, flush=True)
        else:
            self.result(what, "was accepted", False)
