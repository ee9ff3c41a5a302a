"""Whether an address carries a secret: files of a project are committed, and uv does not mask all of them. Pure."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

REMEDY = "take them out; hand them over as UV_INDEX_<NAME>_USERNAME and UV_INDEX_<NAME>_PASSWORD, netrc or a keyring"
_SECRET_WORD = re.compile(r"token|passw|secret|auth|key$|^sig", re.IGNORECASE)


def in_url(url: str) -> bool:
    """A user, a password, or a query that looks like a token: unmasked by uv (FACTS, Reliability and trust 9)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "@" in url
    return "@" in parts.netloc or any(_SECRET_WORD.search(name) for name, _ in parse_qsl(parts.query))
