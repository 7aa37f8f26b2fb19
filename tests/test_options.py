"""Tests of `txtlsmc.options`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from tests.refusals import RefusalTestCase
from tests.secrecy import USER, leaks, password, wrong_password
from txtlsmc.errors import InsecurePassword
from txtlsmc.options import ClientOptions
from txtlsmc.settings import (
    TLS,
    ClientSettings,
    Credentials,
    InsecurePlaintext,
    Limits,
    Routing,
    Server,
)

PIN = "0123456789abcdef" * 4


def provided(prefix: str = "MEMCACHIER") -> dict[str, str]:
    """Return what a provider sets."""
    return {
        f"{prefix}_SERVERS": "mc1",
        f"{prefix}_USERNAME": USER,
        f"{prefix}_PASSWORD": password(),
    }


def ours() -> dict[str, str]:
    """Return our own variables, with all that the tests below set otherwise."""
    return {
        "TXTLSMC_URL": "memcaches://mc2/?timeout=2&codec=raw",
        "TXTLSMC_USERNAME": USER,
        "TXTLSMC_PASSWORD": password(),
        "TXTLSMC_CA": "variable.pem",
    }


def nothing() -> dict[str, str]:
    """Return an environment in which nothing is set."""
    return {}


class OptionsTestCase(RefusalTestCase):
    """Tests of a command line, with an environment that is made where it is used."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def file(self, name: str, text: str, mode: int = 0o600) -> str:
        """Return the path of a file with *text* in it."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def made(self, *words: str, environ: Callable[[], dict[str, str]] = nothing) -> ClientSettings:
        """Return what a command line comes to."""
        options = ClientOptions()
        options.parseOptions(words)
        return options.client_settings(environ())


class OptionTests(OptionsTestCase):
    def test_every_option(self) -> None:
        """Each option sets what it is called after."""
        settings = self.made(
            *("--server", "mc1:1:2", "--server", "mc2=127.0.0.1:5", "--server=unix:/a,b=mc3"),
            *("--tls-port", "11219", "--ca", "ca.pem", "--client-certificate", "client.pem"),
            *("--pin", PIN, "--pin", PIN.upper(), "--server-name", "mc.example"),
            *("--minimum-version", "1.3", "--connect-timeout", "2.5"),
            *("--username", USER, "--routing", "modula", "--timeout", "0.5"),
            *("--namespace", "app:", "--codec", "raw", "--insecure-no-verify"),
            *("--insecure-password", "--password-file", self.file("password", f"{password()}\n")),
        )
        self.assertEqual(
            settings,
            ClientSettings(
                servers=(
                    Server("mc1:1:2", "mc1:11219"),
                    Server("mc2", "127.0.0.1:5"),
                    Server("unix:/a,b", "mc3"),
                ),
                tls=TLS("ca.pem", "client.pem", (PIN, PIN), "mc.example", "1.3", True),
                credentials=Credentials(USER, password(), insecure_password=True),
                routing=Routing("modula"),
                namespace=b"app:",
                codec="raw",
                limits=Limits(0.5, 2.5),
            ),
        )

    def test_defaults(self) -> None:
        """A server is enough."""
        self.assertEqual(self.made("--server", "mc1"), ClientSettings((Server("mc1"),)))

    def test_plaintext(self) -> None:
        """No TLS is a word of its own."""
        settings = self.made("--server", "mc1", "--insecure-plaintext")
        self.assertEqual(settings.tls, InsecurePlaintext())

    def test_duplicates(self) -> None:
        """The same server twice is two nodes, in the order of the command line."""
        settings = self.made("--server", "b", "--server", "a", "--server", "b")
        self.assertEqual([server.name for server in settings.servers], ["b", "a", "b"])

    def test_password(self) -> None:
        """The password comes from TXTLSMC_PASSWORD, or from a file."""

        def variable() -> dict[str, str]:
            return {"TXTLSMC_PASSWORD": password()}

        words = ("--server", "mc1", "--username", USER)
        self.assertEqual(
            self.made(*words, environ=variable).credentials, Credentials(USER, password())
        )
        path = self.file("password", wrong_password())
        settings = self.made(*words, "--password-file", path, environ=variable)
        self.assertEqual(settings.credentials, Credentials(USER, wrong_password()))

    def test_no_password_option(self) -> None:
        """There is no option for the password itself: it is taken for a path, and not repeated."""
        said = self.refused(self.made, "--server", "mc1", "--password", "wonderland")
        self.assertTrue(said.startswith("--password-file: can not read it: No such file"), said)

    def test_again(self) -> None:
        """The same options can be read anew, in another environment."""
        options = ClientOptions()
        options.parseOptions(["--username", USER, "--server", "mc1"])
        for word in ("one", "two"):
            settings = options.client_settings({"TXTLSMC_PASSWORD": word})
            self.assertEqual(settings.credentials, Credentials(USER, word))

    def test_two_command_lines(self) -> None:
        """One command line knows nothing of another."""
        self.made("--server", "mc1", "--pin", PIN)
        self.assertEqual(self.made("--server", "mc2"), ClientSettings((Server("mc2"),)))

    def test_silent(self) -> None:
        """Nothing is printed, whatever is wrong."""
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            self.made("--server", "mc1")
            self.refused(self.made, "--server", "x:x")
        self.assertEqual((out.getvalue(), err.getvalue()), ("", ""))

    def test_own_options(self) -> None:
        """A command adds options of its own."""

        class Own(ClientOptions):
            optFlags = [["json", None, "As JSON."]]  # noqa: RUF012 - the interface of usage.Options

        options = Own()
        options.parseOptions(
            ["--json", "--server", "mc1", "--from-environ", "--insecure-no-verify"]
        )
        self.assertTrue(options["json"])
        settings = options.client_settings({})
        self.assertEqual(settings.tls, TLS(insecure_no_verify=True))


class PrecedenceTests(OptionsTestCase):
    def config(self) -> str:
        return self.file(
            "cache.toml",
            "servers = ['mc3']\ncodec = 'bmemcached'\nnamespace = 'file:'\ntls.ca = 'file.pem'\n"
            "[limits]\ntimeout = 3\nconnect_timeout = 30\n"
            "[routing]\neject_after = 9\nscheme = 'modula'\n",
            0o644,
        )

    def test_file(self) -> None:
        """The file wins over the defaults."""
        settings = self.made("--config", self.config())
        self.assertEqual(settings.servers, (Server("mc3"),))
        self.assertEqual((settings.codec, settings.namespace), ("bmemcached", b"file:"))
        self.assertEqual(settings.limits, Limits(3, 30))
        self.assertEqual(settings.routing, Routing("modula", eject_after=9))
        self.assertEqual(settings.tls, TLS("file.pem"))

    def test_variables(self) -> None:
        """Our own variables win over the file."""
        settings = self.made("--config", self.config(), environ=ours)
        self.assertEqual(settings.servers, (Server("mc2"),))
        self.assertEqual((settings.codec, settings.namespace), ("raw", b"file:"))
        self.assertEqual(settings.limits, Limits(2, 30))
        self.assertEqual(settings.tls, TLS("variable.pem"))
        self.assertEqual(settings.credentials, Credentials(USER, password()))

    def test_command_line(self) -> None:
        """The command line wins over all."""
        settings = self.made(
            *("--config", self.config(), "--server", "mc4", "--timeout", "1", "--ca", "option.pem"),
            *("--username", "bob", "--routing", "ketama_md5"),
            environ=ours,
        )
        self.assertEqual(settings.servers, (Server("mc4"),))
        self.assertEqual((settings.codec, settings.namespace), ("raw", b"file:"))
        self.assertEqual(settings.limits, Limits(1, 30))
        self.assertEqual(settings.tls, TLS("option.pem"))
        self.assertEqual(settings.credentials, Credentials("bob", password()))
        self.assertEqual(settings.routing, Routing("ketama_md5", eject_after=9))

    def test_plaintext(self) -> None:
        """No TLS on the command line wins over an authority in the file."""
        settings = self.made("--config", self.config(), "--insecure-plaintext")
        self.assertEqual(settings.tls, InsecurePlaintext())
        said = self.refused(self.made, "--server", "mc1", "--insecure-plaintext", "--ca", "x")
        self.assertEqual(
            said,
            "--ca is about TLS, and --insecure-plaintext says that there is none: leave one of them"
            " out",
        )

    def test_other_tables(self) -> None:
        """The tunnel's part of the file is none of a client's business."""
        path = self.file("tunnel.toml", "servers = 'mc1'\n[tunnel]\nmode = 'relay'\n")
        self.assertEqual(self.made("--config", path), ClientSettings((Server("mc1"),)))


class ProviderTests(OptionsTestCase):
    MC1 = Server("mc1", "mc1:11219")

    def test_no_server_named(self) -> None:
        """Where no server is named a provider's variables are read."""
        settings = self.made(environ=provided)
        self.assertEqual(settings.servers, (self.MC1,))
        self.assertEqual(settings.credentials, Credentials(USER, password()))
        path = self.file("cache.toml", "tls.ca = 'file.pem'\ncredentials.username = 'bob'\n")
        settings = self.made("--config", path, "--timeout", "1", environ=provided)
        self.assertEqual(settings.servers, (self.MC1,))
        self.assertEqual(settings.credentials, Credentials(USER, password()))
        self.assertEqual(settings.tls, TLS("file.pem"))

    def test_server_named(self) -> None:
        """Where one is named, anywhere, a provider's password goes nowhere."""
        path = self.file("cache.toml", "servers = 'mc2'\n")
        for words, variables in (
            (("--server", "mc2"), {}),
            (("--config", path), {}),
            ((), {"TXTLSMC_URL": "memcaches://mc2"}),
        ):
            settings = self.made(
                *words,
                environ=lambda: {**provided(), **provided("MEMCACHE"), **variables},  # noqa: B023 - called at once
            )
            self.assertEqual(settings, ClientSettings((Server("mc2"),)))

    def test_from_environ(self) -> None:
        """With --from-environ they are read in any case, and win over the file."""
        path = self.file("cache.toml", "servers = 'mc2'\nlimits.timeout = 7\n")
        settings = self.made("--config", path, "--from-environ", environ=provided)
        self.assertEqual(settings.servers, (self.MC1,))
        self.assertEqual(settings.limits, Limits(7))

    def test_from_environ_and_servers(self) -> None:
        """With --from-environ the command line still wins: its servers, a provider's password."""
        settings = self.made("--from-environ", "--server", "mc1=127.0.0.1:5", environ=provided)
        self.assertEqual(settings.servers, (Server("mc1", "127.0.0.1:5"),))
        self.assertEqual(settings.credentials, Credentials(USER, password()))

    def test_tls_port(self) -> None:
        """Another port than the provider's usual one can be said anywhere."""
        path = self.file("cache.toml", "tls_port = 6\n")
        for words, port in ((["--tls-port", "5"], 5), (["--config", path], 6)):
            settings = self.made(*words, environ=provided)
            self.assertEqual(settings.servers, (Server("mc1", f"mc1:{port}"),))

    def test_choose(self) -> None:
        """Two providers are refused, with the option that chooses."""

        def two() -> dict[str, str]:
            return {**provided(), **provided("MEMCACHEDCLOUD")}

        for words in ((), ("--from-environ",), ("--from-environ", "--server", "mc1")):
            self.assertEqual(
                self.refused(lambda *words: self.made(*words, environ=two), *words),
                "MEMCACHIER_SERVERS and MEMCACHEDCLOUD_SERVERS are set: choose by"
                " --provider memcachier or --provider memcachedcloud",
            )
        self.assertEqual(
            self.made("--provider", "memcachedcloud", environ=two).servers, (Server("mc1"),)
        )

    def test_unknown(self) -> None:
        """A provider that is not known, or has set nothing, is refused by the option."""
        self.assertEqual(
            self.refused(lambda: self.made("--provider", "heroku", environ=provided)),
            "--provider heroku: there is no such provider, but memcachier, memcachedcloud,"
            " memcache",
        )
        self.assertEqual(
            self.refused(
                lambda: self.made("--provider", "memcache", "--server", "x", environ=provided)
            ),
            "--provider memcache is asked for, and MEMCACHE_SERVERS is not set",
        )

    def test_nowhere(self) -> None:
        """Without a server all is named that would do."""
        self.assertEqual(
            self.refused(self.made),
            "no server is named: give --server or --config, set TXTLSMC_URL, or one of"
            " MEMCACHIER_SERVERS, MEMCACHEDCLOUD_SERVERS, MEMCACHE_SERVERS",
        )


class RefusalTests(OptionsTestCase):
    def test_options(self) -> None:
        """What can not be right is refused by the name of the option."""
        for words, said in (
            (("--server", "mc1:x"), "--server: the port of 'mc1:x' must be"),
            (("--server", "mc1,mc2"), "--server: 'mc1,mc2' is neither a host name"),
            (("--server", ""), "--server: '' is no server"),
            (("--tls-port", "x"), "--tls-port: must be a whole number, not 'x'"),
            (("--tls-port", "0"), "--tls-port: tls_port must be a number from 1 to 65535, not 0"),
            (("--ca", ""), "--ca: ca is a path or PEM text"),
            (("--client-certificate", ""), "--client-certificate: client_certificate is a path"),
            (("--pin", "x"), "--pin: a pin has 64 hexadecimal digits"),
            (("--pin", PIN, "--pin", ""), "--pin: a pin has 64 hexadecimal digits"),
            (("--server-name", "a b"), "--server-name: the server name 'a b' is neither"),
            (("--username", ""), "--username: the user name must be text"),
            (("--routing", "x"), "--routing: a routing scheme is one of modula, modula_md5"),
            (("--timeout", "x"), "--timeout: must be seconds, such as 2 or 0.5, not 'x'"),
            (("--timeout", "0"), "--timeout: timeout must be seconds, above 0"),
            (("--namespace", "a b"), "--namespace: the namespace is at most"),
            (("--codec", "x"), "--codec: the codec is one of pylibmc"),
            (("--config", "missing"), "--config missing: can not read it: No such file"),
            (("--config", ""), "--config : can not read it: No such file"),
            (("--password-file", "missing"), "--password-file: can not read it: No such file"),
        ):
            refusal = self.refused(self.made, "--server", "mc1", *words)
            self.assertTrue(refusal.startswith(said), refusal)
        said = self.refused(self.made, "--server", "unix:/x", "--tls-port", "5")
        self.assertEqual(said, "--tls-port: tls_port is for hosts, and 'unix:/x' is a Unix socket")

    def test_halves(self) -> None:
        """Half of the credentials is refused, with what would be the other half."""
        words = ("--server", "mc1")
        self.assertEqual(
            self.refused(self.made, *words, "--username", "alice"),
            "--username is given without a password: set TXTLSMC_PASSWORD, or --password-file",
        )
        path = self.file("password", "wonderland")
        self.assertEqual(
            self.refused(self.made, *words, "--password-file", path),
            f"--password-file {path} is given without a user name: set --username, or"
            " TXTLSMC_USERNAME",
        )

    def test_key_on_the_command_line(self) -> None:
        """A private key on the command line is refused, and not repeated."""
        key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIB\n-----END PRIVATE KEY-----"
        said = self.refused(self.made, "--server", "mc1", "--client-certificate", key)
        self.assertTrue(said.startswith("--client-certificate wants the path of a file"))
        self.assertNotIn("MC4C", said)

    def test_risk(self) -> None:
        """A password wants verified TLS, or a word of its own."""
        words = ("--server", "mc1", "--username", USER)
        for insecure, way in (
            ("--insecure-plaintext", "without TLS"),
            ("--insecure-no-verify", "over TLS that verifies nobody"),
        ):
            said = self.refused(
                lambda insecure: self.made(
                    *words, insecure, environ=lambda: {"TXTLSMC_PASSWORD": password()}
                ),
                insecure,
                by=InsecurePassword,
            )
            self.assertTrue(said.startswith(f"TXTLSMC_PASSWORD: a password {way} can be stolen"))
            settings = self.made(
                *(*words, insecure, "--insecure-password"),
                environ=lambda: {"TXTLSMC_PASSWORD": password()},
            )
            self.assertIsNotNone(settings.credentials)

    def test_file(self) -> None:
        """What is wrong in the file is refused by the file and its key, or its line."""
        for text, said in (
            ("[limits]\ntimeout = 0\n", ": limits.timeout: timeout must be seconds, above 0"),
            ("[limits]\ntime = 1\n", ": unknown key limits.time; there are limits.timeout"),
            ("\nx = \n", ", line 2: this is not TOML"),
        ):
            path = self.file("cache.toml", text)
            refusal = self.refused(self.made, "--config", path)
            self.assertTrue(refusal.startswith(path + said), refusal)

    def test_exposed_file(self) -> None:
        """A file that holds a password is for nobody else."""
        path = self.file("cache.toml", f"credentials.password = '{wrong_password()}'", 0o644)
        said = self.refused(self.made, "--config", path)
        self.assertTrue(said.startswith(f"{path}: credentials.password is secret, and others may"))

    def test_secrets(self) -> None:
        """The password stays unsaid, whatever else is wrong and wherever it stood."""
        words = ("--server", "mc1", "--username", USER)
        path = self.file("password", password())
        config = self.file("cache.toml", f"credentials.password = '{wrong_password()}'")
        for wrong in (
            ("--timeout", "x"),
            ("--timeout", "0"),
            ("--routing", "x"),
            ("--server", "x:x"),
            ("--provider", "heroku"),
            ("--config", "missing"),
            ("--password-file", "missing"),
        ):
            for more in ((), ("--password-file", path), ("--config", config)):
                self.refused(lambda *words: self.made(*words, environ=ours), *words, *more, *wrong)

    def test_repr(self) -> None:
        """Neither the options nor what they come to show the password."""
        options = ClientOptions()
        path = self.file("password", password())
        options.parseOptions(["--server", "mc1", "--username", USER, "--password-file", path])
        self.assertEqual(leaks(repr(options.client_settings({})) + repr(options)), [])
