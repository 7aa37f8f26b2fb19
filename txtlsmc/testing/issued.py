"""A certificate with its private key, and all the forms in which tests and programs want it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from OpenSSL.crypto import X509
from twisted.internet import ssl

from txtlsmc.errors import InvalidArgument

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class CertificateFiles(NamedTuple):
    """
    Where a certificate was written to.

    Attributes:
        chain: the PEM file with the certificate and the intermediate ones behind it.
        key: the PEM file with the private key, which only its owner can read.
    """

    chain: Path
    key: Path


@dataclass(frozen=True)
class IssuedCertificate:
    """
    A certificate with its private key.

    Attributes:
        certificate: itself.
        intermediates: those between it and the root, which is not among them.
        key: the private key.
    """

    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate alone."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        """The certificate, and behind it the intermediate ones: what a server sends."""
        chain = (self.certificate, *self.intermediates)
        return b"".join(one.public_bytes(Encoding.PEM) for one in chain)

    @property
    def key_pem(self) -> bytes:
        """The private key, not encrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def pem(self) -> bytes:
        """Chain and private key: what ``TLS(client_certificate=…)`` takes."""
        return self.chain_pem + self.key_pem

    @property
    def pin(self) -> str:
        """What ``TLS(pins=…)`` takes: the SHA-256 of the public key, in hexadecimal digits."""
        public_key = self.certificate.public_key()
        return sha256(
            public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).hexdigest()

    def write_to(self, folder: str | PathLike[str], name: str = "server") -> CertificateFiles:
        """
        Write the chain to ``NAME.crt`` and the private key to ``NAME.key``, with mode 600.

        Args:
            folder: exists already.
            name: of the files, without what is behind the dot.
        """
        files = CertificateFiles(Path(folder, f"{name}.crt"), Path(folder, f"{name}.key"))
        files.chain.write_bytes(self.chain_pem)
        # Never readable by others, not even for a moment, and not if the file was there before.
        descriptor = os.open(files.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(self.key_pem)
        return files

    def server_options(
        self,
        client_ca: bytes | None = None,
        *,
        minimum_version: str = "1.2",
        maximum_version: str | None = None,
    ) -> ssl.CertificateOptions:
        """
        Return the server side of TLS with this certificate, for any of Twisted's TLS listeners.

        Args:
            client_ca: the PEM of the authorities of which one must have issued the client's
                certificate; without it, none is asked for.
            minimum_version: ``"1.2"`` or ``"1.3"``.
            maximum_version: the same; the newest that there is by default.

        Returns:
            Options without a session cache: every connection shakes hands in full.

        Raises:
            InvalidArgument: a version is none of these, or the two are the wrong way round.
        """
        lowest, highest = _VERSIONS.get(minimum_version), _VERSIONS.get(maximum_version or "1.3")
        if lowest is None or highest is None or lowest > highest:
            raise InvalidArgument(
                f"there is no TLS version from {minimum_version} to {maximum_version};"
                f" known are {', '.join(_VERSIONS)}"
            )
        trusted = None
        if client_ca is not None:
            trusted = ssl.trustRootFromCertificates(
                ssl.Certificate(X509.from_cryptography(one))
                for one in x509.load_pem_x509_certificates(client_ca)
            )
        # Twisted's annotations still ask for pyOpenSSL's own classes, which pyOpenSSL deprecates.
        identity: dict[str, Any] = {
            "privateKey": self.key,
            "certificate": self.certificate,
            "extraCertChain": list(self.intermediates),
        }
        return ssl.CertificateOptions(
            **identity,
            trustRoot=trusted,
            raiseMinimumTo=lowest,
            lowerMaximumSecurityTo=highest,
        )
