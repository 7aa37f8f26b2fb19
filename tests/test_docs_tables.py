"""The tables of the reference that are made from the code have a row for all that there is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

import txtlsmc
from txtlsmc.sources import SETTINGS as CLIENT
from txtlsmc.tap import Options
from txtlsmc.tunnel.counters import Counters
from txtlsmc.tunnel.effective import OF_CLIENTS
from txtlsmc.tunnel.settings import SETTINGS as TUNNEL


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = str(Path(txtlsmc.__file__).parent.parent / "docs")
        sys.path.insert(0, folder)
        self.addCleanup(sys.path.remove, folder)
        self.tables: Any = namedAny("table_rows")

    def test_settings(self) -> None:
        """Every option but those that are no settings is in one of the tables."""
        rows = [*self.tables.client_rows(), *self.tables.tunnel_rows()]
        self.assertEqual(len(rows), len(CLIENT) + len(TUNNEL) - len(OF_CLIENTS))
        options = {f"--{name.rstrip('=')}" for name in Options().longOpt}
        no_settings = {"config", "provider", "from-environ", "print-config", "help", "version"}
        left = options - {row[0] for row in rows} - {f"--{name}" for name in no_settings}
        self.assertEqual(left, set())

    def test_counters(self) -> None:
        """Every counter is told once, with words."""
        rows = list(self.tables.counter_rows())
        names = [name for row in rows for name in row[0].split("\n")]
        self.assertEqual(sorted(names), sorted(Counters.__slots__))
        self.assertTrue(all(words for _, words in rows))

    def test_events(self) -> None:
        """Every event of the log is told, with words."""
        rows = dict(self.tables.event_rows())
        self.assertLessEqual({"ready", "lost", "back", "limit", "draining"}, rows.keys())
        self.assertTrue(all(rows.values()))
