"""What all connections see: FLUSH and STAT, each exchange on a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.integration.parity.exchange import (
    Alone,
    Exchange,
    Flight,
    Piece,
    last_cas,
    later,
    send,
    shown,
    stored,
)
from tests.integration.parity.expiry import OVER, from_now
from tests.integration.parity.operations import COUNT, NOOP, asked
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode

_KEYS: Final = (b"one", b"two", b"three")
_STORE: Final = tuple(stored(key, b"10") for key in _KEYS)
_SHOW: Final = tuple(shown(key) for key in _KEYS)


def flush(when: int | None = None, opcode: int = Opcode.FLUSH) -> Request:
    """Return a FLUSH, at once or *when*."""
    return Request(opcode, extras=b"" if when is None else when.to_bytes(4, "big"))


def forbidden_flush_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges for servers that let nobody flush."""
    for opcode in (Opcode.FLUSH, Opcode.FLUSHQ):
        for what, when in (("now", None), ("zero", 0), ("later", 1000)):
            name = f"forbidden_{opcode.name.lower()}_{what}"
            key = name.encode()
            flights = (send(stored(key, b"10"), flush(when, opcode), NOOP), send(shown(key)))
            yield Exchange(name, f"{opcode.name} {what} where it is off", flights)


def flush_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges about FLUSH."""
    for opcode in (Opcode.FLUSH, Opcode.FLUSHQ):
        for what, when in (("now", None), ("zero", 0), ("far", 1000), ("minus_1", 2**32 - 1)):
            flights = (send(flush(when, opcode), NOOP), send(*_SHOW), send(*_STORE, *_SHOW))
            yield _flush(f"{opcode.name.lower()}_{what}", f"{opcode.name} {what}", *flights)
    everything = (*_SHOW, flush(), *_SHOW, *_STORE, *_SHOW)
    yield _flush("flush_at_once", "FLUSH in one flight with reads and writes", send(*everything))
    yield _flush("flush_again", "FLUSH twice", send(flush(), flush(), *everything))
    for opcode in (
        *(Opcode.ADD, Opcode.REPLACE, Opcode.APPEND, Opcode.INCREMENT, Opcode.DELETE),
        *(Opcode.TOUCH, Opcode.GAT),
    ):
        request = asked(opcode, b"one")
        flight = send(flush(), request, _with_cas(opcode), *_SHOW)
        yield _flush(f"flush_and_{opcode.name.lower()}", f"{opcode.name} behind FLUSH", flight)
    # memcached's clock ticks in seconds, so what is to come soon may come while we look.  Only in
    # a second is sure: at once.
    over = later(OVER, *_SHOW, *_STORE, *_SHOW)
    yield _flush("flush_in_1_second", "FLUSH in a second", send(flush(1), *_SHOW), over)
    yield _flush("flush_in_2_seconds", "FLUSH in two seconds", send(flush(2)), over)
    yield _flush("flush_at_1_second", "FLUSH at a Unix time", send(from_now(1, flush)), over)
    for what, seconds in (("past", -10), ("long_past", -1000), ("future", 1000)):
        flights = (send(from_now(seconds, flush)), send(*_SHOW), send(*_STORE, *_SHOW))
        yield _flush(f"flush_{what}", f"FLUSH at a Unix time in the {what}", *flights)
    yield _flush(
        "flush_postponed",
        "FLUSH in two seconds, and then in a thousand",
        send(flush(2), flush(1000)),
        later(OVER, *_SHOW),
    )
    yield _flush(
        "flush_hastened",
        "FLUSH in two seconds, and then at once",
        send(flush(2), flush(), *_SHOW, *_STORE),
        later(OVER, *_SHOW),
    )
    yield _flush(
        "flush_revoked",
        "FLUSH, and then in a thousand seconds",
        send(flush(), flush(1000), *_SHOW),
    )
    yield _flush(
        "flush_revoked_seen",
        "FLUSH, and then in a thousand seconds, with reads between",
        send(flush(), *_SHOW, flush(1000), *_SHOW, *_STORE, *_SHOW),
    )


def _flush(name: str, says: str, *flights: Flight) -> Exchange:
    return Exchange(name, says, (send(*_STORE), *flights), Alone.YES)


def _with_cas(opcode: Opcode) -> Piece:
    return lambda heard: asked(opcode, b"two", cas=last_cas(heard))


def stat(argument: bytes = b"") -> Request:
    """Return a STAT."""
    return Request(Opcode.STAT, argument, opaque=0x73746174)


#: What STAT is asked for: what memcached knows, what only the text protocol has, and variations.
_ARGUMENTS: Final = (
    *(b"settings", b"items", b"slabs", b"sizes", b"reset", b"nosuch", b"Items", b"\0"),
    *(b"settingsx", b"itemsx", b"item", b"items ", b"slabsx", b"sizesx", b"resetx", b"reset\0"),
    *(b"detail", b"detailx", b"detail on", b"detail off", b"detail onx", b"detail offx"),
    *(b"detail x", b"detail dump", b"detail dumpx", b"sizes_enable", b"sizes_disable"),
    *(b"conns", b"cachedump", b"cachedump 1 1", b"malloc", b"maps", b"extstore", b"k" * 250),
)
#: What must be told of a server that was set up like another.
_SETTINGS: Final = frozenset(
    (
        *(b"maxbytes", b"maxconns", b"evictions", b"detail_enabled", b"cas_enabled"),
        *(b"binding_protocol", b"auth_enabled_sasl", b"auth_enabled_ascii", b"item_size_max"),
        *(b"flush_enabled", b"ssl_enabled"),
    )
)
#: What must be told, and how much it is, behind the same requests; memcached counts its listener
#: among all connections there ever were, so that number is not among them.
_COUNTERS: Final = frozenset(
    (
        *(b"pointer_size", b"max_connections", b"curr_connections", b"limit_maxbytes"),
        *(b"rejected_connections", b"accepting_conns", b"threads", b"bytes", b"version"),
        *(b"cmd_get", b"cmd_set", b"cmd_flush", b"cmd_touch"),
        *(b"get_hits", b"get_misses", b"get_expired", b"delete_misses", b"delete_hits"),
        *(b"incr_misses", b"incr_hits", b"decr_misses", b"decr_hits"),
        *(b"cas_misses", b"cas_hits", b"cas_badval", b"touch_hits", b"touch_misses"),
        *(b"store_too_large", b"store_no_memory", b"auth_cmds", b"auth_errors"),
        *(b"curr_items", b"total_items", b"evictions", b"reclaimed"),
        *(b"bytes_read", b"bytes_written"),
    )
)
_ITEMS: Final = frozenset((b"items:1:number", b"items:1:mem_requested", b"items:1:evicted"))
_SLABS: Final = frozenset(
    (b"active_slabs", *(b"1:" + name for name in (b"get_hits", b"cmd_set", b"delete_hits")))
)


def stat_exchanges() -> Iterator[Exchange]:
    """Yield the exchanges about STAT."""
    for argument in _ARGUMENTS:
        word = argument.decode().replace(" ", "_").replace("\0", "_nul")[:20]
        flight = send(stat(argument), stored(b"one", b"10"), stat(argument), NOOP)
        told = _SETTINGS if argument.startswith(b"settings") else frozenset[bytes]()
        yield Exchange(f"stat_{word}", f"STAT {argument[:20]!r}", (flight,), Alone.YES, told)
    nothing = Exchange("stat_nothing", "STAT where nothing happened", (send(stat()),))
    yield Exchange(nothing.name, nothing.says, nothing.flights, Alone.YES, _COUNTERS)
    for name, pieces in _traffic():
        yield Exchange(
            f"stat_of_{name}",
            f"STAT behind {name.replace('_', ' ')}",
            (send(*_STORE), send(*pieces), send(stat()), send(stat(b"reset")), send(stat())),
            Alone.YES,
            _COUNTERS,
        )
    for argument, told in ((b"items", _ITEMS), (b"slabs", _SLABS)):
        yield Exchange(
            f"stat_{argument.decode()}_of_one",
            f"STAT {argument!r} with small items",
            (send(*_STORE), send(*_SHOW, asked(Opcode.DELETE, b"one")), send(stat(argument))),
            Alone.YES,
            told,
        )


def _traffic() -> Iterator[tuple[str, tuple[Piece, ...]]]:
    for opcode in (
        *(Opcode.GET, Opcode.GETKQ, Opcode.GAT, Opcode.GATKQ, Opcode.TOUCH, Opcode.SET),
        *(Opcode.ADD, Opcode.REPLACE, Opcode.APPEND, Opcode.PREPENDQ, Opcode.DELETE),
        *(Opcode.INCREMENT, Opcode.DECREMENTQ),
    ):
        pieces: tuple[Piece, ...] = (
            asked(opcode, b"one", cas=99),
            asked(opcode, b"missing", cas=99),
            _with_cas(opcode),
            asked(opcode, b"one"),
            asked(opcode, b"other"),
        )
        yield opcode.name.lower(), pieces
    yield "flush", (flush(), *_SHOW, flush(1000))
    yield (
        "count_without_creating",
        (
            Request(Opcode.INCREMENT, b"missing", COUNT.pack(1, 1, 2**32 - 1)),
            Request(Opcode.DECREMENT, b"missing", COUNT.pack(1, 1, 2**32 - 1)),
        ),
    )
    yield "too_large", (stored(b"one", bytes(2**20)), asked(Opcode.NOOP))
