"""The runner counts what ran and lets no test disappear unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.run import differences, read_committed

SAMPLE = """
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

class SampleTests(TestCase):
    def test_good(self): pass
    def test_bad(self): self.fail("on purpose")
    def test_skipped(self): pass
    test_skipped.skip = "no such server here"
    def test_todo(self): self.fail("on purpose")
    test_todo.todo = "some day"
    def test_no_longer_todo(self): pass
    test_no_longer_todo.todo = "some day"
    def test_dirty(self): reactor.callLater(60, print)
    def test_reactor(self): self.assertIn("Select", type(reactor).__name__)
"""


class DifferencesTests(SynchronousTestCase):
    def test_as_committed(self) -> None:
        """The tests that may be left out may."""
        self.assertEqual(differences(["a.b"], ["a.b"], whole=True), [])
        self.assertEqual(differences([], [], whole=True), [])

    def test_unexpected(self) -> None:
        """A test that is left out and may not be is named, whatever was run."""
        for whole in (True, False):
            (sentence,) = differences(["a.b", "a.c"], ["a.b"], whole=whole)
            self.assertIn("a.c was left out", sentence)

    def test_outdated(self) -> None:
        """A test that runs again leaves the list; only a run of all tests can tell."""
        (sentence,) = differences([], ["a.b"], whole=True)
        self.assertIn("names a.b", sentence)
        self.assertEqual(differences([], ["a.b"], whole=False), [])

    def test_comments(self) -> None:
        """The list may say why."""
        self.assertEqual(read_committed("# why\na.b  # because\n\n  a.c\n"), ["a.b", "a.c"])


class RunTests(SynchronousTestCase):
    """The runner as a command, on a module of one test of each kind."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        (self.folder / "sample.py").write_text(SAMPLE)

    def outcome(self, *arguments: str, ci: bool = False) -> tuple[int, list[str]]:
        path = os.pathsep.join([str(self.folder.absolute()), *sys.path])
        done = subprocess.run(
            [sys.executable, "-m", "tests.run", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": path, "CI": str(ci).lower()},
        )
        return done.returncode, done.stdout.splitlines()

    def test_good(self) -> None:
        """A run in which all went well ends with its count and status 0."""
        status, lines = self.outcome("sample.SampleTests.test_good", ci=True)
        self.assertEqual((status, lines[-1]), (0, "1 passed, 0 failed"))

    def test_each_kind(self) -> None:
        """Whatever goes wrong counts as failed, and what was left out is listed with its reason."""
        status, lines = self.outcome("--reactor=select", "sample")
        self.assertEqual((status, lines[-1]), (1, "2 passed, 3 failed"))
        self.assertIn("  sample.SampleTests.test_skipped: no such server here", lines)
        self.assertIn("  sample.SampleTests.test_todo: todo: some day", lines)

    def test_left_out_in_ci(self) -> None:
        """Under CI a test that is left out is a failure."""
        status, lines = self.outcome("sample.SampleTests.test_skipped")
        self.assertEqual((status, lines[-1]), (0, "0 passed, 0 failed"))
        status, lines = self.outcome("sample.SampleTests.test_skipped", ci=True)
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed"))

    def test_nothing(self) -> None:
        """A run without a test is no success."""
        (self.folder / "hollow.py").write_text("")
        status, lines = self.outcome("hollow")
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed"))

    def test_unknown_name(self) -> None:
        """A name that is not there is a failure."""
        status, lines = self.outcome("sample.NoSuchTests")
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed"))

    def test_leaves_nothing(self) -> None:
        """The run leaves no folder of trial's behind."""
        self.outcome("sample")
        left = {path.name for path in self.folder.iterdir()} - {"__pycache__"}
        self.assertEqual(left, {"sample.py"})
