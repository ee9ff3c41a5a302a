"""Texts that every application here works on."""

from __future__ import annotations

import regex

TEXTS = [
    "A lock says which release of each package is installed.",
    "An overlay pins the packages that are built for one kind of GPU.",
    "The foundation is installed once and shared by hard links.",
    "A generation is one finished build of an environment.",
    "A member is one project of a workspace.",
]


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return regex.findall(r"\p{L}+", text.lower())
