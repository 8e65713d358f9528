"""TLS of the conductor's gRPC: the certificate is read again when its files change, for connections from then on."""

from __future__ import annotations

import ssl
import threading
import time
from pathlib import Path

import grpc

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StartError

CHECK_S = 1.0
"""How often, at most, the files are looked at when connections come."""
_log = logs.get(__name__)


class CertificateError(ValueError):
    """Files that cannot be used together; the message names the file and the remedy."""


class Certificate:
    """The certificate, its key, and the authorities of clients, as their files have them now."""

    def __init__(self, cert_file: Path, key_file: Path, client_ca_file: Path | None = None) -> None:
        """Read the files.

        Raises:
            StartError: One of them cannot be used.
        """
        self._files = (cert_file, key_file) if client_ca_file is None else (cert_file, key_file, client_ca_file)
        self._lock = threading.Lock()
        self._looked_at = time.monotonic()
        self._seen = _stamps(self._files)
        try:
            self._first = _read(*self._files)
        except CertificateError as error:
            raise StartError(str(error)) from None

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC serves with; it asks for what is new at each connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self.renewed,  # type: ignore[arg-type, unused-ignore]  # None is "no change", which the stubs do not know
            require_client_authentication=len(self._files) == 3,
        )

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files' content where it has changed since it was looked at last; None where it has not.

        Files that cannot be used leave all as it was, and are logged once: a certificate may be there before its key.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at < CHECK_S:
                return None
            self._looked_at = now
            stamps = _stamps(self._files)
            if stamps == self._seen:
                return None
            self._seen = stamps
            try:
                read = _read(*self._files)
            except CertificateError as error:
                _log.error("certificate_not_read", reason=str(error))
                return None
            _log.info("certificate_read", file=str(self._files[0]))
            return read


def _read(cert_file: Path, key_file: Path, client_ca_file: Path | None = None) -> grpc.ServerCertificateConfiguration:
    """What gRPC needs of the files, checked to belong together.

    Raises:
        CertificateError: They do not, or one cannot be used.
    """
    cert, key = _content("--tls-cert-file", cert_file), _content("--tls-key-file", key_file)
    roots = None if client_ca_file is None else _content("--tls-client-ca-file", client_ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=_text(cert))
    except (ssl.SSLError, ValueError):
        raise CertificateError(f"--tls-cert-file {str(cert_file)!r} is no certificate; give a PEM file") from None
    try:
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"is not the key of --tls-cert-file {str(cert_file)!r}; give the files that belong together"
        else:
            text = "is no key, or a password protects it; give a PEM file of the key alone"
        raise CertificateError(f"--tls-key-file {str(key_file)!r} {text}") from None
    except OSError as error:
        raise CertificateError(f"--tls-key-file {str(key_file)!r} cannot be read ({error.strerror})") from None
    if roots is not None:
        try:
            context.load_verify_locations(cadata=_text(roots))
        except (ssl.SSLError, ValueError):
            raise CertificateError(
                f"--tls-client-ca-file {str(client_ca_file)!r} has no certificate; give a PEM file of authorities"
            ) from None
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=roots)


def _content(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(
            f"{option} {str(path)!r} cannot be read ({error.strerror}); name a file that can"
        ) from None


def _text(pem: bytes) -> str:
    return pem.decode("ascii", errors="ignore")


def _stamps(files: tuple[Path, ...]) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when one of the files does."""
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
