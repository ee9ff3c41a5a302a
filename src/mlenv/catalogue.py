"""The facts that age: backends, torch releases, driver floors, foundation names; parsed from data/catalogue.toml."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from mlenv.values import dataclass

if TYPE_CHECKING:
    from mlenv.catalogue_rows import Rows
    from mlenv.machine import Machine

Version = tuple[int, int]
Channel = Literal["stable", "nightly"]

_CUDA_NAME = r"cu(\d{2,4})"
_MINOR = r"(\d+)\.(\d+)"
_NEWER_THAN_ALL = (9999, 0)


@dataclass(frozen=True, kw_only=True)
class DriverFloor:
    """The oldest driver that runs builds of one CUDA major, by operating system."""

    cuda_major: int
    linux: str
    windows: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class CodeRow:
    """For which GPUs (75 = compute capability 7.5) the wheels of some torch minors carry code, by architecture.

    ``ptx_linux``: the PTX in the Linux wheels, which a driver compiles for GPUs as new or newer.
    """

    torch: tuple[Version, ...]
    architectures: Mapping[str, tuple[int, ...]]
    ptx_linux: tuple[int, ...] = ()
    source: str = ""


Runs = Callable[[str, "Machine"], str | None]
"""(backend, machine) → why it does not run there, or None where it does."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One backend. ``cuda`` is None for the CPU build and for what is no CUDA build at all.

    ``index`` is where its wheels are, where that is not PyTorch's. ``brought_by`` is the installed package that knows
    it, and ``runs`` is what that package says of a machine.
    """

    name: str
    cuda: Version | None
    windows: bool = True
    code: tuple[CodeRow, ...] = ()
    index: str | None = None
    source: str = ""
    brought_by: str | None = None
    runs: Runs | None = field(default=None, compare=False)

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU build."""
        return self.name == "cpu"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One torch release: what belongs to it, and which backend the default index's own files are, by platform.

    ``python`` lists the Python versions it has wheels for; ``backends`` the builds known to exist, ``unconfirmed``
    those that may.
    """

    torch: str
    torchvision: str
    torchaudio: str
    python: tuple[str, ...]
    backends: tuple[str, ...]
    unconfirmed: tuple[str, ...] = ()
    pypi: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Code:
    """The architectures a build carries code for. ``exact`` is False where neighbouring torch minors stand in."""

    architectures: tuple[int, ...]
    exact: bool
    ptx: tuple[int, ...] = ()
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class SassRule:
    """Which GPUs run which machine code (torch.cuda's DEVICE_REQUIREMENT).

    ``exclude``: cubin → GPUs that don't run it although the common rule says so; ``only``: cubin → all GPUs that do.
    From CUDA ``relaxed_from`` on the exclusions of ``relaxed`` are lifted.
    """

    exclude: Mapping[int, tuple[int, ...]]
    only: Mapping[int, tuple[int, ...]]
    relaxed: tuple[int, ...]
    relaxed_from: Version

    def runs(self, cubin: int, *, device: Version, cuda: Version) -> bool:
        """Whether a GPU runs code built for ``cubin``: the same major, and no older minor, but for the exceptions."""
        number = device[0] * 10 + device[1]
        if cubin in self.only:
            return number in self.only[cubin]
        lifted = cubin in self.relaxed and cuda >= self.relaxed_from
        if not lifted and number in self.exclude.get(cubin, ()):
            return False
        return cubin // 10 == device[0] and cubin % 10 <= device[1]


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Everything in data/catalogue.toml. ``releases`` come newest first; ``backends`` holds the known ones by name.

    ``toolkit_drivers``: the Linux driver that came with a CUDA version, and has all of its features.
    ``nightly_ptx``: the PTX in the nightly wheels for Linux.
    """

    backends: Mapping[str, Backend]
    releases: tuple[Release, ...]
    driver_floors: Mapping[int, DriverFloor]
    sass: SassRule
    index_urls: Mapping[str, str]
    toolkit_drivers: Mapping[Version, str] = field(default_factory=dict)
    nightly_ptx: tuple[int, ...] = ()

    def backend(self, name: str) -> Backend:
        """The backend, known or read by rule: ``cu140`` is CUDA 14.0; any other name is no CUDA build."""
        return self.backends.get(name) or Backend(name=name, cuda=cuda_of(name))

    def release(self, torch_version: str) -> Release | None:
        """The release of a torch version, its local label ignored, or None."""
        wanted = torch_version.split("+")[0]
        return next((release for release in self.releases if release.torch == wanted), None)

    def newest_release(self, backend: str, *, python: str | None = None) -> Release | None:
        """The newest release that is known to have the backend (and wheels for that Python, ``3.12``), or None."""
        having = (release for release in self.releases if backend in release.backends)
        return next((release for release in having if python is None or python in release.python), None)

    def pythons(self, backend: str) -> tuple[str, ...]:
        """Every Python, oldest first, that a release of the backend has wheels for."""
        found = {python for release in self.releases if backend in release.backends for python in release.python}
        return tuple(sorted(found, key=minor_of))  # type: ignore[arg-type]

    def overlay_hint(self, name: str) -> str:
        """How a backend gets an overlay: `mlenv init` writes those of the releases in here."""
        if self.newest_release(name) is not None:
            return f"`mlenv init --backend {name}` adds it, or write constraints/{name}.txt"
        return f"write constraints/{name}.txt by hand (torch==VERSION), and an index pytorch-{name} into uv.toml"

    def default_index_build(self, torch_version: str, platform: str) -> str | None:
        """Which backend the default index's own file of that torch is on a platform, or None where it isn't known."""
        release = self.release(torch_version)
        return None if release is None else release.pypi.get(platform)

    def architectures(self, backend: str, torch_version: str, platform: str) -> tuple[int, ...] | None:
        """What a build carries code for (75 = compute capability 7.5), or None where exactly that isn't known."""
        code = self.code(backend, torch_version, platform)
        return code.architectures if code is not None and code.exact else None

    def code(self, backend: str, torch_version: str, platform: str, *, channel: Channel = "stable") -> Code | None:
        """What a build carries code for. For a torch minor without a row, what its neighbours have in common.

        A nightly is newer than every row. None where no row of that backend and architecture is of this minor or an
        older one.
        """
        nightly = channel == "nightly" or is_nightly(torch_version)
        minor = _NEWER_THAN_ALL if channel == "nightly" else minor_of(torch_version)
        system, _, arch = platform.partition("-")
        rows = {m: row for row in self.backend(backend).code if arch in row.architectures for m in row.torch}
        if minor is None or (older := max((m for m in rows if m <= minor), default=None)) is None:
            return None
        newer = min((m for m in rows if m >= minor), default=older)
        one, other = rows[older], rows[newer]
        ptx = self.nightly_ptx if nightly else tuple(p for p in one.ptx_linux if p in other.ptx_linux)
        return Code(
            architectures=tuple(a for a in one.architectures[arch] if a in other.architectures[arch]),
            exact=older == minor and not nightly,
            ptx=ptx if system == "linux" else (),
            source=one.source,
        )

    def has_build(self, backend: str, torch_version: str) -> bool | None:
        """Whether that torch has a build of the backend; None where nobody knows: a torch or a backend that is new."""
        release = self.release(torch_version)
        if release is None or backend in release.unconfirmed or self.newest_release(backend) is None:
            return None
        return backend in release.backends

    def builds(self, name: str, version: str) -> tuple[str, ...] | None:
        """The backends that a release of torch or torchaudio has builds of, unconfirmed ones too; None if not known.

        torchaudio is numbered like the torch it was built with.
        """
        release = self.release(version) if name in ("torch", "torchaudio") else None
        return None if release is None else (*release.backends, *release.unconfirmed)

    def lacks(self, backend: str, name: str, version: str) -> bool:
        """Whether a release of that package is known to have no build of a backend that is known."""
        built = self.builds(name, version)
        return built is not None and backend not in built and self.newest_release(backend) is not None

    def builds_for(self, backend: str, platform: str) -> bool:
        """Whether the backend can exist on a platform: no CUDA on macOS, and not each one on Windows or aarch64."""
        known = self.backend(backend)
        system, _, arch = platform.partition("-")
        if known.cuda is None:
            return True
        if system == "linux" and arch != "x86_64" and known.code:
            return any(arch in row.architectures for row in known.code)
        return system == "linux" or (system == "windows" and known.windows)

    def index_url(self, backend: str, *, channel: Channel = "stable") -> str:
        """The URL of the index that carries a backend: its own, or the PyTorch project's."""
        own = self.backend(backend).index
        if own is not None and channel == "stable":
            return own
        return self.index_urls[channel].format(backend=backend)


def cuda_of(name: str) -> Version | None:
    """The CUDA version in a backend's name: ``cu126`` → (12, 6), ``cu92`` → (9, 2), ``cpu`` → None."""
    found = re.fullmatch(_CUDA_NAME, name)
    if found is None:
        return None
    digits = found[1]
    split = 1 if len(digits) == 2 else 2
    return int(digits[:split]), int(digits[split:])


def minor_of(torch_version: str) -> Version | None:
    """``2.14.1+cu130`` → (2, 14); None for what is no version."""
    found = re.match(_MINOR, torch_version)
    return (int(found[1]), int(found[2])) if found else None


def is_nightly(torch_version: str) -> bool:
    """Whether a version is a nightly's: ``2.16.0.dev20261120+cu132``."""
    return ".dev" in torch_version


@cache
def load() -> Catalogue:
    """The catalogue that comes with mlenv."""
    return parse(document())


@cache
def document() -> Mapping[str, Any]:
    """data/catalogue.toml, as it is."""
    import pkgutil  # importlib.resources costs ten times as much to import
    import tomllib

    text = pkgutil.get_data("mlenv.data", "catalogue.toml")
    assert text is not None
    return tomllib.loads(text.decode("utf-8"))


def extended(*, below: Rows, above: Rows) -> Catalogue:
    """The catalogue with more rows: what mlenv knows counts before those ``below``, those ``above`` before all."""
    from packaging.version import Version as Release

    from mlenv.catalogue_rows import KEYS, joined

    own = document()
    rows = {kind: joined(kind, below.get(kind, ()), own[kind], above.get(kind, ())) for kind in KEYS}
    rows["release"].sort(key=lambda row: Release(row["torch"]), reverse=True)
    return parse({**own, **rows})


def brought(catalogue: Catalogue, by: Mapping[str, tuple[str, Runs | None]]) -> Catalogue:
    """The catalogue, and who brought which backend: name → (package, what it says of machines)."""
    told = {
        name: replace(catalogue.backends[name], brought_by=package, runs=runs) for name, (package, runs) in by.items()
    }
    return replace(catalogue, backends={**catalogue.backends, **told})


def parse(data: Mapping[str, Any]) -> Catalogue:
    """The catalogue of a parsed TOML document of data/catalogue.toml's shape."""
    drivers = data.get("toolkit_driver", {})
    return Catalogue(
        backends={row["name"]: _backend(row) for row in data["backend"]},
        releases=tuple(_release(row) for row in data["release"]),
        driver_floors={row["cuda_major"]: _floor(row) for row in data["driver_family"]},
        sass=_sass(data["sass"]),
        index_urls={channel: data["index"][channel] for channel in ("stable", "nightly")},
        toolkit_drivers={
            _version(cuda): row["linux"] for cuda, row in drivers.items() if isinstance(row, Mapping) and "linux" in row
        },
        nightly_ptx=tuple(data.get("nightly", {}).get("ptx_linux", ())),
    )


def _floor(row: Mapping[str, Any]) -> DriverFloor:
    source = row.get("source", "")
    return DriverFloor(cuda_major=row["cuda_major"], linux=row["linux"], windows=row["windows"], source=source)


def _backend(row: Mapping[str, Any]) -> Backend:
    return Backend(
        name=row["name"],
        cuda=_version(row["cuda"]) if "cuda" in row else cuda_of(row["name"]),
        windows=row.get("windows", True),
        code=tuple(_code_row(item) for item in row.get("code", ())),
        index=row.get("index"),
        source=row.get("source", ""),
    )


def _code_row(item: Mapping[str, Any]) -> CodeRow:
    return CodeRow(
        torch=tuple(_version(text) for text in item["torch"]),
        architectures={arch: tuple(item[arch]) for arch in ("x86_64", "aarch64") if arch in item},
        ptx_linux=tuple(item.get("ptx_linux", ())),
        source=item.get("source", ""),
    )


def _release(row: Mapping[str, Any]) -> Release:
    return Release(
        torch=row["torch"],
        torchvision=row["torchvision"],
        torchaudio=row["torchaudio"],
        python=tuple(row["python"]),
        backends=tuple(row["backends"]),
        unconfirmed=tuple(row.get("unconfirmed", ())),
        pypi=dict(row.get("pypi", {})),
        source=row.get("source", ""),
    )


def _sass(table: Mapping[str, Any]) -> SassRule:
    return SassRule(
        exclude={int(cubin): tuple(devices) for cubin, devices in table["exclude"].items()},
        only={int(cubin): tuple(devices) for cubin, devices in table["only"].items()},
        relaxed=tuple(table["relaxed"]),
        relaxed_from=_version(table["relaxed_from"]),
    )


def _version(text: str) -> Version:
    major, minor = text.split(".")
    return int(major), int(minor)
