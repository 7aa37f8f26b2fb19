"""``tlsmc ring``: which server has a key, and what another list or scheme would change."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from twisted.python import usage

from txtlsmc.cli.asking import KnowingServers
from txtlsmc.cli.printing import key_text, print_json
from txtlsmc.cluster.ring import Ring
from txtlsmc.errors import InvalidSetting
from txtlsmc.servers import Server, parse_servers
from txtlsmc.settings import ClientSettings
from txtlsmc.wire.operations import encode_key


class RingOptions(KnowingServers):
    """Show where keys are; no server is asked."""

    synopsis = "tlsmc ring [options] [KEY…]"
    longdesc = (
        "Prints KEY<tab>SERVER<tab>HASH<tab>POINT for each KEY: the server that has it, and the"
        " point on the ring that its hash came to. Without a KEY: the share of all keys that each"
        " server has. With --compare, --compare-server or --compare-routing: what would move."
        " It connects to nobody."
    )
    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        ["compare-routing", None, None, "SCHEME to compare with"],
    ]
    optFlags = [  # noqa: RUF012 - the interface of usage.Options
        ["compare", None, "Compare with the two below."],
    ]

    def opt_compare_server(self, text: str) -> None:
        """HOST:PORT[:WEIGHT] of the list to compare with; again for each, in ring order"""
        self.setdefault("compare-server", []).append(text)

    def parseArgs(self, *keys: str) -> None:
        """Take the keys."""
        self["keys"] = self.read_keys(keys)

    def postOptions(self) -> None:
        """Check that there is something to compare with."""
        other = "compare-server" in self or self["compare-routing"] is not None
        if self["compare"] and not other:
            raise usage.UsageError(
                "--compare with what? Give --compare-server for each server of another list, or"
                " --compare-routing, or both"
            )
        self["compare"] = other

    def run(self) -> int:
        """Print it; return the exit code."""
        settings = self.client_settings(os.environ)
        for key in self["keys"]:
            encode_key(settings.namespace + key)
        before = Ring(settings.servers, settings.routing.scheme)
        before_hash = _hashed_by(settings)
        if self["compare"]:
            self._compare(before, self._other(before), before_hash)
        elif self["keys"]:
            self._explain(before, before_hash)
        else:
            self._share(before)
        return 0

    def _explain(self, ring: Ring, hashed: Callable[[bytes], bytes]) -> None:
        picks = [(key_text(key), ring.explain(hashed(key))) for key in self["keys"]]
        if self["json"]:
            print_json(
                [
                    {
                        "key": key,
                        "server": _name(pick.server),
                        "hash": pick.hash,
                        "point": pick.point,
                    }
                    for key, pick in picks
                ]
            )
            return
        for key, pick in picks:
            point = "-" if pick.point is None else pick.point
            print(f"{key}\t{_name(pick.server)}\t{pick.hash}\t{point}")

    def _share(self, ring: Ring) -> None:
        shares = _shares(ring)
        if self["json"]:
            print_json([{"server": name, "share": share} for name, share in shares.items()])
            return
        for name, share in shares.items():
            print(f"{name}\t{_percent(share)}")

    def _other(self, ring: Ring) -> Ring:
        servers, scheme = ring.servers, ring.scheme
        option = "--compare-server"
        try:
            if "compare-server" in self:
                servers = parse_servers(self["compare-server"])
            option = "--compare-routing"
            return Ring(servers, self["compare-routing"] or scheme)
        except InvalidSetting as error:
            raise usage.UsageError(f"{option}: {error}") from None

    def _compare(self, before: Ring, after: Ring, hashed: Callable[[bytes], bytes]) -> None:
        moved, was, will = before.difference(after), _shares(before), _shares(after)
        names = list(dict.fromkeys((*was, *will)))
        keys = []
        for key in self["keys"]:
            here, there = (_name(ring.explain(hashed(key)).server) for ring in (before, after))
            keys.append((key_text(key), here, there))
        if self["json"]:
            print_json(
                {
                    "moved": moved,
                    "routing": {"before": before.scheme, "after": after.scheme},
                    "servers": [
                        {
                            "server": name,
                            "before": was.get(name, 0.0),
                            "after": will.get(name, 0.0),
                        }
                        for name in names
                    ],
                    "keys": [
                        dict(zip(("key", "before", "after"), row, strict=True)) for row in keys
                    ],
                }
            )
            return
        print(f"{_percent(moved)} of all keys move\n")
        rows = [("server", f"before ({before.scheme})", f"after ({after.scheme})")]
        rows += [(name, _share_text(was, name), _share_text(will, name)) for name in names]
        if keys:
            rows += [("", "", ""), ("key", "before", "after"), *keys]
        _print_columns(rows)


def _hashed_by(settings: ClientSettings) -> Callable[[bytes], bytes]:
    """Return what makes of a key what the ring hashes."""
    before = settings.namespace if settings.routing.hash_namespace else b""
    return lambda key: before + key


def _name(server: Server) -> str:
    # With the port, also where it is the usual one and was left out.
    return str(server.identity)


def _shares(ring: Ring) -> dict[str, float]:
    shares: dict[str, float] = {}
    named = {server.name: _name(server) for server in ring.servers}
    for name, share in ring.shares().items():
        shares[named[name]] = shares.get(named[name], 0.0) + share
    return shares


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _share_text(shares: dict[str, float], name: str) -> str:
    return _percent(shares[name]) if name in shares else "-"


def _print_columns(rows: Sequence[tuple[str, str, str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for first, second, third in rows:
        print(f"{first:<{widths[0]}}  {second:<{widths[1]}}  {third}".rstrip())
