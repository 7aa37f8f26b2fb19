"""The lines of Python in the guides and in the README do what the text around them says."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

import txtlsmc
from txtlsmc.testing import Authority, IssuedCertificate, MemoryServer

ROOT = Path(txtlsmc.__file__).parent.parent
_BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:(?:   .*)?\n)+)", re.MULTILINE)
_NAME = re.compile(r"^(?:async def )?(\w+)(?: =|\()", re.MULTILINE)


class Vault:
    """A store of secrets, as the guide to changing a password asks one."""

    async def read(self, path: str) -> dict[str, str]:
        """Return what it holds under *path*."""
        return {"cache/alice": {"password": "wonderland"}}[path]


class SnippetTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.authority = Authority()
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.replaced: dict[str, str] = {}

    async def serve(self, users: dict[str, str] | None, *, tls: bool = True) -> MemoryServer:
        certificate: IssuedCertificate | None = self.authority.issue() if tls else None
        server = MemoryServer(reactor, users=users, certificate=certificate)
        await server.listen()
        self.addCleanup(server.stop)
        return server

    async def run_page(self, page: str, count: int, **names: Any) -> dict[str, Any]:
        """Run all blocks of a guide, one behind the other, and return the names they made."""
        blocks = _BLOCK.findall((ROOT / "docs" / "howto" / f"{page}.rst").read_text())
        self.assertEqual(len(blocks), count, f"the number of blocks in {page}")
        known = {name: getattr(txtlsmc, name) for name in txtlsmc.__all__}
        known |= {"reactor": reactor, "Deferred": Deferred, "password": "wonderland"} | names
        made: dict[str, Any] = {}
        for block in map(dedent, blocks):
            block = self.with_files(block)
            for text, instead in self.replaced.items():
                block = block.replace(text, instead)
            kept = "\n".join(f"made[{name!r}] = {name}" for name in _NAME.findall(block))
            exec(f"async def run():\n{indent(block + kept, '    ')}", known | {"made": made}, made)
            await made.pop("run")()
            for name in ("client", "connection"):
                if name in made:
                    self.addCleanup(made[name].close)
        return made

    def with_files(self, text: str) -> str:
        """Return *text* with its files in our folder, where they are made."""
        self.authority.write_to(self.folder)
        (self.folder / "client.pem").write_bytes(self.authority.client("alice").pem)
        text = re.sub(r'"(?:our-authority|ca)\.pem"', repr(str(self.folder / "ca.pem")), text)
        return text.replace('"client.pem"', repr(str(self.folder / "client.pem")))

    async def test_insecure(self) -> None:
        """What switches protections off does so, once it is written."""
        plain, secured = await self.serve(None, tls=False), await self.serve(None)
        self.replaced = {'"127.0.0.1:11211"': repr(str(plain.server))}
        made = await self.run_page("insecure", 3, server=str(secured.server))
        self.assertTrue(await made["connection"].noop())
        self.assertTrue(made["alice"].insecure_password)

    async def test_own_server(self) -> None:
        """A client for servers of one's own takes these settings, a client certificate too."""
        made = await self.run_page("own_server", 2)
        names = [node.server.name for node in made["client"].nodes()]
        self.assertEqual(names, ["cache1.example:11211", "cache2.example:11211"])
        txtlsmc.ReadyEndpoint(reactor, txtlsmc.Server("cache1.example"), tls=made["tls"])

    async def test_providers(self) -> None:
        """A provider's variables are all that is needed; MemCachier's TLS port is known."""
        for name, value in {
            "MEMCACHIER_SERVERS": "mc1.example.net:11211,mc2.example.net:11211",
            "MEMCACHIER_USERNAME": "alice",
            "MEMCACHIER_PASSWORD": "wonderland",
        }.items():
            os.environ[name] = value
            self.addCleanup(os.environ.pop, name, None)
        made = await self.run_page("providers", 1)
        servers = [node.server for node in made["client"].nodes()]
        self.assertEqual([server.address.port for server in servers], [11219, 11219])
        self.assertEqual(servers[1].name, "mc2.example.net:11211")

    async def test_rotation(self) -> None:
        """Credentials that are fetched log in."""
        server = await self.serve({"alice": "wonderland"})
        tls = txtlsmc.TLS(ca=self.authority.pem)
        made = await self.run_page(
            "rotation", 1, servers=str(server.server), tls=tls, vault=Vault()
        )
        self.assertTrue(await made["client"].set("key", "value"))

    async def test_readme(self) -> None:
        """The program of the README prints the value it stored, and what is wrong."""
        server = await self.serve({"alice": "the password"})
        (program,) = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        both = '"cache1.example:11211,cache2.example:11211"'
        self.assertIn(both, program)
        program = self.with_files(program.replace(both, repr(str(server.server))))
        for password, said in (("the password", "hello\n"), ("wrong", "not the cache we know")):
            file = self.folder / "program.py"
            file.write_text(program.replace('"the password"', repr(password)))
            path = os.pathsep.join([str(ROOT), *sys.path])
            out, err, status = await getProcessOutputAndValue(
                sys.executable, [str(file)], os.environ | {"PYTHONPATH": path}
            )
            self.assertEqual((status, err), (0, b""))
            self.assertTrue(out.decode().startswith(said), out)
