"""Tests of `txtlsmc.tables`."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.refusals import RefusalTestCase
from tests.secrecy import USER, leaks, password
from txtlsmc.drafts import Draft
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import TLS, Backoff, ClientSettings, Credentials, Limits, Routing, Server
from txtlsmc.sources import SETTINGS, Given, Layer
from txtlsmc.tables import table_layer

PIN = "0123456789abcdef" * 4

quickly = settings(deadline=None, database=None, max_examples=300)

#: Text that looks like TOML every now and then.
toml_like = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "servers = ['mc1']\n",
                    "[tls]\n",
                    "[routing.backoff]\n",
                    "[limits]\n",
                    "[[tls]]\n",
                ),
                *("timeout = 2\n", "ca = 'x'\n", "first = 1\n", "[", "]", "{", "}", "=", "\n", '"'),
                *(
                    "tls.ca = 1\n",
                    "routing = {",
                    "'",
                    ".",
                    "#",
                    "1979-05-27",
                    "nan",
                    "\0",
                    "\ud800",
                ),
            ]
        ),
        st.text(max_size=3),
    ),
    max_size=10,
).map("".join)


def read(text: str) -> Layer:
    """Return what a file with *text* sets."""
    return table_layer(Given(text, "cache.toml"))


def with_password(before: str, behind: str = "") -> Layer:
    """Return what a file with the password between these sets."""
    return table_layer(Given(f"{before}{json.dumps(password())}{behind}", "cache.toml"))


def made(text: str) -> ClientSettings:
    """Return the settings that a file with *text* comes to."""
    draft = Draft()
    draft.add(read(text))
    return draft.settings("nowhere")


class KeyTests(RefusalTestCase):
    def test_every_key(self) -> None:
        """Each setting is a key, in a table that is called as the attribute it belongs to."""
        text = f"""
            servers = ["mc1", "mc2:1:2=127.0.0.1:5"]
            tls_port = 11219
            insecure_plaintext = false
            namespace = "app:"
            codec = "raw"

            [tls]
            ca = "ca.pem"
            client_certificate = "client.pem"
            pins = ["{PIN}"]
            server_name = "mc.example"
            minimum_version = "1.3"
            insecure_no_verify = false

            [credentials]
            username = "alice"
            password = "wonderland"
            mechanism = "CRAM-MD5"
            insecure_password = true

            [routing]
            scheme = "modula"
            on_failure = "rehash"
            partial = "return"
            eject_after = 3
            connections = 4
            handshakes = 5
            retry = false
            hash_namespace = true

            [routing.backoff]
            first = 6
            longest = 7
            wake_every = 8
            credentials = 9

            [limits]
            timeout = 10.5
            connect_timeout = 11
            max_pending = 12
            max_pending_bytes = 13
            max_body = 14
        """
        self.assertEqual(set(read(text)), set(SETTINGS))
        self.assertEqual(
            made(text),
            ClientSettings(
                servers=(Server("mc1", "mc1:11219"), Server("mc2:1:2", "127.0.0.1:5")),
                tls=TLS("ca.pem", "client.pem", (PIN,), "mc.example", "1.3"),
                credentials=Credentials("alice", "wonderland", "CRAM-MD5", True),
                routing=Routing(
                    "modula", "rehash", "return", 3, 4, 5, False, True, Backoff(6, 7, 8, 9)
                ),
                namespace=b"app:",
                codec="raw",
                limits=Limits(10.5, 11, 12, 13, 14),
            ),
        )

    def test_other_spellings(self) -> None:
        """TOML's ways to write a table are all the same."""
        for text in (
            "routing.backoff.first = 2",
            "[routing]\nbackoff = { first = 2 }",
            "[routing]\nbackoff.first = 2",
            "routing = { backoff = { first = 2 } }",
            "['routing'.\"backoff\"]\nfirst = 2",
        ):
            self.assertEqual(made(f"servers = 'mc1'\n{text}").routing.backoff, Backoff(first=2))

    def test_nothing(self) -> None:
        """An empty file sets nothing."""
        for text in ("", "# nothing\n", "[tls]\n[routing.backoff]\n"):
            self.assertEqual(read(text), {})

    def test_origin(self) -> None:
        """A value knows its file and its dotted key, and so an error of it does."""
        self.assertEqual(
            read("routing = {scheme = 'x'}")["routing"].origin, "cache.toml: routing.scheme"
        )
        for text, said in (
            ("limits.timeout = '2'", "limits.timeout: timeout must be seconds, above 0, not '2'"),
            ("limits.timeout = nan", "limits.timeout: timeout must be seconds"),
            ("limits.max_body = 1.0", "limits.max_body: max_body must be a whole number"),
            ("routing.retry = 1", "routing.retry: retry must be True or False"),
            ("routing.scheme = []", "routing.scheme: a routing scheme is one of"),
            ("tls.pins = 'x'", "tls.pins: pins are a tuple of strings, not str"),
            ("tls.insecure_no_verify = 'no'", "tls.insecure_no_verify: insecure_no_verify must be"),
            ("insecure_plaintext = 1", "insecure_plaintext: insecure_plaintext must be"),
            ("tls.ca = 1979-05-27", "tls.ca: ca is a path or PEM text"),
            ("servers = 5", "servers: servers are text or a list, not int"),
            ("servers = [5]", "servers: a server is text, not int"),
            ("[[servers]]\nname = 'mc1'", "servers: a server is text, not dict"),
            ("servers = []", "servers: there is no server in the list"),
            ("tls_port = '11219'", "tls_port: tls_port must be a number"),
            ("credentials.username = 5", "credentials.username: the user name must be text"),
            ("credentials.mechanism = []", "credentials.mechanism: the SASL mechanism is one of"),
        ):
            refusal = self.refused(made, text)
            self.assertTrue(refusal.startswith(f"cache.toml: {said}"), refusal)

    def test_unknown(self) -> None:
        """An unknown key is named with its table, and so are those that there are."""
        for text, key, known in (
            ("time_out = 1", "time_out", "servers, tls_port, "),
            ("[limits]\ntime_out = 1", "limits.time_out", "limits.timeout, limits.connect_timeout"),
            ("[routing.backoff]\nx = 1", "routing.backoff.x", "routing.backoff.first, "),
            ("[limit]\ntimeout = 1", "limit", "servers, tls_port, "),
            ("[limits.timeout]\nx = 1", None, None),
            ("'limits.timeout' = 1", "'limits.timeout'", "servers, tls_port, "),
            ('[tls]\n"c a" = 1', "tls.'c a'", "tls.ca, "),
            ("routing = {routing = 'x'}", "routing.routing", "routing.scheme, "),
            ("[[limits]]\ntimeout = 1", None, None),
        ):
            refusal = self.refused(made, text)
            if key is not None:
                begins = f"cache.toml: unknown key {key}; there are {known}"
                self.assertTrue(refusal.startswith(begins), refusal)

    def test_no_table(self) -> None:
        """What is a table holds keys."""
        for key in ("tls", "credentials", "routing", "routing.backoff", "limits"):
            said = self.refused(read, f"{key} = 'x'")
            self.assertEqual(
                said, f"cache.toml: {key} is a table: write [{key}], and its keys below"
            )

    def test_others(self) -> None:
        """Tables that somebody else reads are left alone; without that they are unknown."""
        text = Given("listen = 5\n[tunnel]\nmode = 'relay'\n[tunnel.x]\n[limits]\ntimeout = 1", "c")
        layer = table_layer(text, others=("tunnel", "listen"))
        self.assertEqual(list(layer), ["timeout"])
        said = self.refused(lambda: table_layer(text, others=("listen",)))
        self.assertTrue(said.startswith("c: unknown key tunnel; there are"), said)


class SyntaxTests(RefusalTestCase):
    def test_line(self) -> None:
        """What is no TOML is refused with the line, and in which words TOML puts it."""
        for text, said in (
            ("servers", "line 1: this is not TOML: Expected '=' after a key"),
            ("[tls]\nca = 'x'\nca = 'y'\n", "line 3: this is not TOML: Cannot overwrite a value"),
            ("\n\ntls = {", "line 3: this is not TOML: "),
            ("\n\ntls = {\n\n", "line 3: this is not TOML: "),
            ("[tls]\nca = x\n", "line 2: this is not TOML: Invalid value"),
            ("[tls]\nca = 'x\n'", "line 2: this is not TOML: "),
            ("alice:secret@mc1", "line 1: this is not TOML: "),
        ):
            refusal = self.refused(read, text)
            self.assertTrue(refusal.startswith(f"cache.toml, {said}"), refusal)
            self.assertNotIn("secret", refusal)

    def test_excess(self) -> None:
        """What is too much for the parser is refused as any mistake."""
        for text in ("x = " + "9" * 5000, "x = " + "[" * 100_000):
            self.assertEqual(self.refused(read, text), "cache.toml: a value in it can not be read")

    @quickly
    @given(toml_like)
    def test_any_text(self, text: str) -> None:
        """Any text is settings, or refused in words."""
        try:
            settings = made(text)
        except InvalidSetting as error:
            self.assertTrue(str(error))
        else:
            self.assertTrue(settings.servers)


class SecretTests(RefusalTestCase):
    def test_every_error(self) -> None:
        """Whatever is wrong with the file, the password in it stays unsaid."""
        begin = "servers = 'mc1'\n[credentials]\npassword = "
        for before, behind in (
            (begin, "x"),
            (begin, "\npassword = 'again'"),
            (begin, "\nx = 1"),
            (begin, "\n[tls]\nx = 1"),
            (begin, "\n[x"),
            (begin + "[", ""),
            ("tls = ", ""),
            ("x = ", ""),
            ("credentials = { password = ", ", password = 'again' }"),
            ("x = " + "[" * 5000, ""),
        ):
            self.refused(with_password, before, behind)

    def test_layer(self) -> None:
        """What was read does not show the password either."""
        layer = with_password(f"credentials.username = '{USER}'\ncredentials.password = ")
        self.assertEqual(leaks(repr(layer)), [])
        self.assertEqual(layer["password"].value, password())

    def test_halves(self) -> None:
        """Half of the credentials is refused, and both places for the other half are named."""
        self.assertEqual(
            self.refused(made, "servers = 'mc1'\ncredentials.username = 'alice'"),
            "cache.toml: credentials.username is given without a password: set"
            " credentials.password there, or TXTLSMC_PASSWORD",
        )
        self.assertEqual(
            self.refused(made, "servers = 'mc1'\ncredentials.password = 'x'"),
            "cache.toml: credentials.password is given without a user name: set"
            " credentials.username there, or TXTLSMC_USERNAME",
        )
