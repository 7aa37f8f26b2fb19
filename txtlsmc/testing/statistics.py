"""What STAT tells of the embedded server: memcached's names, as far as they mean something here."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from txtlsmc.testing.options import ServerOptions
from txtlsmc.testing.store import Store

Group = dict[str, int | str]

#: In the order of the real one; the names around them are filled in by `Statistics.general`.
_CONNECTIONS = ("total_connections", "rejected_connections")
_COUNTED = (
    *("cmd_get", "cmd_set", "cmd_flush", "cmd_touch"),
    *("get_hits", "get_misses", "get_expired"),
    *("delete_misses", "delete_hits"),
    *("incr_misses", "incr_hits", "decr_misses", "decr_hits"),
    *("cas_misses", "cas_hits", "cas_badval"),
    *("touch_hits", "touch_misses", "store_too_large", "store_no_memory"),
    *("auth_cmds", "auth_errors", "bytes_read", "bytes_written"),
)
_BY_CLASS = ("get_hits", "cmd_set", "delete_hits", "incr_hits", "decr_hits", "cas_hits")


class Statistics:
    """
    The groups of statistics of one server.

    Attributes:
        counters: what happened; the store counts in it too.
    """

    def __init__(
        self,
        options: ServerOptions,
        store: Store,
        seconds: Callable[[], float],
        connections: Callable[[], int],
    ) -> None:
        """
        Args:
            options: of the server.
            store: its items.
            seconds: a clock, from any start.
            connections: tells how many are open.
        """
        self.counters = store.counters
        self._options, self._store = options, store
        self._seconds, self._started = seconds, seconds()
        self._connections = connections

    def group(self, argument: bytes) -> Group | None:
        """
        Return the statistics that STAT asks for.

        Args:
            argument: of STAT; empty for the general ones.

        Returns:
            None where memcached has none by this name.  It looks at the first letters only of some.
        """
        if argument in (b"", b"items", b"slabs"):
            return {b"": self.general, b"items": self._items, b"slabs": self._slabs}[argument]()
        if argument == b"sizes":
            return {"sizes_status": "disabled"}
        if argument.startswith(b"reset"):
            self.counters.clear()
            return {}
        if argument.startswith(b"settings"):
            return self._settings()
        if argument.startswith(b"detail dump"):
            return {"detailed": "END\r\n"}  # counted by prefixes of keys, which we do not
        return {} if argument.startswith((b"detail on", b"detail off")) else None

    def general(self) -> Group:
        """Return the general statistics."""
        counters, used = self.counters, os.times()
        return {
            "pid": os.getpid(),
            "uptime": int(self._seconds() - self._started),
            "time": int(self._options.wall_clock()),
            "version": self._options.version,
            "pointer_size": 8 * struct.calcsize("P"),
            "rusage_user": f"{used.user:.6f}",
            "rusage_system": f"{used.system:.6f}",
            "max_connections": self._options.max_connections,
            "curr_connections": self._connections(),
            **{name: counters[name] for name in (*_CONNECTIONS, *_COUNTED)},
            "limit_maxbytes": self._options.max_bytes,
            "accepting_conns": 1,
            "threads": 1,
            "bytes": self._store.bytes_used,
            "curr_items": len(self._store),
            **{name: counters[name] for name in ("total_items", "evictions", "reclaimed")},
        }

    def _settings(self) -> Group:
        options = self._options
        return {
            "maxbytes": options.max_bytes,
            "maxconns": options.max_connections,
            "evictions": "on",
            "detail_enabled": "no",
            "cas_enabled": "yes",
            "binding_protocol": "binary",
            "auth_enabled_sasl": _yes(options.users is not None),
            "auth_enabled_ascii": "no",
            "item_size_max": options.max_item,
            "flush_enabled": _yes(options.flush_enabled),
            "ssl_enabled": _yes(options.tls),
        }

    def _items(self) -> Group:
        # All items are of one class here, whatever their size.
        store = self._store
        if not len(store):
            return {}
        return {
            "items:1:number": len(store),
            "items:1:mem_requested": store.bytes_used,
            "items:1:evicted": self.counters["evictions"],
            "items:1:outofmemory": self.counters["store_no_memory"],
            "items:1:reclaimed": self.counters["reclaimed"],
        }

    def _slabs(self) -> Group:
        total: Group = {
            "active_slabs": min(1, len(self._store)),
            "total_malloced": self._store.bytes_used,
        }
        if not len(self._store):
            return total
        return {
            "1:chunk_size": self._options.max_item,
            "1:used_chunks": len(self._store),
            **{f"1:{name}": self.counters[name] for name in _BY_CLASS},
            **total,
        }


def _yes(so: bool) -> str:
    return "yes" if so else "no"
