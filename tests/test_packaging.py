"""What setup.cfg lists by hand agrees with the tree."""

from __future__ import annotations

import re
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import txtlsmc

ROOT = Path(txtlsmc.__file__).parent.parent
FRAGMENT = re.compile(r"\d+\.(feature|bugfix|doc|removal|misc)(\.\d+)?\.rst")


class PackagingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.settings = ConfigParser()
        self.settings.read(ROOT / "setup.cfg", "utf-8")

    def test_packages(self) -> None:
        """Every package of the tree is installed, and the plugin folder where there is one."""
        packages = {
            ".".join(path.parent.relative_to(ROOT).parts)
            for path in (ROOT / "txtlsmc").rglob("__init__.py")
        }
        if (ROOT / "twisted" / "plugins").exists():
            packages.add("twisted.plugins")
        self.assertEqual(set(self.settings["options"]["packages"].split()), packages)

    def test_twisted_stays_open(self) -> None:
        """No __init__.py of ours hides Twisted's own packages."""
        self.assertEqual(list(ROOT.glob("twisted/**/__init__.py")), [])

    def test_typed(self) -> None:
        """Type checkers find the annotations of an installed txtlsmc."""
        self.assertTrue((ROOT / "txtlsmc" / "py.typed").exists())
        self.assertIn("py.typed", self.settings["options.package_data"]["txtlsmc"])

    def test_version(self) -> None:
        """The version that pip knows is the one that the package tells."""
        try:
            installed = version("txtlsmc")
        except PackageNotFoundError:
            raise SkipTest("txtlsmc is not installed; `make test` installs it") from None
        self.assertEqual(installed, txtlsmc.__version__)

    def test_changes(self) -> None:
        """Each note for the next release is named so that towncrier picks it up."""
        folder = ROOT / "docs" / "changes"
        strangers = [path.name for path in folder.iterdir() if not FRAGMENT.fullmatch(path.name)]
        self.assertEqual(strangers, [])
