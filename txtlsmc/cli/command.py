"""What all commands of ``tlsmc`` have in common."""

from __future__ import annotations

import sys
from typing import ClassVar, NoReturn

from twisted.python import usage

from txtlsmc import __version__


class Command(usage.Options):
    """
    The options of one command, or of ``tlsmc`` itself.

    Attributes:
        synopsis: how it is called, from the first word on.
    """

    synopsis: ClassVar[str]

    def getSynopsis(self) -> str:
        """Return the whole line: twisted would put that of ``tlsmc`` before it."""
        return f"Usage: {self.synopsis}"

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        print(f"tlsmc {__version__}")
        sys.exit(0)

    def run(self) -> int:
        """Do it; return the exit code."""
        raise NotImplementedError


def whole_number(option: str, text: str, least: int, most: int) -> int:
    """
    Return the number that *text* is.

    Raises:
        usage.UsageError: it is none from *least* to *most*.
    """
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise usage.UsageError(f"--{option} wants a number from {least} to {most}, not {text!r}")
    return int(text)
