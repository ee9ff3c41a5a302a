"""Whether an index's host has an address, found out in bounded time.

uv waits for the system's resolver, which on a machine without a way out can take five seconds for each name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

PATIENCE_SECONDS = 1.5


def has_address(host: str, *, env: Mapping[str, str], patience: float = PATIENCE_SECONDS) -> bool:
    """Whether ``host`` can be looked up within ``patience`` seconds; behind a proxy the proxy looks it up."""
    if any(name.lower() in ("https_proxy", "http_proxy", "all_proxy") for name in env):
        return True
    import socket

    found: list[bool] = []

    def look_up() -> None:
        try:
            found.append(bool(socket.getaddrinfo(host, None)))
        except (OSError, UnicodeError):
            found.append(False)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(patience)
    return bool(found) and found[0]
