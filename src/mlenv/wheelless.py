"""A release that has no wheel for the target: which setting lets it be built."""

from __future__ import annotations

from functools import cache


def hint(name: str) -> str:
    """Where a package is named whose source distribution may be built."""
    setting = "build-against-foundation" if name in needing_torch() else "build"
    return f'if you trust it, name it: [tool.mlenv] {setting} = ["{name}"]; or require a release that has a wheel'


def hint_without_metadata(name: str) -> str:
    """The same, where the build would have to run at lock time: there is no torch then."""
    if name in needing_torch():
        return f"its build needs torch, which is not there at lock time: require a wheel, {name} @ https://...whl"
    return hint(name)


@cache
def needing_torch() -> frozenset[str]:
    """The packages whose build needs the installed torch (data/coupled.toml)."""
    import pkgutil
    import tomllib

    text = pkgutil.get_data("mlenv.data", "coupled.toml")
    assert text is not None
    rows = tomllib.loads(text.decode("utf-8"))["package"]
    compiled = (row for row in rows if row.get("compiled") and row.get("needs_torch", True))
    return frozenset(name for row in compiled for name in row["names"])
