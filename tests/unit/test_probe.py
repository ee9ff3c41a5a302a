from __future__ import annotations

import pytest

from mlenv.errors import NoBackendError
from mlenv.system.probe import system_names


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", ("linux", "x86_64")),
        ("linux", "aarch64", ("linux", "aarch64")),
        ("linux", "arm64", ("linux", "aarch64")),
        ("win32", "AMD64", ("windows", "x86_64")),
        ("darwin", "arm64", ("macos", "arm64")),
        ("darwin", "x86_64", ("macos", "x86_64")),
    ],
)
def test_platforms_have_the_settings_names(system: str, machine: str, expected: tuple[str, str]) -> None:
    assert system_names(system, machine) == expected


@pytest.mark.parametrize(("system", "machine"), [("linux", "riscv64"), ("freebsd14", "amd64")])
def test_a_platform_without_builds_is_refused(system: str, machine: str) -> None:
    with pytest.raises(NoBackendError, match=machine):
        system_names(system, machine)
