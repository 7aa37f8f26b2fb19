"""Tests of `txtlsmc.tunnel.settings` and `txtlsmc.tunnel.addresses`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.refusals import RefusalTestCase
from tests.secrecy import credentials
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import ClientSettings, Server
from txtlsmc.tunnel.addresses import ListenAddress, one_for_each
from txtlsmc.tunnel.settings import SETTINGS, TunnelLimits, TunnelSettings, check


def client(servers: str = "mc1") -> ClientSettings:
    """Return settings of a client with credentials."""
    made: Any = servers
    return ClientSettings(made, credentials=credentials())


class AddressTests(RefusalTestCase):
    def test_forms(self) -> None:
        """A listener is written as an address and a port, as a path, or as systemd's socket."""
        for text, address in {
            "127.0.0.1:11211": ListenAddress("127.0.0.1", 11211),
            "localhost:1": ListenAddress("127.0.0.1", 1),
            "[::1]:0": ListenAddress("::1", 0),
            "tcp:127.0.0.2:5": ListenAddress("127.0.0.2", 5),
            "tcp:5:interface=127.0.0.1": ListenAddress("127.0.0.1", 5),
            "tcp:5:interface=\\:\\:1": ListenAddress("::1", 5),
            "tcp:5": ListenAddress("0.0.0.0", 5),
            "unix:/run/cache.sock": ListenAddress(path="/run/cache.sock"),
            "systemd:domain=INET:index=0": ListenAddress(systemd="systemd:domain=INET:index=0"),
            "systemd:UNIX:name=cache": ListenAddress(systemd="systemd:UNIX:name=cache"),
        }.items():
            self.assertEqual(ListenAddress.parse(text), address, text)
            self.assertEqual(ListenAddress.parse(str(address)), address, text)

    def test_refused(self) -> None:
        """What is none of these is refused, in words that say what to write."""
        for text, words in {
            "": "write ADDRESS:PORT",
            "11211": "write ADDRESS:PORT",
            "127.0.0.1": "write ADDRESS:PORT",
            "127.0.0.1:x": "write ADDRESS:PORT",
            "127.0.0.1:11211:2": "write ADDRESS:PORT",
            "mc1.example:11211": "an IP address of this machine",
            ":11211": "an IP address of this machine",
            "127.0.0.1:65536": "a port is at most 65535",
            "unix:relative": "must be absolute",
            "unix:/a:mode=666": "no more",
            "systemd:INET": "domain=INET:index=N",
            "systemd:domain=INET:index=x": "domain=INET:index=N",
            "ssl:443": "an IP address of this machine",
        }.items():
            said = self.refused(ListenAddress.parse, text)
            self.assertIn(words, said)
            self.assertIn("listen" if "absolute" not in words else "unix", said)
        self.assertIn("not int", self.refused(ListenAddress.parse, 11211))

    def test_local(self) -> None:
        """Loopback addresses and Unix sockets are for this machine only."""
        for text, local in {
            "127.0.0.1:1": True,
            "127.9.9.9:1": True,
            "[::1]:1": True,
            "unix:/a": True,
            "0.0.0.0:1": False,
            "tcp:1": False,
            "[::]:1": False,
            "10.0.0.1:1": False,
        }.items():
            self.assertIs(ListenAddress.parse(text).is_local, local, text)

    def test_counting_on(self) -> None:
        """From one base address there is a port for each server, in their order."""
        self.assertEqual(one_for_each("127.0.0.1:7", 3), tuple(f"127.0.0.1:{n}" for n in (7, 8, 9)))
        self.assertEqual(one_for_each(["[::1]:65535"], 1), ("[::1]:65535",))
        self.assertEqual(one_for_each("127.0.0.1:0", 2), ("127.0.0.1:0", "127.0.0.1:0"))
        said = self.refused(one_for_each, "127.0.0.1:65535", 2)
        self.assertIn("there is no port for each of 2 servers", said)

    def test_each(self) -> None:
        """Otherwise there is one text for each server, and no address twice."""
        texts = ["unix:/b", "127.0.0.1:5", "unix:/a"]
        self.assertEqual(one_for_each(texts, 3), tuple(texts))
        self.assertIn("3 servers, and 2 listeners", self.refused(one_for_each, texts[:2], 3))
        self.assertIn("2 servers, and 1 listeners", self.refused(one_for_each, "unix:/a", 2))
        self.assertIn("0 listeners", self.refused(one_for_each, [], 1))
        for text in ("unix:/a", "127.0.0.1:5", "systemd:INET:index=0"):
            self.assertIn("only once", self.refused(one_for_each, [text, text], 2))


class LimitsTests(RefusalTestCase):
    def test_default(self) -> None:
        """Every bound is set, but those on silence, which clients with a pool live on."""
        limits = TunnelLimits()
        self.assertEqual((limits.max_connections, limits.window), (1024, 128))
        self.assertEqual((limits.request_seconds, limits.stall_seconds), (30.0, 30.0))
        self.assertEqual((limits.idle_seconds, limits.relay_idle_seconds), (0.0, 0.0))

    def test_bad(self) -> None:
        """A bound that can not be is refused by its name."""
        for one in fields(TunnelLimits):
            for bad in (-1, "9", None, True, float("nan"), float("inf")):
                said = self.refused(lambda n=one.name, b=bad: TunnelLimits(**{n: b}))
                self.assertTrue(said.startswith(f"{one.name} must be "), said)

    def test_zero(self) -> None:
        """0 is for ever, or none, where that makes sense, and refused elsewhere."""
        allowed = {"idle_seconds", "relay_idle_seconds", "reserved_descriptors"}
        for one in fields(TunnelLimits):
            zero: dict[str, Any] = {one.name: 0}
            if one.name in allowed:
                self.assertEqual(getattr(TunnelLimits(**zero), one.name), 0)
            else:
                self.refused(lambda zero=zero: TunnelLimits(**zero))


class SettingsTests(RefusalTestCase):
    def test_default(self) -> None:
        """A client's settings are enough: a gateway on this machine only."""
        made = TunnelSettings(client("mc1,mc2"))
        self.assertEqual(made.listen, ("127.0.0.1:11211", "127.0.0.1:11212"))
        self.assertEqual((made.mode, made.upstream_connections), ("gateway", 1))
        self.assertEqual((made.drain_seconds, made.local_auth), (5.0, "none"))
        self.assertEqual((made.listen_anywhere, made.log_format), (False, "text"))
        self.assertEqual(replace(made, mode="relay").listen, made.listen)

    def test_exposed(self) -> None:
        """A listener that other machines reach needs a word of its own."""
        made = TunnelSettings(client(), listen=("0.0.0.0:1",), listen_anywhere=True)
        self.assertEqual(made.listen, ("0.0.0.0:1",))
        for text in ("0.0.0.0:1", "[::]:1", "tcp:1", "192.0.2.1:1"):
            said = self.refused(lambda text=text: TunnelSettings(client(), listen=(text,)))
            self.assertIn("set listen_anywhere", said)

    def test_bad(self) -> None:
        """Each setting that can not be is refused by its name."""
        for name, bad, words in (
            ("client", None, "client is a ClientSettings"),
            ("limits", 5, "limits is a TunnelLimits"),
            ("mode", "proxy", "mode is one of gateway, relay"),
            ("upstream_connections", 0, "upstream_connections must be a whole number"),
            ("drain_seconds", -1, "drain_seconds must be seconds"),
            ("drain_seconds", False, "drain_seconds must be seconds"),
            ("local_auth", True, "local_auth is one of none, required"),
            ("listen_anywhere", "no", "listen_anywhere must be True or False"),
            ("listen_certificate", "", "listen_certificate is the path"),
            ("listen_key", "-----BEGIN PRIVATE KEY-----", "listen_key is the path"),
            ("listen_client_ca", 5, "listen_client_ca is the path"),
            ("log_format", "xml", "log_format is one of text, json"),
        ):
            made: dict[str, Any] = {"client": client(), name: bad}
            self.assertIn(words, self.refused(lambda made=made: TunnelSettings(**made)))

    def test_together(self) -> None:
        """What goes together is given together."""
        cases: dict[str, dict[str, Any]] = {
            "go together": {"listen_certificate": "a"},
            "listen_key go together": {"listen_key": "a"},
            "listeners that speak TLS": {"listen_client_ca": "a"},
            "a relay does not look": {"mode": "relay", "local_auth": "required"},
            "there are no credentials": {
                "client": ClientSettings((Server("mc1"),)),
                "local_auth": "required",
            },
        }
        for words, given in cases.items():
            made: dict[str, Any] = {"client": client()} | given
            self.assertIn(words, self.refused(lambda made=made: TunnelSettings(**made)))

    def test_repr(self) -> None:
        """The password is not shown."""
        self.witness.seen.append(repr(TunnelSettings(client())))


class TableTests(SynchronousTestCase):
    def test_complete(self) -> None:
        """The table has every setting, with its default, where the TOML file has it."""
        rows = {name: (row.key, row.default) for name, row in SETTINGS.items()}
        made = TunnelSettings(client())
        expected: dict[str, Any] = {
            one.name: (f"tunnel.{one.name}", getattr(made, one.name))
            for one in fields(TunnelSettings)
            if one.name not in ("client", "limits")
        }
        expected |= {
            one.name: (f"tunnel.limits.{one.name}", getattr(made.limits, one.name))
            for one in fields(TunnelLimits)
        }
        self.assertEqual(rows, expected)

    def test_defaults(self) -> None:
        """Every default can be written, as text too, and is right."""
        for name, row in SETTINGS.items():
            check(name, row.default)
            if isinstance(row.default, (bool, int, float)):
                self.assertEqual(row.read(f"{row.default}".lower()), row.default)

    def test_bad_text(self) -> None:
        """Text that is no number is none."""
        for name in ("window", "drain_seconds", "listen_anywhere"):
            self.assertRaises(InvalidSetting, SETTINGS[name].read, "many")
