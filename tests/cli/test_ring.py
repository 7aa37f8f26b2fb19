"""`tlsmc ring`: which server has a key, without asking it, and what would move."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.cli.test_main import tlsmc
from txtlsmc import Ring, Server, parse_servers

_THREE = ("--server", "mc1.example", "--server", "mc2.example:11212", "--server", "mc3.example")


class RingTests(SynchronousTestCase):
    def setUp(self) -> None:
        for name in [name for name in os.environ if name.startswith(("TXTLSMC_", "MEMCACH"))]:
            self.addCleanup(os.environ.__setitem__, name, os.environ.pop(name))
        self.servers = parse_servers("mc1.example,mc2.example:11212,mc3.example")

    def told(self, *words: str) -> Any:
        ran = tlsmc("ring", *_THREE, *words, "--json")
        self.assertEqual((ran.code, ran.err), (0, ""))
        return json.loads(ran.out)

    def test_keys(self) -> None:
        """For each key there is the server with its port, the hash, and the point behind it."""
        keys = [f"key:{number}" for number in range(50)]
        told = self.told(*keys, "--routing", "ketama")
        ring = Ring(self.servers, "ketama")
        picks = [ring.explain(key.encode()) for key in keys]
        self.assertEqual(
            told,
            [
                {
                    "key": key,
                    "server": str(pick.server.identity),
                    "hash": pick.hash,
                    "point": pick.point,
                }
                for key, pick in zip(keys, picks, strict=True)
            ],
        )
        self.assertEqual(
            {row["server"] for row in told},
            {"mc1.example:11211", "mc2.example:11212", "mc3.example:11211"},
        )

    def test_lines(self) -> None:
        """Without --json there is one line for each key; a scheme without points has none."""
        (row,) = self.told("key", "--routing", "modula")
        ran = tlsmc("ring", *_THREE, "--routing", "modula", "key")
        self.assertEqual(ran.out, f"key\t{row['server']}\t{row['hash']}\t-\n")

    def test_namespace(self) -> None:
        """The namespace has a part in it only where the settings say so."""
        Path(folder := self.mktemp()).mkdir(parents=True)
        config = Path(folder) / "settings.toml"
        config.write_text('namespace = "app:"\n[routing]\nhash_namespace = true\n', "utf-8")
        (plain,) = self.told("key", "--namespace", "app:")
        (hashed,) = self.told("key", "--config", str(config))
        self.assertEqual(plain["hash"], self.told("key")[0]["hash"])
        self.assertEqual(hashed["hash"], self.told("app:key")[0]["hash"])

    def test_shares(self) -> None:
        """Without a key there is each server's share of all keys."""
        told = self.told()
        self.assertEqual([row["share"] for row in told], list(Ring(self.servers).shares().values()))
        ran = tlsmc("ring", "--server", "mc1.example", "--server", "mc1.example")
        self.assertEqual(ran.out, "mc1.example:11211\t100.0%\n")

    def test_compare_servers(self) -> None:
        """To compare with another list tells what moves, the shares, and where given keys go."""
        words = ("--compare", "--compare-server", "mc1.example", "--compare-server", "new.example")
        told = self.told("key", *words)
        before, after = Ring(self.servers), Ring([Server("mc1.example"), Server("new.example")])
        self.assertEqual(told["moved"], before.difference(after))
        self.assertEqual(
            [row["server"] for row in told["servers"]],
            ["mc1.example:11211", "mc2.example:11212", "mc3.example:11211", "new.example:11211"],
        )
        was, will = before.shares(), after.shares()
        self.assertEqual([row["before"] for row in told["servers"]], [*was.values(), 0.0])
        self.assertEqual(
            [row["after"] for row in told["servers"]],
            [will["mc1.example"], 0.0, 0.0, will["new.example"]],
        )
        self.assertEqual(
            told["keys"],
            [
                {
                    "key": "key",
                    "before": str(before.explain(b"key").server.identity),
                    "after": str(after.explain(b"key").server.identity),
                }
            ],
        )

    def test_compare_schemes(self) -> None:
        """To compare with another scheme keeps the list."""
        told = self.told("--compare-routing", "modula")
        self.assertEqual(told["routing"], {"before": "ketama", "after": "modula"})
        moved = Ring(self.servers).difference(Ring(self.servers, "modula"))
        self.assertEqual(told["moved"], moved)
        ran = tlsmc("ring", *_THREE, "--compare-routing", "modula")
        self.assertTrue(ran.out.startswith(f"{moved:.1%} of all keys move\n"))

    def test_nothing_moves(self) -> None:
        """To compare with the same is to move nothing."""
        self.assertEqual(self.told("--compare-routing", "ketama")["moved"], 0.0)

    def test_wrong_command_lines(self) -> None:
        """What can not be right is refused, by the option's name."""
        for said, words in (
            ("--compare with what?", ["--compare"]),
            ("--compare-routing: a routing scheme is one of", ["--compare-routing", "nonsense"]),
            ("--compare-server: ", ["--compare-server", "user@host"]),
            ("0x20", ["a key"]),
        ):
            ran = tlsmc("ring", *_THREE, *words)
            self.assertEqual((ran.code, ran.out), (64, ""), words)
            self.assertIn(said, ran.err)
        self.assertIn("no server is named", tlsmc("ring", "key").err)
