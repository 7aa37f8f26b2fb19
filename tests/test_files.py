"""Tests of `txtlsmc.files`."""

from __future__ import annotations

import os
from pathlib import Path

from tests.refusals import RefusalTestCase
from tests.secrecy import leaks, password
from txtlsmc.files import read_password_file, read_table_file
from txtlsmc.sources import Given, Layer


class FileTestCase(RefusalTestCase):
    """Tests that need files."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def write(self, data: bytes, mode: int = 0o600) -> str:
        """Return the path of a file with *data* in it."""
        path = self.folder / "file"
        path.write_bytes(data)
        path.chmod(mode)
        return str(path)


class PasswordFileTests(FileTestCase):
    def read(self, path: str) -> Given:
        return read_password_file(path, "--password-file", "--username")

    def test_password(self) -> None:
        """The password is all that is in the file, but for the end of the line."""
        for data, text in (
            (b"wonderland", "wonderland"),
            (b"wonderland\n", "wonderland"),
            (b"wonderland\r\n", "wonderland"),
            (b" wonder land \n\n", " wonder land \n"),
            (b"a\nb\n", "a\nb"),
            ("wünder".encode(), "wünder"),
        ):
            path = self.write(data)
            given = self.read(path)
            self.assertEqual((given.value, given.beside), (text, "--username"))
            self.assertEqual(given.origin, f"--password-file {path}")

    def test_hidden(self) -> None:
        """What was read is not shown."""
        self.assertEqual(leaks(repr(self.read(self.write(password().encode())))), [])

    def test_exposed(self) -> None:
        """A file that others may read or change is refused, and the remedy is named."""
        for mode in (0o640, 0o620, 0o604, 0o602, 0o601, 0o644, 0o666):
            path = self.write(password().encode(), mode)
            self.assertEqual(
                self.refused(self.read, path),
                f"--password-file: others may read or change {path!r}: chmod 600",
            )
        for mode in (0o600, 0o400, 0o700):
            self.read(self.write(b"x", mode))

    def test_empty(self) -> None:
        """A file without a password is refused."""
        for data in (b"", b"\n", b"\r\n", b"\n\n"):
            path = self.write(data)
            self.assertEqual(
                self.refused(self.read, path), f"--password-file: there is no password in {path!r}"
            )

    def test_unreadable(self) -> None:
        """What can not be read is refused with the cause; the path may be the password itself."""
        for path, why in (
            (str(self.folder / "missing"), "can not read it: No such file or directory"),
            (str(self.folder), "can not read it: Is a directory"),
            ("", "can not read it: No such file or directory"),
            ("a\0b", "it is no text in UTF-8"),
            (self.write(b"\xff"), "it is no text in UTF-8"),
        ):
            self.assertEqual(self.refused(self.read, path), f"--password-file: {why}")

    def test_large(self) -> None:
        """A file that can be no password is not read to its end."""
        self.read(self.write(b"x" * 4096))
        self.assertEqual(
            self.refused(self.read, self.write(b"x" * 4097)),
            "--password-file: it has more than 4096 bytes",
        )
        self.refused(self.read, "/dev/zero")

    def test_secret(self) -> None:
        """Whatever is wrong with the file, what is in it stays unsaid."""
        for data in (b"%s\xff", b"%s" + b"x" * 4096):
            self.refused(lambda data: self.read(self.write(data % password().encode())), data)

    def test_pipe(self) -> None:
        """The password may come through a pipe, as the shell's <(command) makes one."""
        reading, writing = os.pipe()
        os.write(writing, b"wonderland\n")
        os.close(writing)
        self.addCleanup(os.close, reading)
        self.assertEqual(self.read(f"/dev/fd/{reading}").value, "wonderland")


class TableFileTests(FileTestCase):
    def read(self, path: str) -> Layer:
        return read_table_file(path, "--config", others=("tunnel",))

    def secret(self, mode: int, more: bytes = b"") -> Layer:
        before = b"[credentials]\npassword = '"
        return self.read(self.write(b"%s%s'\n%s" % (before, password().encode(), more), mode))

    def test_table(self) -> None:
        """A file of settings may be read by all, and may hold what others read."""
        path = self.write(b"codec = 'raw'\n[tunnel]\nmode = 'relay'", 0o644)
        layer = self.read(path)
        self.assertEqual(layer, {"codec": Given("raw", f"{path}: codec")})

    def test_password(self) -> None:
        """One with a password is for nobody else."""
        self.assertEqual(self.secret(0o600)["password"].value, password())
        for mode in (0o640, 0o604, 0o620):
            path = str(self.folder / "file")
            self.assertEqual(
                self.refused(self.secret, mode),
                f"{path}: credentials.password is secret, and others may read or change {path!r}:"
                " chmod 600",
            )

    def test_private_key(self) -> None:
        """So is one with a private key; the path of a key is no secret."""
        pem = b"tls.client_certificate = '''-----BEGIN %s-----\n-----END %s-----'''"
        key = pem % (b"PRIVATE KEY", b"PRIVATE KEY")
        self.read(self.write(key, 0o600))
        said = self.refused(self.read, self.write(key, 0o644))
        self.assertIn("tls.client_certificate is secret", said)
        self.read(self.write(pem % (b"CERTIFICATE", b"CERTIFICATE"), 0o644))
        self.read(self.write(b"tls.client_certificate = 'client.pem'", 0o644))

    def test_unreadable(self) -> None:
        """What can not be read is refused with its path and the cause."""
        missing = str(self.folder / "missing")
        for path, why in (
            (missing, "can not read it: No such file or directory"),
            (str(self.folder), "can not read it: Is a directory"),
            (self.write(b"\xff"), "it is no text in UTF-8"),
            ("/dev/zero", f"it has more than {2**20} bytes"),
        ):
            self.assertEqual(self.refused(self.read, path), f"--config {path}: {why}")

    def test_what_is_in_it(self) -> None:
        """What is wrong in it is refused with its path, without the password beside it."""
        path = str(self.folder / "file")
        for more, said in (
            (b"[", f"{path}, line 3: this is not TOML"),
            (b"[tls", f"{path}, line 3: this is not TOML"),
            (b"x = 1", f"{path}: unknown key credentials.x"),
        ):
            for mode in (0o600, 0o644):
                refusal = self.refused(self.secret, mode, more)
                self.assertTrue(refusal.startswith(said), refusal)
