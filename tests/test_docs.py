"""The programs in the documentation do what the text around them says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

import txtlsmc
from txtlsmc.testing import Authority, MemoryServer

ROOT = Path(txtlsmc.__file__).parent.parent
DOCS = ROOT / "docs"


class DocumentationTests(TestCase):
    timeout = 120

    async def python(self, *arguments: str, **environment: str) -> tuple[str, str, int]:
        """Run Python with what can be imported here, and return output, errors and status."""
        path = os.pathsep.join([str(ROOT), *sys.path])
        out, err, status = await getProcessOutputAndValue(
            sys.executable, arguments, os.environ | {"PYTHONPATH": path} | environment
        )
        return out.decode(), err.decode(), status

    async def test_first_connection(self) -> None:
        """The tutorial's program prints the value that it stored."""
        authority = Authority()
        server = MemoryServer(reactor, users={"alice": "wonderland"}, certificate=authority.issue())
        await server.listen()
        self.addCleanup(server.stop)
        folder = Path(self.mktemp())
        folder.mkdir()
        ca = authority.write_to(folder)
        program = str(DOCS / "tutorial" / "first_connection.py")
        address = f"localhost:{server.server.address.port}"
        for password, outcome in (("wonderland", "hello"), ("wrong", "CredentialsRefused")):
            out, err, status = await self.python(
                program, address, str(ca), TXTLSMC_PASSWORD=password
            )
            self.assertEqual(status, 0 if outcome == "hello" else 1, err)
            self.assertIn(outcome, out + err)

    async def serve(self, users: dict[str, str] | None) -> tuple[str, str]:
        """Start a server; return its address and the file of its authority."""
        authority = Authority()
        server = MemoryServer(reactor, users=users, certificate=authority.issue())
        await server.listen()
        self.addCleanup(server.stop)
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        return f"localhost:{server.server.address.port}", str(authority.write_to(folder))

    async def test_many_servers(self) -> None:
        """The tutorial's client prints what it stored, and whose the key is."""
        address, ca = await self.serve({"alice": "wonderland"})
        program = str(DOCS / "tutorial" / "client.py")
        out, err, status = await self.python(program, address, ca, TXTLSMC_PASSWORD="wonderland")
        self.assertEqual((status, err), (0, ""))
        expected = [
            "apple 4",
            "{'fruit': 'apple', 'count': 4}",
            f"{address} has the fruit",
        ]
        self.assertEqual(out.splitlines(), expected)
        out, err, status = await self.python(program, address, ca, TXTLSMC_PASSWORD="wrong")
        self.assertEqual(status, 1)
        self.assertIn("PartialResult", err)
        self.assertIn("refuses the user name or the password", err)

    async def test_howto_styles(self) -> None:
        """A coroutine, a generator and a thread each read what they wrote."""
        address, ca = await self.serve(None)
        out, err, status = await self.python(str(DOCS / "howto" / "styles.py"), address, ca)
        self.assertEqual((out.split(), status), (["coroutine", "generator", "thread"], 0), err)

    async def test_howto_testing(self) -> None:
        """The tests of the guide to testing pass."""
        folder = os.path.abspath(self.mktemp())
        out, err, status = await self.python(
            *("-m", "twisted.trial", f"--temp-directory={folder}"),
            str(DOCS / "howto" / "test_visits.py"),
        )
        self.assertEqual(status, 0, out + err)
        self.assertIn("successes=1", out)
