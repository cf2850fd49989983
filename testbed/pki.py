"""The certificates of a cluster: one authority, one server certificate, those of clients, keys for service accounts."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_NEW_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificates:
    """Files below one directory, made by openssl when they are not there."""

    def __init__(self, directory: Path) -> None:
        """Nothing is made yet."""
        self.directory = directory
        self.ca = directory / "ca.crt"
        self.ca_key = directory / "ca.key"
        self.server = directory / "apiserver.crt"
        self.server_key = directory / "apiserver.key"
        self.service_accounts = directory / "sa.key"

    def make(self, addresses: Iterable[str]) -> None:
        """Make what is missing; the server's certificate holds these addresses and the usual names."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.service_accounts.exists():
            _openssl("genrsa", "-out", self.service_accounts, "2048")
        if not self.ca.exists():
            _self_signed(self.ca, self.ca_key)
        if not self.server.exists():
            self._server(addresses)

    def client(self, name: str, *, group: str) -> tuple[Path, Path]:
        """Certificate and key of a client, signed by the authority; made once."""
        stem = name.replace(":", "-")
        key, request, certificate = (self.directory / f"{stem}.{suffix}" for suffix in ("key", "csr", "crt"))
        if not certificate.exists():
            self._sign(request, certificate, key=key, subject=f"/O={group}/CN={name}")
        return certificate, key

    def _server(self, addresses: Iterable[str]) -> None:
        request, extensions = self.directory / "apiserver.csr", self.directory / "apiserver.ext"
        hosts = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        alternatives = [f"DNS:{name}" for name in hosts] + [f"IP:{address}" for address in addresses]
        extensions.write_text(f"subjectAltName={','.join(alternatives)}\n")
        subject, options = "/CN=kube-apiserver", ("-extfile", extensions)
        self._sign(request, self.server, *options, key=self.server_key, subject=subject)

    def _sign(self, request: Path, certificate: Path, *options: str | Path, key: Path, subject: str) -> None:
        _openssl("req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", subject)
        signer = ("-CA", self.ca, "-CAkey", self.ca_key, "-CAcreateserial", "-days", "365")
        _openssl("x509", "-req", "-in", request, "-out", certificate, *signer, *options)


def _self_signed(certificate: Path, key: Path) -> None:
    options = (*_NEW_KEY, "-days", "365", "-subj", "/CN=ollama-fleet-testbed")
    _openssl("req", "-x509", *options, "-keyout", key, "-out", certificate)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
