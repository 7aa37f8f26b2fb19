"""Tests of `txtlsmc.servers`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import DEFAULT_PORT, Address, Server, is_ip_address, parse_servers

PASSWORD = "correct horse 7"

quickly = settings(deadline=None, database=None, max_examples=300)

#: What else than text an entry of a list could be.
NO_TEXT: tuple[Any, ...] = (None, b"mc1:11211", 11211, 1.5, [], ("mc1", 11211), object())

#: Text that looks like a server every now and then.
server_like = st.lists(
    st.one_of(
        st.sampled_from(
            [*"[]:=%@,;/\\ .-_\t\n\0", "::1", "unix:", "unix:/", "11211", "65536", "mc1", "é", "1"]
        ),
        st.text(max_size=3),
        st.integers(-1, 10**12).map(str),
    ),
    max_size=8,
).map("".join)


class _Tests(SynchronousTestCase):
    def refused(self, call: Callable[..., object], *arguments: Any, **named: Any) -> str:
        """Return in which words *call* is refused."""
        return str(self.assertRaises(InvalidSetting, call, *arguments, **named))


class AddressTests(_Tests):
    def test_forms(self) -> None:
        """A host, a port, an IPv6 address in brackets, the path of a Unix socket."""
        for text, address in {
            "mc1": Address("mc1", 11211),
            "mc1.example": Address("mc1.example", DEFAULT_PORT),
            "MC1.Example.:1": Address("MC1.Example.", 1),
            "my_host-2:65535": Address("my_host-2", 65535),
            "bücher.example:11219": Address("bücher.example", 11219),
            "192.0.2.1": Address("192.0.2.1", 11211),
            "192.0.2.1:11219": Address("192.0.2.1", 11219),
            "[::1]": Address("::1", 11211),
            "[2001:db8::1]:11219": Address("2001:db8::1", 11219),
            "[fe80::1%eth0]:11211": Address("fe80::1%eth0", 11211),
            "unix:/run/memcached.sock": Address(path="/run/memcached.sock"),
            "unix:/tmp/with space:1": Address(path="/tmp/with space:1"),
            "unix:/tmp/a@b": Address(path="/tmp/a@b"),
        }.items():
            self.assertEqual(Address.parse(text), address, text)

    def test_text(self) -> None:
        """An address reads as it would be written, the port included."""
        for text in ("mc1:11211", "[::1]:1", "192.0.2.1:65535", "unix:/run/memcached.sock"):
            self.assertEqual(str(Address.parse(text)), text)
            self.assertEqual(Address.parse(str(Address.parse(text))), Address.parse(text))
        self.assertEqual(str(Address.parse("[::1]")), "[::1]:11211")

    def test_no_address(self) -> None:
        """What is none of the forms is refused, and the forms are listed."""
        for text in (
            "",
            ":11211",
            "::1",
            "mc1:1:2:3",
            "a b",
            "mc1/x",
            "[::1",
            "[::1]x",
        ):
            self.assertIn("write HOST:PORT, HOST:PORT:WEIGHT", self.refused(Address.parse, text))
        self.refused(Address.parse, "http://mc1")

    def test_host(self) -> None:
        """A name holds nothing that could end it somewhere else: no list, no NUL, no line break."""
        for host in ("a,b", "a;b", "a=b", "a\0.example", "a\x7f", "a?b", "a%b", "a\u200bb", "a\\b"):
            self.assertIn(
                "neither a host name nor an IP address", self.refused(Address.parse, host)
            )
            self.refused(Address, host, 11211)
        for bad in ("", " ", "a\n", "[::1]", ":", "::g", "1:2", None, b"mc1", 5):
            self.refused(Address, bad, 11211)

    def test_ipv6(self) -> None:
        """In brackets there is an IPv6 address, and nothing else."""
        for text in ("[]", "[mc1]", "[127.0.0.1]:1", "[::g]:1", "[::1%]:1", "[fe80::1%a b]", "[:]"):
            self.assertIn("is no IPv6 address", self.refused(Address.parse, text))

    def test_port(self) -> None:
        """A port is a number from 1 to 65535, in plain digits."""
        for port in (
            "",
            "0",
            "65536",
            "-1",
            "+1",
            "1.5",
            "0x10",
            "x",
            "\uff11\uff11",
            " 1",
            "1 ",
            "9" * 5000,
        ):
            self.assertIn(
                "must be a number from 1 to 65535", self.refused(Address.parse, f"mc1:{port}")
            )
            self.assertIn("the port of", self.refused(Address.parse, f"[::1]:{port}"))
        for number in (0, -1, 65536, True, 1.0, "11211", None):
            self.assertIn("the port must be", self.refused(Address, "mc1", number))

    def test_weight(self) -> None:
        """What is dialled has no weight."""
        self.assertIn("no weight", self.refused(Address.parse, "mc1:11211:2"))

    def test_long_path(self) -> None:
        """The path of a Unix socket is no longer than the system takes."""
        self.assertEqual(len(Address.parse("unix:/" + "x" * 106).path), 107)
        for path in ("/" + "x" * 107, "/" + "é" * 54):
            self.assertRaises(InvalidSetting, Address.parse, f"unix:{path}")

    def test_unix(self) -> None:
        """The path of a socket begins at the root, and stands alone."""
        for text in ("unix:", "unix:run/x", "unix:./x", "unix:x:11211"):
            self.assertIn("must be absolute", self.refused(Address.parse, text))
        self.assertIn("no absolute path", self.refused(Address, path="run/x"))
        self.assertIn("no absolute path", self.refused(Address, path="/run/\0x"))
        self.assertIn("no absolute path", self.refused(Address, path=b"/run/x"))
        self.assertIn("without a host", self.refused(Address, "mc1", 0, "/run/x"))
        self.assertIn("without a host", self.refused(Address, "", 11211, "/run/x"))
        self.refused(Address)

    def test_no_text(self) -> None:
        """Another thing than text is refused as any mistake."""
        for thing in NO_TEXT:
            self.assertIn(type(thing).__name__, self.refused(Address.parse, thing))

    @quickly
    @given(server_like)
    def test_any_text(self, text: str) -> None:
        """Any text is an address that can be written and read again, or refused in words."""
        try:
            address = Address.parse(text)
        except InvalidSetting:
            return
        self.assertEqual(Address.parse(str(address)), address)
        self.assertTrue(bool(address.path) != bool(address.host and 0 < address.port < 65536))

    def test_is_ip_address(self) -> None:
        """An IP address is no name, whichever its version."""
        for host in ("127.0.0.1", "::1", "2001:db8::1", "fe80::1%eth0"):
            self.assertTrue(is_ip_address(host))
        for host in ("localhost", "127.1", "[::1]", "", "127.0.0.1.example", "1.2.3.4:5"):
            self.assertFalse(is_ip_address(host))


class ServerTests(_Tests):
    def test_name(self) -> None:
        """The name is kept as it was written, letter case included, and says what to dial."""
        for name in ("mc1", "MC1.example:11219", "[::1]:11211", "unix:/run/memcached.sock"):
            server = Server(name)
            self.assertEqual(server.name, name)
            self.assertEqual(str(server), name)
            self.assertEqual(server.address, Address.parse(name))
            self.assertEqual(server.identity, Address.parse(name))
            self.assertEqual(server.weight, 1)
            self.assertEqual(Server.parse(name), server)

    def test_weight(self) -> None:
        """A weight stands behind the port, or beside the name, and is no part of the name."""
        for server in (
            Server("mc1:11211:2"),
            Server("mc1:11211", weight=2),
            Server("mc1:11211:2", weight=2),
            Server.parse("mc1:11211:2"),
        ):
            self.assertEqual((server.name, server.weight), ("mc1:11211", 2))
            self.assertEqual(server.address, Address("mc1", 11211))
        server = Server("[::1]:11211:2147483647")
        self.assertEqual((server.name, server.weight), ("[::1]:11211", 2**31 - 1))
        server = Server("unix:/run/x", weight=3)
        self.assertEqual((server.name, server.weight), ("unix:/run/x", 3))
        self.assertEqual(Server("unix:/run/x:3").address, Address(path="/run/x:3"))

    def test_bad_weight(self) -> None:
        """A weight is a whole number above 0, and there is only one."""
        self.assertIn("two weights", self.refused(Server, "mc1:11211:2", weight=3))
        for weight in (0, -1, 2**31, 1.5, float("nan"), float("inf"), True, "2", [2]):
            self.assertIn("the weight of", self.refused(Server, "mc1", weight=weight))
        for text in ("", "0", "-1", "1.5", "x", "2147483648", "9" * 5000):
            self.assertIn("the weight of", self.refused(Server, f"mc1:11211:{text}"))

    def test_address(self) -> None:
        """What is dialled can be something else than what the name says."""
        for server in (
            Server("mc1.example:11211", address="127.0.0.1:11219"),
            Server("mc1.example:11211", Address("127.0.0.1", 11219)),
            Server.parse("mc1.example:11211=127.0.0.1:11219"),
            Server.parse("  mc1.example:11211=127.0.0.1:11219\n"),
        ):
            self.assertEqual(server.name, "mc1.example:11211")
            self.assertEqual(server.identity, Address("mc1.example", 11211))
            self.assertEqual(server.address, Address("127.0.0.1", 11219))
        server = Server.parse("mc1:11211:5=unix:/run/a=b@c")
        self.assertEqual((server.name, server.weight), ("mc1:11211", 5))
        self.assertEqual(server.address, Address(path="/run/a=b@c"))

    def test_bad_address(self) -> None:
        """Both sides of the '=' are there, and well formed."""
        self.assertIn("no address behind the '='", self.refused(Server.parse, "mc1="))
        for text in ("", " ", "=", "=mc1", "mc1=:1", "mc1=mc2:11211:2", "mc1=mc2=mc3", "=="):
            self.refused(Server.parse, text)
        self.refused(Server, "mc1", "")
        self.refused(Server, "mc1=mc2")
        for thing in (*NO_TEXT[1:], True):
            self.refused(Server, "mc1", thing)

    def test_list(self) -> None:
        """A whole list is no server."""
        for text in ("mc1:11211,mc2:11211", "mc1,mc2", "mc1;mc2", "mc1 mc2", "mc1:1 mc2:1"):
            self.refused(Server, text)
            self.refused(Server.parse, text)

    def test_password(self) -> None:
        """A password in the name is refused, and no part of it is repeated."""
        for text in (
            f"alice:{PASSWORD}@mc1:11211",
            f"alice:{PASSWORD}@mc1=",
            f"alice:a=b{PASSWORD}@mc1",
            f"mc1=alice:{PASSWORD}@mc1",
            f"memcached://alice:{PASSWORD}@mc1",
        ):
            for make in (Server.parse, Server):
                said = self.refused(make, text)
                self.assertIn("credentials", said)
                self.assertNotIn("horse", said)
                self.assertNotIn("alice", said)

    def test_no_text(self) -> None:
        """Another thing than text is refused as any mistake."""
        for thing in NO_TEXT:
            self.assertIn(type(thing).__name__, self.refused(Server, thing))
            self.assertIn(type(thing).__name__, self.refused(Server.parse, thing))

    def test_value(self) -> None:
        """A server is a value: equal to its like, and it can not be changed."""
        self.assertEqual(Server("mc1:11211:2"), Server("mc1:11211", weight=2))
        self.assertNotEqual(Server("mc1:11211"), Server("MC1:11211"))
        self.assertEqual(len({Server("mc1"), Server("mc1"), Server("mc2")}), 2)
        self.assertEqual(replace(Server("mc1"), weight=4), Server("mc1", weight=4))
        with self.assertRaises(FrozenInstanceError):
            Server("mc1").weight = 2  # type: ignore[misc] # that it is frozen is what this shows

    @quickly
    @given(server_like)
    def test_any_text(self, text: str) -> None:
        """Any text is a server whose name means the same again, or refused in words."""
        try:
            server = Server.parse(text)
        except InvalidSetting as error:
            self.assertTrue(str(error))
            return
        self.assertEqual(Server(server.name, server.address, server.weight), server)
        self.assertTrue(1 <= server.weight < 2**31)
        if not server.name.startswith("unix:"):
            self.assertTrue(server.name.isprintable())


class ParseServersTests(_Tests):
    def test_text(self) -> None:
        """One text holds a list: commas, semicolons and white space separate."""
        expected = (Server("mc1:11211"), Server("mc2:11219", weight=2), Server("[::1]"))
        for text in (
            "mc1:11211,mc2:11219:2,[::1]",
            "mc1:11211;mc2:11219:2;[::1]",
            "mc1:11211 mc2:11219:2\t[::1]\n",
            " ,mc1:11211, ;mc2:11219:2,,[::1];",
        ):
            self.assertEqual(parse_servers(text), expected)

    def test_port(self) -> None:
        """A port that is missing is 11211."""
        self.assertEqual(parse_servers("mc1")[0].identity, Address("mc1", 11211))

    def test_list(self) -> None:
        """A list has one server in each entry, as text or ready made."""
        ready = Server("mc2", address="127.0.0.1:1")
        self.assertEqual(
            parse_servers(["mc1=mc9:5", ready, "unix:/with space,and;more"]),
            (Server("mc1", "mc9:5"), ready, Server("unix:/with space,and;more")),
        )
        self.assertEqual(parse_servers((ready,)), (ready,))

    def test_order_and_duplicates(self) -> None:
        """The order is kept, and the same server twice is two nodes."""
        names = [server.name for server in parse_servers("b,a,b,a")]
        self.assertEqual(names, ["b", "a", "b", "a"])

    def test_none(self) -> None:
        """A list without a server is refused."""
        lists: tuple[Any, ...] = ("", " ", ",;\n", [], ())
        for nothing in lists:
            self.assertIn("no server in the list", self.refused(parse_servers, nothing))

    def test_no_list(self) -> None:
        """What has no order, or is no list of text, is refused."""
        for thing in (None, b"mc1", bytearray(b"mc1"), {"mc1"}, {"mc1": 1}, 5, Server("mc1")):
            said = self.refused(parse_servers, thing)
            self.assertIn(f"text or a list, not {type(thing).__name__}", said)
        for thing in NO_TEXT:
            self.refused(parse_servers, ["mc1", thing])

    def test_bad_entry(self) -> None:
        """One bad entry spoils the list."""
        self.assertIn("'mc2:x'", self.refused(parse_servers, "mc1,mc2:x"))
        self.assertIn("'mc1:1 mc2:1'", self.refused(parse_servers, ["mc1:1 mc2:1"]))
        said = self.refused(parse_servers, f"mc1,alice:{PASSWORD.replace(' ', '')}@mc2")
        self.assertIn("credentials", said)
        self.assertNotIn("horse", said)

    def test_tls_port(self) -> None:
        """Another port of the same host is dialled; name and weight stay."""
        servers = parse_servers(["MC1.example", "mc2:11211:3", Server("[::1]:5")], tls_port=11219)
        self.assertEqual(
            [(server.name, str(server.address), server.weight) for server in servers],
            [
                ("MC1.example", "MC1.example:11219", 1),
                ("mc2:11211", "mc2:11219", 3),
                ("[::1]:5", "[::1]:11219", 1),
            ],
        )

    def test_tls_port_and_address(self) -> None:
        """An entry that says what to dial keeps that."""
        entries: list[str | Server] = [
            "mc1=mc9:5",
            "mc1:11211=mc1:11211",
            Server("mc1", "unix:/x"),
            "unix:/x=mc1",
        ]
        self.assertEqual(parse_servers(entries, tls_port=11219), parse_servers(entries))

    def test_tls_port_and_socket(self) -> None:
        """A Unix socket has no port."""
        said = self.refused(parse_servers, ["mc1", "unix:/x"], tls_port=11219)
        self.assertIn("tls_port is for hosts, and 'unix:/x' is a Unix socket", said)

    def test_bad_tls_port(self) -> None:
        """It is a port."""
        for port in (0, 65536, -1, True, "11219", 1.0):
            said = self.refused(parse_servers, "mc1", tls_port=port)
            self.assertIn("tls_port must be a number from 1 to 65535", said)
