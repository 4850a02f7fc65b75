"""Addresses of an API, compared by what they mean and not by how they are spelled."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}


def normal_address(url: str) -> str:
    """Return the one spelling that all spellings of an address share.

    Case of scheme and host, a default port, a slash at the end, a dot after the host, and the names
    that a machine has for itself (``localhost``, ``127.0.0.1``, ``::1``) make no difference. What
    cannot be read as an address is returned as it is.
    """
    text = url.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return text
    if not parts.scheme or not host:
        return text
    scheme = parts.scheme.lower()
    port = port or DEFAULT_PORTS.get(scheme)
    rest = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{_host(host)}:{port}{parts.path.rstrip('/')}{rest}"


def _host(host: str) -> str:
    """Return a host by its one name: ``localhost`` for this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "localhost" if host in ("localhost", "localhost.localdomain") else host
    mapped = getattr(address, "ipv4_mapped", None) or address
    return "localhost" if str(mapped) in ("127.0.0.1", "::1") else str(mapped)


def same_address(url: str, others: Collection[str]) -> bool:
    """Return whether an address means one of the others."""
    mine = normal_address(url)
    return any(mine == normal_address(other) for other in others)
