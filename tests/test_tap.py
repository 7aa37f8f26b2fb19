"""Tests of `txtlsmc.tap`, and of the plugin that makes it known to twistd."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout  # `suppress` means something to trial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.application.service import IServiceMaker
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin, getPlugins
from twisted.python import usage
from twisted.trial.unittest import TestCase

from tests.refusals import RefusalTestCase
from tests.secrecy import USER, leaks, password
from tests.tunnel.echoing import EchoPassage
from tests.tunnel.talking import talk
from tests.tunnel.twistd import Twistd
from txtlsmc import __version__
from txtlsmc.errors import InvalidSetting
from txtlsmc.options import ClientOptions
from txtlsmc.settings import ClientSettings, Credentials, Server
from txtlsmc.tap import Options, makeService
from txtlsmc.tunnel.service import TunnelService
from txtlsmc.tunnel.settings import SETTINGS, TunnelLimits, TunnelSettings


def provided() -> dict[str, str]:
    """Return what a provider sets."""
    return {
        "MEMCACHIER_SERVERS": "mc1.example,mc2.example:11212",
        "MEMCACHIER_USERNAME": USER,
        "MEMCACHIER_PASSWORD": password(),
    }


def nothing() -> dict[str, str]:
    """Return an environment in which nothing is set."""
    return {}


class Parsed(Options):
    """The options, of a command line that is not complete by itself."""

    def postOptions(self) -> None:
        pass


class TapTestCase(RefusalTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def file(self, text: str, mode: int = 0o600) -> str:
        """Return the path of a file with *text* in it."""
        path = self.folder / "tunnel.toml"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def made(self, *words: str, environ: Callable[[], dict[str, str]] = nothing) -> TunnelSettings:
        """Return what a command line comes to."""
        options = Parsed()
        options.parseOptions(words)
        return options.tunnel_settings(environ())


class SettingsTests(TapTestCase):
    def test_provider(self) -> None:
        """A provider's variables are enough: there is a gateway for each of its servers."""
        settings = self.made(environ=provided)
        self.assertEqual([one.name for one in settings.client.servers], _names("mc1", "mc2"))
        self.assertEqual(settings.listen, ("127.0.0.1:11211", "127.0.0.1:11212"))
        self.assertEqual(settings.client.credentials, Credentials(USER, password()))
        self.assertEqual(settings, TunnelSettings(settings.client))

    def test_every_option(self) -> None:
        """Each option sets what it is called after."""
        settings = self.made(
            *("--server", "mc1", "--server", "mc2", "--listen", "unix:/b", "--listen", "[::]:5"),
            *("--listen-anywhere", "--mode", "relay", "--upstream-connections", "2"),
            *("--drain-seconds", "0", "--local-auth", "none", "--listen-certificate", "a.crt"),
            *("--listen-key", "a.key", "--listen-client-ca", "ca", "--log-format", "json"),
            *("--max-connections", "1", "--max-request", "2", "--window", "3"),
            *("--max-pending", "4", "--max-pending-bytes", "5", "--max-unread", "6"),
            *("--max-unread-in-all", "7", "--request-seconds", "8.5", "--stall-seconds", "9"),
            *("--idle-seconds", "10", "--relay-idle-seconds", "11", "--reserved-descriptors", "0"),
        )
        self.assertEqual(
            settings,
            TunnelSettings(
                ClientSettings((Server("mc1"), Server("mc2"))),
                *(("unix:/b", "[::]:5"), "relay", 2, 0, "none", True),
                *("a.crt", "a.key", "ca", "json"),
                TunnelLimits(1, 2, 3, 4, 5, 6, 7, 8.5, 9.0, 10.0, 11.0, 0),
            ),
        )
        options = Options()
        self.assertEqual({name.replace("_", "-") for name in SETTINGS} - {*options.docs}, set())

    def test_file(self) -> None:
        """The file has tables for the tunnel beside those of the client; the command line wins."""
        path = self.file(
            "servers = ['mc1', 'mc2']\n[limits]\ntimeout = 3\n[tunnel]\nlisten = '127.0.0.1:5'\n"
            "mode = 'relay'\ndrain_seconds = 1.5\nlimits.window = 7\nlimits.max_pending = 8\n"
        )
        settings = self.made("--config", path, "--mode", "gateway", "--window", "9")
        self.assertEqual(settings.listen, ("127.0.0.1:5", "127.0.0.1:6"))
        self.assertEqual((settings.mode, settings.drain_seconds), ("gateway", 1.5))
        self.assertEqual(settings.limits, TunnelLimits(window=9, max_pending=8))
        self.assertEqual(settings.client.limits.timeout, 3)
        each = self.file("servers = ['a', 'b']\ntunnel.listen = ['unix:/a', 'unix:/b']\n")
        self.assertEqual(self.made("--config", each).listen, ("unix:/a", "unix:/b"))

    def test_anew(self) -> None:
        """The same options can be read anew, after the file and the environment have changed."""
        path = self.file("servers = ['mc1']\n")
        options = Parsed()
        options.parseOptions(["--config", path])
        first = options.tunnel_settings({})
        self.file("servers = ['mc1', 'mc2']\n")
        second = options.tunnel_settings({"TXTLSMC_USERNAME": "u", "TXTLSMC_PASSWORD": "p"})
        self.assertEqual(len(first.listen), 1)
        self.assertEqual(len(second.listen), 2)
        self.assertEqual(second.client.credentials, Credentials("u", "p"))


def _names(*hosts: str) -> list[str]:
    return [f"{host}.example" if host == "mc1" else f"{host}.example:11212" for host in hosts]


class RefusalTests(TapTestCase):
    def test_command_line(self) -> None:
        """What is wrong on the command line is named by its option."""
        for words, given in {
            "--mode: mode is one of gateway, relay": ("--mode", "x"),
            "--window: must be a whole number": ("--window", "many"),
            "--window: window must be a whole number above 0": ("--window", "0"),
            "--drain-seconds: must be seconds": ("--drain-seconds", "-1"),
            "--listen: listen: write ADDRESS:PORT": ("--listen", "11211"),
            "--listen: 0.0.0.0:1 can be reached": ("--listen", "0.0.0.0:1"),
            "--listen: one for each server": ("--listen", "unix:/a", "--listen", "unix:/b"),
            "--local-auth: a relay does not": ("--mode", "relay", "--local-auth", "required"),
            "--listen-key: listen_key is the path": ("--listen-key", "-----BEGIN X-----"),
            "--listen-certificate: listen_certificate and": ("--listen-certificate", "a"),
            "--timeout: ": ("--timeout", "soon"),
        }.items():
            said = self.refused(self.made, "--server", "mc1", *given)
            self.assertTrue(said.startswith(words.partition(" and")[0]), said)

    def test_file(self) -> None:
        """What is wrong in the file is named by the file and its key."""
        for words, text in {
            "unknown key tunnel.mood; there are tunnel.listen, tunnel.mode": "tunnel.mood = 1",
            "unknown key tunnel.limits.wind": "[tunnel.limits]\nwind = 1",
            "tunnel.mode: mode is one of": "tunnel.mode = 'x'",
            "tunnel.limits.window: window must be": "tunnel.limits.window = '1'",
            "tunnel.limits is a table": "tunnel.limits = 5",
            "tunnel is a table": "tunnel = 5",
            "tunnel.listen: listen is text": "tunnel.listen = [5]",
            "tunnel.listen: 0.0.0.0:1 can be": "tunnel.listen = ['0.0.0.0:1']",
            "unknown key funnel": "funnel.mode = 'gateway'",
        }.items():
            path = self.file(f"servers = ['mc1']\n{text}\n")
            said = self.refused(self.made, "--config", path)
            self.assertTrue(said.startswith(path), said)
            self.assertIn(words, said)

    def test_readable(self) -> None:
        """A file with a secret is for nobody else to read."""
        text = f"servers = ['mc1']\n[credentials]\nusername = '{USER}'\npassword = 'wonderland'\n"
        path = self.file(text, 0o640)
        self.assertIn("is secret, and others may", self.refused(self.made, "--config", path))
        path = self.file("", 0o644)
        words = ("--server", "mc1", "--client-certificate", path)
        self.assertIn("client_certificate: others may", self.refused(self.made, *words))

    def test_not_of_the_tunnel(self) -> None:
        """It passes keys and values as they are, so what is done with them is no option of it."""
        for name in ("namespace", "codec", "routing"):
            self.assertNotIn(f"{name}=", Options().longOpt)
            self.assertIn(f"{name}=", ClientOptions().longOpt)

    def test_usage(self) -> None:
        """Whatever is wrong is a usage error, at once and in one line."""
        for given in (("--mood",), ("--mode", "x"), (), ("--server", "mc1", "extra")):
            options = Options()
            self.patch_environ(options)
            error = self.assertRaises(usage.UsageError, options.parseOptions, given)
            self.assertEqual(len(str(error).splitlines()), 1)

    def patch_environ(self, options: Options) -> None:
        self.patch(options, "tunnel_settings", lambda _: Options.tunnel_settings(options, {}))


class PrintTests(TapTestCase):
    def printed(self, *words: str, environ: Callable[[], dict[str, str]] = nothing) -> str:
        options = Options()
        made = Options.tunnel_settings
        self.patch(options, "tunnel_settings", lambda _: made(options, environ()))
        with redirect_stdout(StringIO()) as out:
            ended = self.assertRaises(SystemExit, options.parseOptions, ["--print-config", *words])
        self.assertEqual(ended.code, 0)
        return out.getvalue()

    def test_toml(self) -> None:
        """What is printed can be read as the file that would say the same."""
        words = ["--server", "mc1:5:2", "--server", "mc2=unix:/a", "--drain-seconds", "0"]
        words += ("--max-pending", "9", "--tls-port", "11219", "--pin", "ab" * 32)
        printed = self.printed(*words)
        path = self.file(printed)
        self.assertEqual(self.made("--config", path), self.made(*words))
        self.assertEqual(tomllib.loads(printed)["tunnel"]["limits"]["max_pending"], 9)

    def test_origins(self) -> None:
        """Beside each setting stands where it was given."""
        path = self.file("[tunnel]\nmode = 'relay'\n")
        printed = self.printed("--config", path, "--window", "5", environ=provided)
        for line in (
            f'username = "{USER}"  # from MEMCACHIER_USERNAME',
            f'mode = "relay"  # from {path}: tunnel.mode',
            "window = 5  # from --window",
            "upstream_connections = 1  # default",
            "# listen_key: not set",
        ):
            self.assertIn(f"\n{line}\n", printed)

    def test_secrets(self) -> None:
        """Passwords and private keys are hidden."""
        printed = self.printed(environ=provided)
        self.assertEqual(leaks(printed), [])
        self.assertIn('password = "(hidden)"', printed)
        key = "-----BEGIN PRIVATE KEY-----\\nMIIE\\n-----END PRIVATE KEY-----\\n"
        path = self.file(f'servers = ["mc1"]\n[tls]\nclient_certificate = "{key}"\n')
        printed = self.printed("--config", path)
        self.assertIn('client_certificate = "(hidden)"', printed)
        self.assertNotIn("MIIE", printed)

    def test_plaintext(self) -> None:
        """Without TLS there is nothing to say of it."""
        printed = self.printed("--server", "mc1", "--insecure-plaintext")
        self.assertIn("insecure_plaintext = true  # from --insecure-plaintext", printed)
        self.assertNotIn("[tls]", printed)
        self.assertNotIn("[credentials]", printed)


class ServiceTests(TapTestCase):
    def test_made(self) -> None:
        """The service has a passage for each server, and nothing is bound or dialled yet."""
        made: list[EchoPassage] = []

        def passage(*arguments: Any) -> EchoPassage:
            made.append(EchoPassage(*arguments))
            return made[-1]

        options = Options()
        options.parseOptions(["--server", "mc1", "--server", "mc2"])
        service = makeService(options, {"gateway": passage})
        assert isinstance(service, TunnelService)
        self.assertEqual([one.server.name for one in made], ["mc1", "mc2"])
        self.assertEqual([one.started for one in made], [0, 0])
        self.assertEqual(service.listeners, [])

    def test_twistd(self) -> None:
        """Below twistd a mistake ends the process, with one line instead of twistd's own help."""
        for words in (["--mood"], ["--server", "mc1", "--listen-key", "a"]):
            options = Options()
            options.parent = {}
            with redirect_stderr(StringIO()) as err:
                ended = self.assertRaises(SystemExit, options.parseOptions, words)
            self.assertEqual(ended.code, 64)
            self.assertRegex(err.getvalue(), r"\Atlsmc-tunnel: .*\n\Z")
        options = Options()
        options.parseOptions(
            ["--server", "mc1", "--listen-certificate", "/nowhere", "--listen-key", "/nowhere"]
        )
        self.assertRaises(InvalidSetting, makeService, options, {"gateway": EchoPassage})
        options.parent = {}
        with redirect_stderr(StringIO()):
            self.assertRaises(SystemExit, makeService, options, {"gateway": EchoPassage})

    def test_plugin(self) -> None:
        """Twistd knows the tunnel, and imports nothing of it before it is asked for."""
        makers: list[Any] = [
            one for one in getPlugins(IServiceMaker) if one.tapname == "tlsmc-tunnel"
        ]
        self.assertEqual(len(makers), 1)
        self.assertTrue(IPlugin.providedBy(makers[0]))
        self.assertEqual(makers[0].module, "txtlsmc.tap")
        self.assertIs(makers[0].options, Options)
        self.assertIs(makers[0].makeService, makeService)


class ProcessTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def twistd(self, *words: str, **more: Any) -> Twistd:
        process = Twistd(*words, **more)
        self.addCleanup(process.kill)
        return process

    async def test_help(self) -> None:
        """The help tells what it is for, and every option."""
        process = self.twistd("--help")
        self.assertEqual(await process.ended, 0)
        for name in SETTINGS:
            self.assertIn(f"--{name.replace('_', '-')}", process.out)
        self.assertIn("memcached clients of any language, unchanged", process.out)
        self.assertLess(max(map(len, process.out.splitlines())), 81)
        process = self.twistd("--version")
        self.assertEqual((await process.ended, process.out), (0, f"txtlsmc {__version__}\n"))

    async def test_mistake(self) -> None:
        """A mistake is told in one line, and the exit code says so."""
        process = self.twistd("--server", "mc1", "--mode", "x")
        self.assertEqual(await process.ended, 64)
        self.assertEqual(process.out, "")
        self.assertTrue(process.err.startswith("tlsmc-tunnel: --mode: "), process.err)

    async def test_life(self) -> None:
        """It listens, reads its file anew at SIGHUP, drains at SIGTERM, and says so as JSON."""
        config = self.folder / "tunnel.toml"
        config.write_text("servers = ['mc1']\n[tunnel]\nlisten = '127.0.0.1:0'\n")
        process = self.twistd("--config", str(config), "--log-format", "json")
        await process.line('"listening"')
        where = self.said(process)["listening"][0]["where"]
        made = await talk(where)
        await made.until(b"mc1\n")
        config.write_text(config.read_text().replace("['mc1']", "['mc1', 'mc2']"))
        process.signal("HUP")
        await process.line('"reloaded"')
        self.assertEqual(self.said(process)["listening"][1]["server"], "mc2")
        self.assertFalse(made.lost.called)
        process.signal("TERM")
        await made.lost
        self.assertEqual(await process.ended, -15)
        said = self.said(process)
        self.assertEqual(said["draining"][0]["connections"], 1)
        self.assertEqual(len(said["stopped"]), 1)

    async def test_daemon(self) -> None:
        """Without -n it goes to the background, writes its log to a file, and ends by a signal."""
        pid_file, log = self.folder / "twistd.pid", self.folder / "twistd.log"
        process = self.twistd(
            *("--server", "mc1", "--listen", "127.0.0.1:0"),
            options=(f"--pidfile={pid_file}", f"--logfile={log}", f"--rundir={self.folder}"),
        )
        self.assertEqual(await process.ended, 0, process.out + process.err)
        pid = int(pid_file.read_text())
        self.addCleanup(self._end, pid)
        listening = re.search(r"listening on (\S+) for mc1", log.read_text())
        assert listening is not None
        made = await talk(listening[1])
        await made.until(b"mc1\n")
        os.kill(pid, signal.SIGTERM)
        await made.lost
        while pid_file.exists():
            await deferLater(IReactorTime(reactor), 0.01)
        self.assertIn("ended: all connections are closed", log.read_text())

    def _end(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # as it should be
            os.kill(pid, signal.SIGKILL)

    @staticmethod
    def said(process: Twistd) -> dict[str, list[dict[str, Any]]]:
        """Return what was logged so far, by event; every line of it is JSON."""
        events: dict[str, list[dict[str, Any]]] = {}
        for line in process.out.split("\n")[:-1]:
            event = json.loads(line)
            events.setdefault(event["event"], []).append(event)
        return events

    async def test_systemd(self) -> None:
        """A socket that systemd has opened is used as it is, if only this machine reaches it."""
        for host, works in (("127.0.0.1", True), ("0.0.0.0", False)):
            with socket.socket() as opened:
                opened.bind((host, 0))
                opened.listen()
                process = self.twistd(
                    *("--server", "mc1", "--listen", "systemd:domain=INET:index=0"),
                    environ={"LISTEN_FDS": "1", "LISTEN_FDNAMES": "cache"},
                    descriptors={3: opened.fileno()},
                )
                if works:
                    await process.line("listening on 127.0.0.1:")
                    made = await talk(f"127.0.0.1:{opened.getsockname()[1]}")
                    await made.until(b"mc1\n")
                    process.signal("TERM")
                    await made.lost
                await process.ended
            self.assertEqual("set listen_anywhere" in process.out + process.err, not works)

    async def test_taken(self) -> None:
        """A port that somebody has is a mistake like others: one line, and the end."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            where = f"127.0.0.1:{taken.getsockname()[1]}"
            process = self.twistd("--server", "mc1", "--listen", where)
            self.assertEqual(await process.ended, 64)
        self.assertEqual(process.out, "")
        self.assertEqual(
            process.err,
            f"tlsmc-tunnel: listen: can not listen on {where}: somebody listens there already\n",
        )

    async def test_password(self) -> None:
        """The password is in nothing that the process says, or is called."""
        words = ("--server", "mc1", "--username", USER, "--listen", "127.0.0.1:0")
        process = self.twistd(*words, environ={"TXTLSMC_PASSWORD": password()})
        await process.line("listening on")
        process.signal("TERM")
        await process.ended
        self.assertEqual(leaks(process.out + process.err), [])
