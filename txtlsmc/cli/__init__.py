"""The console script ``tlsmc``: its commands, each in a module of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from twisted.python import usage

from txtlsmc.cli.command import Command
from txtlsmc.cli.demo import DemoOptions
from txtlsmc.cli.operations import (
    DeleteOptions,
    FlushOptions,
    GetOptions,
    SetOptions,
    StatsOptions,
)
from txtlsmc.cli.ring import RingOptions
from txtlsmc.cli.serve import ServeOptions
from txtlsmc.errors import InvalidArgument, MemcacheError

_USAGE = 64  # EX_USAGE of sysexits.h
_INTERRUPTED, _PIPE_CLOSED = 130, 141  # what a shell says of these signals


class Options(Command):
    """What stands before the command."""

    synopsis = "tlsmc COMMAND [options]"
    longdesc = "Memcached over verified TLS, with SASL. `tlsmc COMMAND --help` tells more."
    subCommands = [  # noqa: RUF012 - the interface of usage.Options
        ("demo", None, DemoOptions, "Show TLS, SASL, every operation, and a server that fails."),
        ("serve", None, ServeOptions, "Run the embedded server (memory only) in the foreground."),
        ("get", None, GetOptions, "Fetch values."),
        ("set", None, SetOptions, "Store a value."),
        ("delete", None, DeleteOptions, "Remove items."),
        ("stats", None, StatsOptions, "Ask every server for its numbers."),
        ("flush", None, FlushOptions, "Empty the cache, for everybody."),
        ("ring", None, RingOptions, "Show which server has a key, and what a change would move."),
    ]

    def postOptions(self) -> None:
        """Ask for a command when there is none."""
        if self.subCommand is None:
            commands = ", ".join(name for name, *_ in self.subCommands)
            raise usage.UsageError(f"no command given; there is {commands}")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """
    Run ``tlsmc``.

    Args:
        argv: the words after ``tlsmc``; those of the process when None.

    Raises:
        SystemExit: always; with the exit codes of `txtlsmc.errors`, 64 for a wrong command line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a value may have what its charset lacks
            stream.reconfigure(errors="backslashreplace")
    options = Options()
    try:
        options.parseOptions(list(sys.argv[1:] if argv is None else argv))
        code = options.subOptions.run()
        sys.stdout.flush()
        sys.exit(code)
    except (usage.UsageError, InvalidArgument) as error:
        command = options.subCommand
        asked = f"tlsmc {command}" if command else "tlsmc"
        if command is None and str(error).startswith("option "):
            error = usage.UsageError(f"{error}; those of a command go behind it")
        print(f"{asked}: {error}\nTry '{asked} --help'.", file=sys.stderr)
        sys.exit(_USAGE)
    except MemcacheError as error:
        print(f"tlsmc: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_PIPE_CLOSED)
