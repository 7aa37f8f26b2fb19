"""Tests of `txtlsmc.settings`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from traceback import walk_tb
from types import FunctionType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import (
    DEFAULT_PORT,
    TLS,
    Address,
    Credentials,
    InsecurePlaintext,
    Limits,
    Server,
    is_ip_address,
)

PASSWORD = "correct horse 7"
PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIB\n-----END PRIVATE KEY-----"
PIN = "0123456789abcdef" * 4

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
        self.assertEqual(Server("mc1:11211:1"), Server("mc1:11211"))
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
        """A server is a value, equal to its like."""
        self.assertEqual(Server("mc1:11211:2"), Server("mc1:11211", weight=2))
        self.assertNotEqual(Server("mc1:11211"), Server("MC1:11211"))
        self.assertEqual(len({Server("mc1"), Server("mc1"), Server("mc2")}), 2)
        self.assertEqual(replace(Server("mc1"), weight=4), Server("mc1", weight=4))

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


class TLSTests(_Tests):
    def test_default(self) -> None:
        """Nothing said means verified, by what the platform trusts, TLS 1.2 at least."""
        tls = TLS()
        self.assertEqual((tls.ca, tls.client_certificate, tls.pins), (None, None, ()))
        self.assertEqual((tls.server_name, tls.minimum_version), (None, "1.2"))
        self.assertIs(tls.insecure_no_verify, False)

    def test_all(self) -> None:
        """All that can be set is kept."""
        tls = TLS("ca.pem", b"client.pem", (PIN,), "mc1.example", "1.3", True)
        self.assertEqual(
            (tls.ca, tls.client_certificate, tls.pins), ("ca.pem", b"client.pem", (PIN,))
        )
        self.assertEqual((tls.server_name, tls.minimum_version), ("mc1.example", "1.3"))
        self.assertIs(tls.insecure_no_verify, True)
        self.assertEqual(replace(TLS(ca="x"), server_name="::1"), TLS(ca="x", server_name="::1"))

    def test_minimum_version(self) -> None:
        """Older versions than 1.2 can not be had."""
        for version in ("1.1", "1.0", "1.4", "TLSv1.2", "", None, 1.2, ["1.2"]):
            said = self.refused(TLS, minimum_version=version)
            self.assertIn("one of 1.2, 1.3", said)

    def test_pins(self) -> None:
        """A pin may be written with colons and in capitals."""
        pairs = ":".join(PIN[i : i + 2].upper() for i in range(0, 64, 2))
        self.assertEqual(TLS(pins=(pairs, PIN)).pins, (PIN, PIN))
        self.assertEqual(TLS(pins=[PIN]).pins, (PIN,))  # type: ignore[arg-type] # lists are common

    def test_bad_pins(self) -> None:
        """A pin that can never match is refused, and so is one string for the tuple."""
        for pin in (
            "",
            PIN[:-1],
            PIN + "0",
            "g" + PIN[1:],
            PIN + "\n",
            " " + PIN,
            b"00" * 32,
            None,
        ):
            self.assertIn("64 hexadecimal digits", self.refused(TLS, pins=(PIN, pin)))
        for pins in (PIN, None, 5, {PIN: 1}, PIN.encode()):
            self.assertIn("a tuple of strings", self.refused(TLS, pins=pins))

    def test_sources(self) -> None:
        """An empty variable does not silently mean another trust, or no certificate."""
        for name in ("ca", "client_certificate"):
            for source in ("", b"", 5, True, object()):
                self.assertIn(f"{name} is a path or PEM text", self.refused(TLS, **{name: source}))

    def test_server_name(self) -> None:
        """The name to verify is one name, or one IP address, without a port."""
        for name in ("mc1.example", "192.0.2.1", "2001:db8::1", "bücher.example"):
            self.assertEqual(TLS(server_name=name).server_name, name)
        for bad in ("", " ", "mc1:11211", "[::1]", "a\0.example", "a b", "*.example", b"mc1", 5):
            self.assertIn("the server name", self.refused(TLS, server_name=bad))

    def test_insecure(self) -> None:
        """Verification is switched off by True, and by nothing that only looks like it."""
        for word in ("false", "no", "0", 1, 0, None, "True"):
            self.assertIn("must be True or False", self.refused(TLS, insecure_no_verify=word))

    def test_repr(self) -> None:
        """The private key is not shown."""
        self.assertNotIn("PRIVATE", repr(TLS(client_certificate=PRIVATE_KEY)))
        self.assertIn("ca.pem", repr(TLS(ca="ca.pem")))

    def test_plaintext(self) -> None:
        """No TLS is a word of its own."""
        self.assertEqual(InsecurePlaintext(), InsecurePlaintext())
        self.assertNotIsInstance(InsecurePlaintext(), TLS)


class CredentialsTests(_Tests):
    def test_all(self) -> None:
        """All that can be set is kept; PLAIN is the default, an open connection is not."""
        credentials = Credentials("alice", PASSWORD)
        self.assertEqual((credentials.username, credentials.password), ("alice", PASSWORD))
        self.assertEqual(credentials.mechanism, "PLAIN")
        self.assertIs(credentials.insecure_password, False)
        for mechanism in ("PLAIN", "CRAM-MD5", "SCRAM-SHA-256"):
            self.assertEqual(Credentials("a", "b", mechanism).mechanism, mechanism)
        self.assertIs(Credentials("a", "b", insecure_password=True).insecure_password, True)
        self.assertEqual(Credentials("bjørn", "пароль 🙂").password, "пароль 🙂")

    def test_mechanism(self) -> None:
        """A mechanism that is not there is refused, and those that are get listed."""
        for mechanism in ("plain", "", "LOGIN", "SCRAM-SHA-1", None, b"PLAIN", ["PLAIN"]):
            said = self.refused(Credentials, "alice", PASSWORD, mechanism)
            self.assertIn("one of PLAIN, CRAM-MD5, SCRAM-SHA-256", said)

    def test_user_name_and_password(self) -> None:
        """Both are text that can travel: an empty or half-read variable is found at once."""
        for bad in ("", "a\0b", "\udcff", "x\ud800y", "\udfff", None, b"secret", 5, ["x"]):
            self.assertIn("the user name must be text", self.refused(Credentials, bad, PASSWORD))
            self.assertIn("the password must be text", self.refused(Credentials, "alice", bad))

    def test_insecure(self) -> None:
        """The password goes over an open connection by True, and by nothing that looks like it."""
        for word in ("false", 1, None):
            said = self.refused(Credentials, "alice", PASSWORD, insecure_password=word)
            self.assertIn("must be True or False", said)

    def test_value(self) -> None:
        """Credentials are a value, equal to their like."""
        self.assertEqual(Credentials("a", "b"), Credentials("a", "b"))
        self.assertNotEqual(Credentials("a", "b"), Credentials("a", "c"))
        self.assertEqual(
            replace(Credentials("a", "b"), mechanism="CRAM-MD5"), Credentials("a", "b", "CRAM-MD5")
        )

    def test_repr(self) -> None:
        """The password is not shown, whatever shows the credentials."""
        credentials = Credentials("alice", PASSWORD)
        for text in (repr(credentials), str(credentials), f"{credentials}", repr([credentials])):
            self.assertNotIn(PASSWORD, text)
            self.assertIn("alice", text)


class SecretTests(_Tests):
    """No refusal tells a secret, not even in a traceback that shows the local variables."""

    def assert_untold(self, secret: str, call: Callable[[], object]) -> None:
        assert isinstance(call, FunctionType)
        error = self.assertRaises(InvalidSetting, call)
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        ours = frames[[frame.f_code for frame in frames].index(call.__code__) + 1 :]
        self.assertTrue(ours)
        said = [str(error), repr(error), repr(error.__context__), repr(error.__cause__)]
        said += [repr(value) for frame in ours for value in frame.f_locals.values()]
        for text in said:
            for told in (secret, repr(secret)[1:-1]):
                self.assertNotIn(told, text)

    def test_other_settings(self) -> None:
        """The password stays unsaid when it is another setting that is wrong."""
        self.assert_untold(PASSWORD, lambda: Credentials("alice", PASSWORD, "LOGIN"))
        self.assert_untold(PASSWORD, lambda: Credentials("", PASSWORD))
        insecure: Any = "yes"
        self.assert_untold(
            PASSWORD, lambda: Credentials("alice", PASSWORD, insecure_password=insecure)
        )

    def test_bad_password(self) -> None:
        """The password stays unsaid when it is itself what is wrong."""
        for unfit in ("\0", "\udcff"):
            self.assert_untold(PASSWORD, self._made_with(PASSWORD + unfit))

    def _made_with(self, password: str) -> Callable[[], Credentials]:
        return lambda: Credentials("alice", password)

    def test_private_key(self) -> None:
        """The private key stays unsaid when another setting of TLS is wrong."""
        self.assert_untold(
            PRIVATE_KEY, lambda: TLS(client_certificate=PRIVATE_KEY, minimum_version="1.1")
        )
        self.assert_untold(PRIVATE_KEY, lambda: TLS(client_certificate=PRIVATE_KEY, ca=""))


class FrozenTests(_Tests):
    def test_frozen(self) -> None:
        """No setting changes once it was checked, and none takes a misspelled one."""
        for made, name in (
            (Address("mc1", 1), "port"),
            (Server("mc1"), "weight"),
            (TLS(), "insecure_no_verify"),
            (Credentials("a", "b"), "password"),
            (Limits(), "timeout"),
        ):
            self.assertRaises(FrozenInstanceError, setattr, made, name, 2)
            self.assertFalse(hasattr(made, "__dict__"))
            self.assertEqual(len({made, replace(made)}), 1)


class LimitsTests(_Tests):
    def test_default(self) -> None:
        """Every bound is set, to what the documentation says."""
        limits = Limits()
        self.assertEqual((limits.timeout, limits.connect_timeout), (2.0, 5.0))
        self.assertEqual((limits.max_pending, limits.max_pending_bytes), (65_536, 64 * 2**20))
        self.assertEqual(limits.max_body, 32 * 2**20)

    def test_seconds(self) -> None:
        """Times are above 0 and end."""
        for name in ("timeout", "connect_timeout"):
            for seconds in (0.001, 1, 3600.0):
                named: dict[str, Any] = {name: seconds}
                self.assertEqual(getattr(Limits(**named), name), seconds)
            for bad in (0, 0.0, -1, -0.1, float("nan"), float("inf"), "2", None, True, [2], 2j):
                said = self.refused(Limits, **{name: bad})
                self.assertTrue(re.match(f"{name} must be seconds, above 0", said), said)

    def test_sizes(self) -> None:
        """Counts and sizes are whole numbers above 0."""
        for name in ("max_pending", "max_pending_bytes", "max_body"):
            self.assertEqual(getattr(replace(Limits(), **{name: 1}), name), 1)
            for bad in (0, -1, 1.5, 1.0, float("nan"), float("inf"), "9", None, True, b"9"):
                said = self.refused(Limits, **{name: bad})
                self.assertTrue(re.match(f"{name} must be a whole number above 0", said), said)
