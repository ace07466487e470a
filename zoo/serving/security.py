"""Who may ask, and over what: certificates for both ports, and bearer tokens."""

from __future__ import annotations

import hashlib
import logging
import ssl
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ServingError

logger = logging.getLogger(__name__)
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Tls:
    """The certificates of a server.

    Attributes:
        certificate: PEM file with the server's certificate, and those that lead from it to its authority.
        key: PEM file with its private key, not encrypted.
        client_authority: PEM file with the authorities whose certificates clients must show, or None where they need not.

    Raises:
        ServingError: A file cannot be read, or key and certificate do not belong together.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def __post_init__(self) -> None:
        for name, path in (("certificate", self.certificate), ("key", self.key), ("certificates of client authorities", self.client_authority)):
            if path is not None and not path.is_file():
                raise ServingError(f"There is no file {path} with the server's {name}.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_refuse)
            if self.client_authority is not None:
                context.load_verify_locations(self.client_authority)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            files = ", ".join(str(path) for path in (self.certificate, self.key, self.client_authority) if path is not None)
            words = "the key does not belong to the certificate" if reason == "KEY_VALUES_MISMATCH" else f"{reason}"
            raise ServingError(f"TLS cannot be set up from {files}: {words}.") from None
        if self.expires < time.time():
            logger.warning(
                "The certificate %s expired on %s: clients will refuse it", self.certificate, time.strftime("%Y-%m-%d", time.gmtime(self.expires))
            )

    @property
    def expires(self) -> float:
        """When the certificate expires, in seconds since 1970."""
        found: dict[str, Any] = ssl._ssl._test_decode_cert(str(self.certificate))  # type: ignore[attr-defined]
        return ssl.cert_time_to_seconds(found["notAfter"])

    def for_uvicorn(self) -> dict[str, Any]:
        """Returns uvicorn's settings."""
        settings: dict[str, Any] = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        if self.client_authority is not None:
            settings |= {"ssl_ca_certs": str(self.client_authority), "ssl_cert_reqs": ssl.CERT_REQUIRED}
        return settings

    def for_grpc(self) -> Any:
        """Returns gRPC's credentials."""
        import grpc

        authority = None if self.client_authority is None else self.client_authority.read_bytes()
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], root_certificates=authority, require_client_auth=authority is not None)


def _refuse() -> str:
    raise ValueError("the key is encrypted, and a server has nobody to ask for its password")


class Tokens:
    """The bearer tokens that open the server: a line each in a file, which is read again when it changes.

    Args:
        path: The file. Empty lines, and lines that begin with `#`, do not count.

    Raises:
        ServingError: The file cannot be read, or holds no token.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("tokens").write_text("# for the shop\\nsecret\\n")
        >>> tokens = Tokens(Path("tokens"))
        >>> tokens.permits("Bearer secret"), tokens.permits("Bearer other"), tokens.permits(None)
        (True, False, False)
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._state: tuple[int, int] | None = None
        self._looked = float("-inf")
        self._digests: frozenset[bytes] = frozenset()
        try:
            self._read()
        except (OSError, UnicodeDecodeError) as error:
            raise ServingError(f"The tokens cannot be read from {path}: {getattr(error, 'strerror', None) or error}.") from None
        if not self._digests:
            raise ServingError(f"{path} holds no token. It takes one per line.")
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            logger.warning("%s can be read by other users of this machine: chmod 600 %s", path, path)

    def permits(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header holds a token. How long the answer takes tells nothing about the tokens: digests are compared."""
        scheme, _, token = (authorization or "").partition(" ")
        self._look()
        return scheme.lower() == "bearer" and hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest() in self._digests

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        with self._lock:
            self._looked = now
            try:
                self._read()
            except (OSError, UnicodeDecodeError) as error:  # those that were read last hold
                logger.warning("The tokens cannot be read again from %s: %s", self._path, error)

    def _read(self) -> None:
        about = self._path.stat()
        state = (about.st_mtime_ns, about.st_size)
        if state == self._state:
            return
        lines = (line.strip() for line in self._path.read_text(encoding="utf-8").splitlines())
        digests = frozenset(hashlib.sha256(line.encode()).digest() for line in lines if line and not line.startswith("#"))
        if not digests and self._digests:
            logger.warning("%s holds no token any more; those that it held before still do", self._path)
            return
        self._state, self._digests = state, digests
