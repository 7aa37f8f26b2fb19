"""`tlsmc get`, `set`, `delete`, `stats` and `flush`: processes that ask an embedded server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.cli.processes import Command
from tests.cli.test_main import tlsmc
from tests.secrecy import USER, leaks, password, wrong_password
from txtlsmc import TLS, Credentials, MemcacheClient
from txtlsmc.testing import Authority, MemoryServer


class OperationTests(TestCase):
    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override] # trial waits for it
        self.authority = Authority()
        self.servers = []
        for _ in range(2):
            server = MemoryServer(
                reactor, users={USER: password()}, certificate=self.authority.issue()
            )
            self.addCleanup(server.stop)
            await server.listen()
            self.servers.append(server)
        Path(folder := self.mktemp()).mkdir(parents=True)
        self.ca = str(self.authority.write_to(folder))
        self.cache = MemcacheClient(
            reactor,
            [server.server for server in self.servers],
            tls=TLS(ca=self.ca),
            credentials=Credentials(USER, password()),
        )
        self.addCleanup(self.cache.close)

    def command(
        self,
        *words: str,
        secret: str | None = None,
        given: bytes = b"",
        terminal: bool = False,
        reads: bool = True,
        charset: str = "utf-8",
    ) -> Command:
        command = Command(
            *words,
            *(word for server in self.servers for word in ("--server", server.server.name)),
            environ={
                "TXTLSMC_CA": self.ca,
                "TXTLSMC_USERNAME": USER,
                "TXTLSMC_PASSWORD": secret or password(),
                "PYTHONIOENCODING": charset,
            },
            given=given,
            terminal=terminal,
            reads=reads,
        )
        self.addCleanup(command.kill)
        return command

    async def ran(self, *words: str, **how: Any) -> tuple[int, bytes, str]:
        command = self.command(*words, **how)
        code = await command.ended
        self.assertEqual(leaks(command.out + command.err), [])
        return code, command.written, command.err

    async def test_set_and_get(self) -> None:
        """What is set is got again, byte for byte and without anything more."""
        self.assertEqual(await self.ran("set", "greeting", "grüße"), (0, b"", ""))
        self.assertEqual(await self.cache.get("greeting"), "grüße")
        self.assertEqual(await self.ran("get", "greeting"), (0, "grüße".encode(), ""))

    async def test_standard_input(self) -> None:
        """A value of any bytes comes from the standard input, and goes to the standard output."""
        data = bytes(range(256)) + b"\n"
        self.assertEqual(await self.ran("set", "binary", "-", given=data), (0, b"", ""))
        self.assertEqual(await self.cache.get("binary"), data)
        self.assertEqual(await self.ran("get", "binary"), (0, data, ""))

    async def test_typed(self) -> None:
        """A number is stored as a number where --type says so."""
        ran = await self.ran("set", "n", "41", "--type", "int", "--json")
        self.assertEqual((ran[0], json.loads(ran[1])), (0, {"key": "n", "stored": True}))
        self.assertEqual(await self.cache.get("n"), 41)
        self.assertEqual(await self.cache.incr("n"), 42)

    async def test_expired(self) -> None:
        """An item with an exptime goes away."""
        self.assertEqual((await self.ran("set", "brief", "x", "--exptime", "1"))[0], 0)
        while await self.cache.get("brief") is not None:
            pass

    async def test_many(self) -> None:
        """Of several keys there is a line for each that is found; one that is not is told."""
        await self.cache.set_multi({"one": "1", "two": "a\tb\nc"})
        self.assertEqual(
            await self.ran("get", "one", "none", "two"),
            (1, b"one\t1\ntwo\ta\\tb\\nc\n", "tlsmc: none: not found\n"),
        )

    async def test_many_as_json(self) -> None:
        """JSON tells all of it, what was not found too, wherever --json stands."""
        await self.cache.set_multi({"one": b"\xff", "two": "2"})
        code, out, err = await self.ran("get", "one", "none", "two", "--json")
        self.assertEqual((code, err), (1, ""))
        self.assertEqual(
            json.loads(out),
            [
                {"key": "one", "found": True, "type": "bytes", "base64": "/w=="},
                {"key": "none", "found": False},
                {"key": "two", "found": True, "type": "str", "value": "2"},
            ],
        )

    async def test_delete(self) -> None:
        """What is deleted is gone; to delete what is not there ends with 1."""
        await self.cache.set("one", "1")
        self.assertEqual(
            await self.ran("delete", "one", "none"), (1, b"", "tlsmc: none: not found\n")
        )
        self.assertIsNone(await self.cache.get("one"))

    async def test_key_with_the_namespace(self) -> None:
        """If one key is too long with the namespace, nothing is deleted."""
        await self.cache.set("app:key", "value")
        code, _, err = await self.ran("delete", "key", "k" * 250, "--namespace", "app:")
        self.assertEqual(code, 64)
        self.assertIn("254 bytes", err)
        self.assertEqual(await self.cache.get("app:key"), "value")

    async def test_stats(self) -> None:
        """Each server's numbers are told, by its name."""
        code, out, err = await self.ran("stats", "--json")
        self.assertEqual((code, err), (0, ""))
        told = json.loads(out)
        self.assertEqual(set(told), {server.server.name for server in self.servers})
        code, out, err = await self.ran("stats", "settings")
        lines = [line.split("\t") for line in out.decode().splitlines()]
        self.assertIn([self.servers[1].server.name, "maxconns", "1024"], lines)

    async def test_no_such_stats(self) -> None:
        """A group of numbers that the servers do not have is told in one line."""
        code, out, err = await self.ran("stats", "nonsense")
        self.assertEqual((code, out), (1, b""))
        self.assertIn("no statistics 'nonsense'", err)
        self.assertEqual(len(err.splitlines()), 1)

    async def test_flush(self) -> None:
        """Where nobody can be asked, only --yes empties the cache."""
        await self.cache.set("key", "value")
        code, _, err = await self.ran("flush")
        self.assertEqual(code, 64)
        self.assertIn("say --yes", err)
        self.assertEqual(await self.cache.get("key"), "value")
        code, out, err = await self.ran("flush", "--yes", "--json")
        self.assertEqual((code, err), (0, ""))
        names = [server.server.name for server in self.servers]
        self.assertEqual(json.loads(out), {"flushed": names})
        self.assertIsNone(await self.cache.get("key"))

    async def test_flush_on_a_terminal(self) -> None:
        """On a terminal it asks, names the servers, and takes only a yes for one."""
        await self.cache.set("key", "value")
        command = self.command("flush", terminal=True, given=b"\n")
        self.assertEqual(await command.ended, 1)
        self.assertIn(self.servers[1].server.name, command.out)
        self.assertIn("nothing was done", command.out)
        self.assertEqual(await self.cache.get("key"), "value")
        self.assertEqual(await self.command("flush", terminal=True, given=b"y\n").ended, 0)
        self.assertIsNone(await self.cache.get("key"))

    async def test_get_on_a_terminal(self) -> None:
        """On a terminal the prompt comes on a line of its own behind the value."""
        await self.cache.set("key", "value")
        command = self.command("get", "key", terminal=True)
        self.assertEqual(await command.ended, 0)
        self.assertEqual(command.out, "value\r\n")

    async def test_wrong_password(self) -> None:
        """A wrong password is told as that, and soon."""
        code, out, err = await self.ran("get", "key", secret=wrong_password())
        self.assertEqual((code, out), (91, b""))
        self.assertIn("refuses the user name or the password", err)

    async def test_other_charset(self) -> None:
        """Where the output has no such characters, they are escaped."""
        await self.cache.set_multi({"one": "1", "two": "日本"})
        command = self.command("get", "one", "two", charset="latin-1")
        self.assertEqual((await command.ended, command.err), (0, ""))
        self.assertEqual(command.out, "one\t1\ntwo\t\\u65e5\\u672c\n")

    async def test_interrupted(self) -> None:
        """Ctrl-C ends it while it waits, with the status that shells know, and no traceback."""
        for server in self.servers:
            server.pause()
        connections = self.servers[0].connections
        command = self.command("set", "key", "value", "--timeout", "100")
        while self.servers[0].connections == connections:  # it is on its way
            await deferLater(reactor, 0.01)
        command.signal("INT")
        self.assertEqual((await command.ended, command.out, command.err), (130, "", ""))

    async def test_closed_pipe(self) -> None:
        """Whoever reads only the beginning of what is printed sees no traceback."""
        await self.cache.set("big", b"x" * 500_000)
        command = self.command("get", "big", reads=False)
        self.assertEqual((await command.ended, command.err), (141, ""))

    async def test_one_server_is_gone(self) -> None:
        """What the others have is told, and the cause of what is missing."""
        keys = [f"key{number}" for number in range(20)]
        await self.cache.set_multi(dict.fromkeys(keys, "value"))
        gone = self.servers[1]
        here = {key for key in keys if self.cache.node_for(key).place == 0}
        await gone.stop()
        code, out, err = await self.ran("get", *keys, "--json")
        self.assertEqual(code, 81)
        told = {row["key"]: row for row in json.loads(out)}
        self.assertEqual({key for key in keys if told[key].get("found")}, here)
        for key in set(keys) - here:
            self.assertIn("nobody listens", told[key]["error"])
        self.assertIn(gone.server.name, err)
        code, out, err = await self.ran("stats", "--json")
        self.assertEqual((code, list(json.loads(out))), (81, [self.servers[0].server.name]))
        self.assertEqual(len(err.splitlines()), 1)


class UsageTests(SynchronousTestCase):
    def setUp(self) -> None:
        for name in [name for name in os.environ if name.startswith(("TXTLSMC_", "MEMCACH"))]:
            self.addCleanup(os.environ.__setitem__, name, os.environ.pop(name))

    def test_wrong_command_lines(self) -> None:
        """What can not be right is refused before anybody is connected to."""
        here = ("--server", "127.0.0.1:1")
        for said, words in (
            ("which KEY", ["get", *here]),
            ("which KEY", ["delete", *here]),
            ("no server is named", ["get", "key"]),
            ("no server is named", ["stats"]),
            ("0x20", ["get", "a key", *here]),
            ("the key is empty", ["delete", "", *here]),
            ("251 bytes", ["get", "k" * 251, *here]),
            ("not 1 words", ["set", "key", *here]),
            ("put a value with blanks", ["set", "key", "two", "words", *here]),
            ("goes behind '--'", ["set", "key", "-5", *here]),
            ("--exptime wants", ["set", "key", "value", "--exptime", "soon", *here]),
            ("--type is one of", ["set", "key", "value", "--type", "float", *here]),
            ("not a decimal number", ["set", "key", "value", "--type", "int", *here]),
            ("not true or false", ["set", "key", "value", "--type", "bool", *here]),
            ("one ARGUMENT at most", ["stats", "a", "b", *here]),
            ("Wrong number", ["flush", "key", *here]),
        ):
            ran = tlsmc(*words)
            self.assertEqual((ran.code, ran.out), (64, ""), words)
            self.assertIn(said, ran.err)
            self.assertTrue(ran.err.endswith(f"Try 'tlsmc {words[0]} --help'.\n"))

    def test_help(self) -> None:
        """Each command's help says how it is called and what it takes."""
        for command in ("get", "set", "delete", "stats", "flush"):
            ran = tlsmc(command, "--help")
            self.assertTrue(ran.out.startswith(f"Usage: tlsmc {command} [options]"))
            self.assertIn("--json", ran.out)
            self.assertIn("--server", ran.out)
