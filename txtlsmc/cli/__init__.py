"""The console script ``tlsmc``: its commands, each in a module of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from twisted.python import usage

from txtlsmc.cli.command import Command
from txtlsmc.cli.demo import DemoOptions
from txtlsmc.cli.serve import ServeOptions
from txtlsmc.errors import InvalidArgument, MemcacheError

_USAGE = 64  # EX_USAGE of sysexits.h


class Options(Command):
    """What stands before the command."""

    synopsis = "tlsmc COMMAND [options]"
    longdesc = "Memcached over verified TLS, with SASL. `tlsmc COMMAND --help` tells more."
    subCommands = [  # noqa: RUF012 - the interface of usage.Options
        ("demo", None, DemoOptions, "Show TLS, SASL, every operation and three refusals."),
        ("serve", None, ServeOptions, "Run the embedded server (memory only) in the foreground."),
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
    options = Options()
    try:
        options.parseOptions(list(sys.argv[1:] if argv is None else argv))
        sys.exit(options.subOptions.run())
    except (usage.UsageError, InvalidArgument) as error:
        command = options.subCommand
        asked = f"tlsmc {command}" if command else "tlsmc"
        print(f"{asked}: {error}\nTry '{asked} --help'.", file=sys.stderr)
        sys.exit(_USAGE)
    except MemcacheError as error:
        print(f"tlsmc: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
