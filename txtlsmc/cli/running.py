"""Run a coroutine under the reactor, and give its exit code to the shell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from txtlsmc.errors import MemcacheError

Main = Callable[[Any], Coroutine[Deferred[Any], Any, int]]


def run(main: Main) -> int:
    """
    Run *main* with the reactor until it returns, or until a signal ends the reactor.

    Args:
        main: takes the reactor and returns the exit code.  A `MemcacheError` that it raises is
            told in one line, and its own exit code is used.

    Returns:
        The exit code.
    """

    async def guarded(reactor: Any) -> None:
        try:
            code = await main(reactor)
        except MemcacheError as error:
            print(f"tlsmc: {error}", file=sys.stderr)
            code = error.exit_code
        raise SystemExit(code)

    try:
        react(guarded, ())
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
