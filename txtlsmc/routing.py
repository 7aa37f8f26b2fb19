"""How keys are shared out among servers, and what happens when one of these is down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from txtlsmc.checks import require_bool, require_choice, require_seconds, require_whole
from txtlsmc.errors import InvalidSetting

SCHEMES: Final = ("modula", "modula_md5", "ketama", "ketama_md5", "ketama_weighted")
ON_FAILURE: Final = ("fail", "rehash", "miss")
PARTIAL: Final = ("fail", "return")


@dataclass(frozen=True, slots=True)
class Backoff:
    """
    How long to wait before a server is dialled again.

    The first attempt after a connection is lost is made at once.

    Attributes:
        first: seconds before the second attempt; they double with each further one, and up to half
            of them is left out at random, so that many clients do not come back together.
        longest: what they grow to.
        wake_every: a call that waits for the server has it dialled now instead, at most once in
            so many seconds.
        credentials: seconds between attempts while the server refuses our credentials; these are
            never cut short, since providers lock accounts.
    """

    first: float = 0.1
    longest: float = 5.0
    wake_every: float = 1.0
    credentials: float = 60.0

    def __post_init__(self) -> None:
        for name in ("first", "longest", "wake_every", "credentials"):
            require_seconds(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Routing:
    """
    Which server has a key, and what a failure of it means.

    Attributes:
        scheme: how keys are shared out, exactly as libmemcached does it: ``"ketama"`` (pylibmc with
            ``{"ketama": True}``), ``"ketama_md5"`` (and ``"hash": "md5"``), ``"ketama_weighted"``,
            ``"modula"`` (pylibmc's own default) or ``"modula_md5"``.
        on_failure: what becomes of the keys of a server that is down: ``"fail"``: calls fail with
            `NodeDown`; ``"rehash"``: the next server on the ring has them (once the first is back,
            what it held before is read again, however old); ``"miss"``: reads find nothing, and
            writes fail.
        partial: what `MemcacheClient.get_multi` does when some servers can not be asked:
            ``"fail"``, with a `PartialResult` that holds what the others had, or ``"return"`` that.
        eject_after: how many failures in a row make a server count as down.
        connections: how many to each server; one key always uses the same.
        handshakes: how many of these are made at once.
        retry: ask once more when the connection is lost: what only reads, or was not sent yet.
        hash_namespace: let the namespace have a part in which server a key goes to; libmemcached
            does not.
        backoff: how long to wait before a server is dialled again.
    """

    scheme: str = "ketama"
    on_failure: Literal["fail", "rehash", "miss"] = "fail"
    partial: Literal["fail", "return"] = "fail"
    eject_after: int = 2
    connections: int = 1
    handshakes: int = 2
    retry: bool = True
    hash_namespace: bool = False
    backoff: Backoff = Backoff()

    def __post_init__(self) -> None:
        require_choice("a routing scheme", self.scheme, SCHEMES)
        require_choice("on_failure", self.on_failure, ON_FAILURE)
        require_choice("partial", self.partial, PARTIAL)
        for name in ("eject_after", "connections", "handshakes"):
            require_whole(name, getattr(self, name))
        for name in ("retry", "hash_namespace"):
            require_bool(name, getattr(self, name))
        if not isinstance(self.backoff, Backoff):
            raise InvalidSetting(f"backoff is a Backoff, not {type(self.backoff).__name__}")
