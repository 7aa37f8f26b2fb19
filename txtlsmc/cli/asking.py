"""What those commands have in common that ask servers, or would know which one to ask."""

from __future__ import annotations

import getopt
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.python import usage

from txtlsmc.cli.running import run
from txtlsmc.cli.server_options import ServerOptions
from txtlsmc.client import MemcacheClient
from txtlsmc.errors import InvalidKey, MemcacheError
from txtlsmc.settings import ClientSettings
from txtlsmc.wire.operations import encode_key

T = TypeVar("T")
_INTERRUPTED = 130


class KnowingServers(ServerOptions):
    """Options may stand anywhere on the command line; ``--json`` is one of them."""

    optFlags = [  # noqa: RUF012 - the interface of usage.Options
        ["json", None, "Print JSON."],
    ]

    def parseOptions(  # noqa: N802 - the interface of usage.Options
        self, options: Sequence[str] | None = None
    ) -> None:
        """
        Parse the command line.

        Twisted's own parsing would take ``--json`` behind a key for another key.
        """
        try:
            given, words = getopt.gnu_getopt(list(options or ()), self.shortOpt, self.longOpt)
        except getopt.GetoptError as error:
            raise usage.UsageError(
                f"{error.msg}; a word that is no option and begins with '-' goes behind '--'"
            ) from None
        in_order = [word for pair in given for word in _as_words(pair, self.longOpt)]
        super().parseOptions([*in_order, "--", *words])

    def read_keys(self, words: Sequence[str]) -> list[bytes]:
        """
        Return the keys that *words* are.

        Raises:
            usage.UsageError: one of them can not be a key.
        """
        keys = [os.fsencode(word) for word in words]
        for word, key in zip(words, keys, strict=True):
            try:
                encode_key(key)
            except InvalidKey as error:
                raise usage.UsageError(f"{word!r}: {error}") from None
        return keys


def _as_words(pair: tuple[str, str], known: Sequence[str]) -> list[str]:
    option, value = pair
    if option.startswith("--"):
        return [f"{option}={value}" if f"{option[2:]}=" in known else option]
    return [option]


class Asking(KnowingServers):
    """A command that asks servers, and tells what they said."""

    def run(self) -> int:
        """Do it; return the exit code."""
        settings = self.client_settings(os.environ)
        self.prepare(settings)
        outcomes: list[Any] = []
        stopped = False

        def stopping() -> None:
            nonlocal stopped
            stopped = True

        async def asked(reactor: Any) -> int:
            reactor.addSystemEventTrigger("before", "shutdown", stopping)
            client = MemcacheClient.from_settings(reactor, settings)
            try:
                outcome = await self.ask(client)
            except MemcacheError:
                if not stopped:
                    raise
            else:
                outcomes.append(outcome)
            finally:
                await client.close()
            # A signal closes the connections, and what then fails is nobody's fault.
            return _INTERRUPTED if stopped else 0

        # Told when the reactor has ended, where a closed pipe is no error inside of a Deferred.
        code = run(asked)
        if code or not outcomes:
            return code or _INTERRUPTED
        return self.tell(outcomes[0])

    def prepare(self, settings: ClientSettings) -> None:
        """
        Do what comes before the first connection.

        Raises:
            usage.UsageError, MemcacheError: it can not be done.
            SystemExit: it is not to be done.
        """

    async def ask(self, client: MemcacheClient) -> Any:
        """Ask; return what `tell` takes."""
        raise NotImplementedError

    def tell(self, outcome: Any) -> int:
        """Print what came of it; return the exit code."""
        raise NotImplementedError


async def outcomes_of(
    keys: Sequence[bytes], ask: Callable[[bytes], Deferred[T]]
) -> list[tuple[bytes, T | MemcacheError]]:
    """Ask for all *keys* at once; return the outcome of each, which may be an error."""

    def failed(reason: Any) -> MemcacheError:
        reason.trap(MemcacheError)
        error: MemcacheError = reason.value
        return error

    outcomes = await gatherResults([ask(key).addErrback(failed) for key in keys])
    return list(zip(keys, outcomes, strict=True))
