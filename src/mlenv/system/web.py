"""The only place that asks the network itself, for what uv has no command for.

Proxies and certificates are those of the usual variables, credentials those of the indexes' URLs and variables, and
netrc; they go to their own host alone.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse
    from ssl import SSLContext

_REDIRECTS = 5


class Client:
    """Asks for files, over one connection to each host: looking up its name again may take seconds. For one thread."""

    def __init__(self, *, logins: Mapping[str, str], env: Mapping[str, str], timeout: float) -> None:
        """``logins`` are ``user:password``, percent-encoded, by origin (``https://host:port``)."""
        self._logins, self._netrc, self._timeout = logins, env.get("NETRC"), timeout
        self._proxies = {name.lower(): value for name, value in env.items() if name.lower().endswith("_proxy")}
        self._insecure = frozenset(env.get("UV_INSECURE_HOST", "").replace(",", " ").split())
        self._connections: dict[tuple[str, str], HTTPConnection] = {}

    def open(self, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        """The answer to a GET, redirects followed, whatever its status. Raises OSError or HTTPException.

        It must be read to its end, or the connections closed, before the next is asked for.
        """
        for _ in range(_REDIRECTS):
            parts = urlsplit(url)
            connection, proxied = self._connection(parts)
            path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
            target = f"{parts.scheme}://{_host(parts)}{path}" if proxied else path
            connection.request("GET", target, headers={"Accept-Encoding": "identity", **headers, **self._who(parts)})
            response = connection.getresponse()
            location = response.headers.get("Location")
            if not (300 <= response.status < 400 and location):
                return response
            connection.close()
            url = urljoin(url, location)
        raise OSError("too many redirects")

    def close(self) -> None:
        """Close all connections; the next question opens new ones."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _connection(self, parts: SplitResult) -> tuple[HTTPConnection, bool]:
        """The connection for a URL, and whether it is asked for by its whole URL (HTTP through a proxy)."""
        from http import client

        proxy = self._proxy(parts)
        key = (parts.scheme, _host(parts))
        if key not in self._connections:
            where = proxy or parts
            default = 443 if where.scheme == "https" else 80
            host, port = where.hostname or "", where.port or default
            made: HTTPConnection
            if parts.scheme == "https":
                trusted = {parts.hostname, _host(parts)} & self._insecure
                context = _no_certificates() if trusted else _certificates()
                made = client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
                if proxy is not None:
                    made.set_tunnel(parts.hostname or "", parts.port or 443, headers=_basic("Proxy-", _user(proxy)))
            else:
                made = client.HTTPConnection(host, port, timeout=self._timeout)
            self._connections[key] = made
        return self._connections[key], proxy is not None and parts.scheme == "http"

    def _proxy(self, parts: SplitResult) -> SplitResult | None:
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

        url = self._proxies.get(f"{parts.scheme}_proxy") or self._proxies.get("all_proxy")
        if not url or proxy_bypass_environment(parts.hostname, {"no": self._proxies.get("no_proxy", "")}):
            return None
        return urlsplit(url if "://" in url else f"http://{url}")

    def _who(self, parts: SplitResult) -> dict[str, str]:
        """The credentials for this host, and for none that it redirects to."""
        known = unquote(self._logins.get(f"{parts.scheme}://{_host(parts)}", ""))
        headers = _basic("", _user(parts) or known or self._from_netrc(parts.hostname or ""))
        proxy = self._proxy(parts) if parts.scheme == "http" else None
        return headers | (_basic("Proxy-", _user(proxy)) if proxy is not None else {})

    def _from_netrc(self, host: str) -> str | None:
        import netrc

        try:
            login = netrc.netrc(self._netrc or Path.home() / ".netrc").authenticators(host)
        except (OSError, netrc.NetrcParseError, RuntimeError):
            return None
        return f"{login[0]}:{login[2]}" if login is not None else None


@cache
def _certificates() -> SSLContext:
    """Those of SSL_CERT_FILE and SSL_CERT_DIR, else the system's."""
    import ssl

    return ssl.create_default_context()


@cache
def _no_certificates() -> SSLContext:
    """For the hosts of UV_INSECURE_HOST: what comes from there is checked by hash."""
    import ssl

    return ssl._create_unverified_context()


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _user(parts: SplitResult) -> str:
    return unquote(parts.netloc.rpartition("@")[0])


def _basic(prefix: str, login: str | None) -> dict[str, str]:
    return {f"{prefix}Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
