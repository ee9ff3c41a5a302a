"""Which packages belong to the foundation, and which of them overwrite each other. Pure; the names are data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import cache, cached_property
from itertools import combinations

from packaging.utils import canonicalize_name

from mlenv.values import dataclass

ROOT_NAMES = ("torch", "torchvision", "torchaudio", "tensorflow", "jax")
"""What is chosen by an overlay wherever one pins it (CONTRACT, Words: Roots)."""

_CUDA_SUFFIX = r"(?P<component>.+?)-(?P<suffix>cu(?:da)?\d+x?)"


@dataclass(frozen=True, kw_only=True)
class FoundationNames:
    """The names the foundation owns: ``exact`` and ``patterns`` less ``excluded`` (data), then the user's own lists.

    Patterns are fnmatch's, on canonical names. ``include`` wins over everything, so roots are passed there; ``exclude``
    wins over the data. ``excluded`` takes names out of the patterns only: a name listed in ``exact`` stays.
    """

    exact: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def owns(self, name: str) -> bool:
        """Whether the package belongs to the foundation, however its name is spelled."""
        canonical = canonicalize_name(name)
        if _matches(canonical, self.include):
            return True
        if _matches(canonical, self.exclude):
            return False
        if canonical in self._exact:
            return True
        return _matches(canonical, self.patterns) and not _matches(canonical, self.excluded)

    @cached_property
    def _exact(self) -> frozenset[str]:
        return frozenset(canonicalize_name(name) for name in self.exact)


@cache
def known_names() -> FoundationNames:
    """The names that come with mlenv (data/foundation.toml)."""
    import pkgutil  # importlib.resources costs ten times as much to import
    import tomllib

    text = pkgutil.get_data("mlenv.data", "foundation.toml")
    assert text is not None
    data = tomllib.loads(text.decode("utf-8"))
    return FoundationNames(
        exact=tuple(data["exact"]), patterns=tuple(data["patterns"]), excluded=tuple(data["excluded"])
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return _matcher(tuple(patterns)).match(name) is not None


@cache
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(canonicalize_name(pattern)) for pattern in patterns) or "(?!)")


def cuda_family(name: str) -> tuple[str, str] | None:
    """(component, CUDA suffix) of a package that carries one: ``nvidia-nccl-cu13`` → ``("nvidia-nccl", "cu13")``."""
    found = re.fullmatch(_CUDA_SUFFIX, canonicalize_name(name))
    return (found["component"], found["suffix"]) if found else None


def colliding(names: Iterable[str], *, pairs: Iterable[tuple[str, str]] = ()) -> tuple[tuple[str, str], ...]:
    """Pairs of these packages that write the same paths, sorted.

    Those are one component under two CUDA suffixes (FACTS, CUDA 8), and the known ``pairs`` (data). Packages without a
    suffix, such as CUDA 13's ``nvidia-cublas``, live in ``nvidia/cu13`` and collide with nobody.
    """
    present: set[str] = {canonicalize_name(name) for name in names}
    families: dict[str, list[str]] = {}
    for name in sorted(present):
        if family := cuda_family(name):
            families.setdefault(family[0], []).append(name)
    found = {pair for members in families.values() for pair in combinations(members, 2)}
    for one, other in pairs:
        first, second = sorted((canonicalize_name(one), canonicalize_name(other)))
        if first != second and {first, second} <= present:
            found.add((first, second))
    return tuple(sorted(found))
