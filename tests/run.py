"""
Run the tests with trial, say which were left out, and end with ``N passed, M failed``.

    python -m tests.run [--reactor=NAME] [NAME...]

Without a NAME, all of them.  With ``CI=true`` the tests left out must be those of
``tests/skipped.txt``, neither more nor fewer.  Nothing stays behind: trial's working directory is
a temporary one.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.application.reactors import NoSuchReactor, installReactor
from twisted.trial.reporter import TreeReporter
from twisted.trial.runner import DestructiveTestSuite, TestLoader, TrialRunner

COMMITTED = Path(__file__).with_name("skipped.txt")


class Reporter(TreeReporter):
    """Trial's own reporter, which also knows the tests that were left out, and why."""

    def left_out(self) -> dict[str, str]:
        """Return the reason for each test that was skipped, or that is allowed to fail."""
        skipped = {test.id(): str(reason) for test, reason in self.skips}
        todo = {test.id(): f"todo: {todo.reason}" for test, _, todo in self.expectedFailures}
        return skipped | todo

    def failed(self) -> set[str]:
        """Return the ids of the tests that went wrong in any way; one may do so several times."""
        wrong = [*self.failures, *self.errors, *self.unexpectedSuccesses]
        return {test.id() for test, *_ in wrong}


def differences(left_out: Collection[str], committed: Collection[str], *, whole: bool) -> list[str]:
    """
    Compare the tests that were left out with those that may be.

    Args:
        left_out: their ids.
        committed: the ids that may, and must, be left out.
        whole: whether all tests ran; otherwise nothing is known of those that did not.

    Returns:
        One sentence for each test in one of the two and not in the other.
    """
    name = COMMITTED.name
    unexpected = sorted(set(left_out) - set(committed))
    outdated = sorted(set(committed) - set(left_out)) if whole else []
    return [
        *(f"{test} was left out, and {name} does not name it" for test in unexpected),
        *(f"{name} names {test}, which was not left out" for test in outdated),
    ]


def read_committed(text: str) -> list[str]:
    """Return the ids in a list with comments."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def run(names: Sequence[str], *, ci: bool) -> int:
    """Run the tests under *names*, print what came of it, and return the exit status."""
    loader = TestLoader()
    loader.suiteFactory = DestructiveTestSuite  # lets go of each test once it ran
    suite = loader.loadByNames(list(names) or ["tests"], recurse=True)
    with TemporaryDirectory(prefix="txtlsmc-tests-") as folder:
        runner = TrialRunner(Reporter, workingDirectory=os.path.join(folder, "trial"))
        result = runner.run(suite)
    assert isinstance(result, Reporter)
    left_out = result.left_out()
    failed = len(result.failed())

    print(f"\nLeft out: {len(left_out) or 'nothing'}")
    for test, reason in sorted(left_out.items()):
        print(f"  {test}: {reason}")
    if ci:
        committed = read_committed(COMMITTED.read_text("utf-8"))
        for sentence in differences(left_out, committed, whole=not names):
            print(sentence)
            failed += 1
    if result.testsRun == 0:
        print(f"no test was found under {', '.join(names) or 'tests'}")
        failed += 1
    print(f"{result.successes} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, and run the tests."""
    parser = ArgumentParser(prog="python -m tests.run", description="Run the tests with trial.")
    parser.add_argument("--reactor", help="its short name, as `trial --help-reactors` has it")
    parser.add_argument("names", nargs="*", metavar="NAME", help="package, module, class or method")
    options = parser.parse_args(arguments)
    if options.reactor is not None:
        try:
            installReactor(options.reactor)  # before any test module imports the reactor
        except NoSuchReactor:
            parser.error(f"there is no reactor {options.reactor!r}")
    return run(options.names, ci=os.environ.get("CI") == "true")


if __name__ == "__main__":
    sys.exit(main())
