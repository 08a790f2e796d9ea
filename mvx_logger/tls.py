"""TLS for the sinks, with the same four options everywhere. Certificates and names are always verified."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .errors import LogConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = ["make_tls_context"]


def make_tls_context(
    *,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    tls_key_password: str | None = None,
) -> ssl.SSLContext:
    """A context for clients that verifies the server's certificate and its name; TLS 1.2 or newer.

    Args:
        tls_ca: A file of certificates (PEM) of the authorities to trust, instead of those of the system.
        tls_cert: A file with this client's certificate and what leads from it to its authority (PEM).
        tls_key: A file with its key (PEM); None where the certificate's file has it too.
        tls_key_password: What the key is encrypted with.

    Raises:
        LogConfigurationError: A file is missing or is not what it should be; the text names the option.
    """
    import ssl

    for option, path in (("tls_ca", tls_ca), ("tls_cert", tls_cert), ("tls_key", tls_key)):
        if path is not None and not os.path.isfile(path):
            raise LogConfigurationError(f"{option}: there is no file {path!r}", details={"path": option})
    if tls_cert is None and tls_key is not None:
        raise LogConfigurationError(
            "tls_key: needs tls_cert, the certificate that it belongs to", details={"path": "tls_key"}
        )
    try:
        context = ssl.create_default_context(cafile=tls_ca)
    except (ssl.SSLError, OSError) as err:
        raise LogConfigurationError(
            f"tls_ca: {tls_ca!r} holds no certificates in PEM format ({err})", details={"path": "tls_ca"}, cause=err
        ) from err
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls_cert is not None:
        try:
            # Without a password OpenSSL would ask for it on the terminal.
            context.load_cert_chain(tls_cert, tls_key, tls_key_password or "")
        except (ssl.SSLError, OSError) as err:
            raise LogConfigurationError(
                f"tls_cert: {tls_cert!r} and its key cannot be used ({err})", details={"path": "tls_cert"}, cause=err
            ) from err
    return context
