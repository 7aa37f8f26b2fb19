"""
Reads the settings that hold PEM text or say where it is.

It may be a private key, so none of it gets into an error, nor into a local variable of a function
that raises: a report with the locals of all functions on the way must not show it.  Whatever does
not look like PEM text or a path is not shown either, since it may be a key that was cut off.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL import crypto

from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import TLS

_C = TypeVar("_C")

_FOLDER_SUFFIXES = (".pem", ".crt")
_BLOCK = rb"-----BEGIN (%s)-----.*?-----END \1-----"
_CERTIFICATE = re.compile(_BLOCK % rb"(?:X509 |TRUSTED )?CERTIFICATE", re.DOTALL)
_CERTIFICATE_BEGINS = re.compile(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----")
_PRIVATE_KEY = re.compile(_BLOCK % rb"[A-Z0-9 ]*PRIVATE KEY", re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/=]{64}")  # many a path has such a run too
_NOT_SHOWN = "it is not shown, as it may be secret"


class _Pem:
    """PEM text, and the words that say where it came from; its repr shows only these."""

    def __init__(self, where: str, text: bytes) -> None:
        self.where, self._text = where, text

    def __repr__(self) -> str:
        return f"<PEM text: {self.where}>"

    def has_certificate(self) -> bool:
        return b" CERTIFICATE-----" in self._text

    def certificates(self, load: Callable[[bytes], _C]) -> list[_C]:
        """Return what *load* makes of each certificate, in the order of the text."""
        if not self.has_certificate():
            raise self.refused("no certificate in it")
        try:
            found = [load(one.group()) for one in _CERTIFICATE.finditer(self._text)]
        except (ValueError, crypto.Error):
            found = []
        if not found or len(found) != len(_CERTIFICATE_BEGINS.findall(self._text)):
            raise self.refused("a certificate in it can not be read, or is cut off")
        return found

    def private_key(self) -> Any:
        """Return the first private key, which may be of many classes."""
        if b"PRIVATE KEY-----" not in self._text:
            raise self.refused("no private key in it; it belongs behind the certificates")
        try:
            return load_pem_private_key(_first_key(self._text), None)
        except TypeError:
            problem = "is encrypted: decrypt it, as `openssl pkey -in FILE -out FILE` does"
        except (ValueError, UnsupportedAlgorithm):
            problem = "can not be read"
        raise self.refused(f"the private key in it {problem}")

    def refused(self, problem: str) -> InvalidSetting:
        """Return an error that names the setting, and the file if it is one."""
        return InvalidSetting(f"{self.where}: {problem}")


def load_trust_roots(tls: TLS) -> list[crypto.X509]:
    """
    Return the certificates that ``tls.ca`` holds or leads to.

    Raises:
        InvalidSetting: there is none, or one can not be read.
    """
    texts = _texts("ca", tls)
    if len(texts) > 1:  # a folder, in which a file of another kind does no harm
        texts = [text for text in texts if text.has_certificate()] or texts[:1]
    # OpenSSL reads them, and not cryptography: that refuses some roots that many systems have.
    return [one for text in texts for one in text.certificates(_load_root)]


def _load_root(block: bytes) -> crypto.X509:
    return crypto.load_certificate(crypto.FILETYPE_PEM, block)


def load_client_certificate(tls: TLS) -> tuple[list[x509.Certificate], Any]:
    """
    Return the certificate of ``tls.client_certificate`` with its chain, and the private key.

    Raises:
        InvalidSetting: one of them is missing, can not be read, or does not belong to the other.
    """
    text = _texts("client_certificate", tls)[0]
    certificates, key = text.certificates(x509.load_pem_x509_certificate), text.private_key()
    if _public(certificates[0]) != _public(key):
        raise text.refused("the private key in it is not that of the first certificate in it")
    return certificates, key


def _texts(setting: str, tls: TLS) -> list[_Pem]:
    found = _find(setting, getattr(tls, setting))
    if isinstance(found, str):
        raise InvalidSetting(f"{setting}: {found}")
    return found


def _find(setting: str, value: str | bytes) -> list[_Pem] | str:
    """Return what the value of *setting* is or leads to, or else what is wrong with it."""
    if b"-----BEGIN " in os.fsencode(value):
        return [_Pem(f"{setting}, as PEM text", os.fsencode(value))]
    path = os.fsdecode(value)
    if not path or "\n" in path or "\0" in path:
        return f"neither the path of a file nor PEM text; {_NOT_SHOWN}"
    try:
        if setting == "ca" and os.path.isdir(path):
            files = sorted(one for one in Path(path).iterdir() if one.suffix in _FOLDER_SUFFIXES)
            texts = [_file(setting, one) for one in files]
            return texts or f"no .pem or .crt file in the folder {path!r}"
        return [_file(setting, Path(path))]
    except OSError as error:
        file = os.fsdecode(error.filename or path)
        named = f"the file ({_NOT_SHOWN})" if _BASE64.search(file) else repr(file)
        return f"can not read {named}: {error.strerror}"


def _file(setting: str, path: Path) -> _Pem:
    return _Pem(f"{setting}, {str(path)!r}", path.read_bytes())


def _first_key(text: bytes) -> bytes:
    found = _PRIVATE_KEY.search(text)
    return found.group() if found else b""


def _public(owner: Any) -> bytes:
    """Return the public key of a certificate or of a private key."""
    encoded: bytes = owner.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
