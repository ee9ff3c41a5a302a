"""The platforms a lock can be made for: PEP 508's variables of each, and markers that tell them apart. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What markers can ask of a platform."""

    sys_platform: str
    system: str
    os_name: str
    machine: str


KNOWN: Mapping[str, Platform] = {
    "linux-x86_64": Platform(sys_platform="linux", system="Linux", os_name="posix", machine="x86_64"),
    "linux-aarch64": Platform(sys_platform="linux", system="Linux", os_name="posix", machine="aarch64"),
    "windows-x86_64": Platform(sys_platform="win32", system="Windows", os_name="nt", machine="AMD64"),
    "macos-arm64": Platform(sys_platform="darwin", system="Darwin", os_name="posix", machine="arm64"),
}


def adding(platform: str, *, to: Collection[str]) -> str:
    """How a lock for the platforms ``to`` is made for one more, for a hint."""
    if platform not in KNOWN:
        return f"mlenv makes locks for {', '.join(KNOWN)}"
    written = ", ".join(f'"{name}"' for name in KNOWN if name in to or name == platform)
    return f"add it: [tool.mlenv] platforms = [{written}], then `mlenv lock`"


def environment(platform: str, python: str) -> dict[str, str]:
    """PEP 508's variables of a target, independent of the machine that asks; ``python`` is ``3.11`` or ``3.11.4``."""
    known = KNOWN[platform]
    full = python if python.count(".") == 2 else f"{python}.0"
    return {
        "sys_platform": known.sys_platform,
        "platform_system": known.system,
        "os_name": known.os_name,
        "platform_machine": known.machine,
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": full,
        "implementation_name": "cpython",
        "implementation_version": full,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_version": "",
    }


def marker(chosen: Collection[str], *, among: Collection[str]) -> str | None:
    """The shortest marker that holds on the ``chosen`` platforms and on no other of ``among``; None for all of them."""
    if set(chosen) == set(among):
        return None
    systems = sorted({KNOWN[platform].sys_platform for platform in chosen})
    of_systems = {platform for platform in among if KNOWN[platform].sys_platform in systems}
    if of_systems == set(chosen):
        return " or ".join(f'sys_platform == "{system}"' for system in systems)
    words = [f'sys_platform == "{KNOWN[p].sys_platform}" and platform_machine == "{KNOWN[p].machine}"' for p in chosen]
    return " or ".join(f"({word})" if len(words) > 1 else word for word in sorted(words))
