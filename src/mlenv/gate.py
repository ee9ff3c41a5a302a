"""The gate: what an environment must pass before it is used. Pure; works on an inventory that was read before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mlenv.errors import FindingError, IntegrityError, MlenvError
from mlenv.foundation import FoundationNames, colliding
from mlenv.report import Finding
from mlenv.system.inventory import Inventory, Package, Recorded, owners
from mlenv.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

REBUILD = "run `mlenv sync --rebuild`"
_TORCH_VERSION = re.compile(r"""^__version__\s*=\s*['"](?P<version>[^'"]+)['"]""", re.MULTILINE)
_TORCH_CUDA = re.compile(r"""^cuda(?:\s*:[^=]+)?\s*=\s*(?:['"](?P<cuda>[^'"]+)['"]|None)""", re.MULTILINE)
_SHOWN = 3
_CODE = re.compile(r"\.(py|pth|so|pyd|dll|dylib)$|^(?!.*__pycache__/).*\.pyc$")
_DAMAGE = frozenset({"file-changed", "file-missing", "file-unowned", "package-unfinished"})
_OF_UV = ("_virtualenv.py", "_virtualenv.pth")  # `uv venv` writes them
_BITSANDBYTES = re.compile(r"libbitsandbytes_cuda(\d+)(\d)\.(so|dll)$")


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What the environment should be: its backend, the foundation's names, the versions that were planned.

    ``version_files`` are the texts of ``version.py`` of torch, torchvision and torchaudio, where they are installed.
    ``markers`` are PEP 508's variables of the environment's Python. ``planned`` is None where no
    plan is known.
    """

    backend: str
    os: str
    names: FoundationNames
    planned: Mapping[str, str] | None = None
    version_files: Mapping[str, str] = field(default_factory=dict)
    markers: Mapping[str, str] = field(default_factory=dict)
    architecture_gap: str | None = None


def metadata(inventory: Inventory, expected: Expectation) -> tuple[Finding, ...]:
    """Everything that can be known without importing a package; empty where all is well."""
    checks: tuple[Callable[[Inventory], Iterator[Finding]], ...] = (
        _records,
        _files,
        _overwritten,
        _guarded,
        _unowned,
        _families,
        partial(_planned, expected=expected),
        partial(_specifiers, expected=expected),
        partial(_build, expected=expected),
        partial(_bitsandbytes, expected=expected),
    )
    return tuple(finding for check in checks for finding in check(inventory))


def failure(
    findings: tuple[Finding, ...], *, rebuild: str, clean: Callable[[Iterable[str]], str], stands: bool
) -> MlenvError:
    """What a new environment that did not pass is refused with: IntegrityError where its bytes differ from RECORD.

    ``rebuild`` is the command that builds it anew, ``clean`` that drops packages from uv's cache, both as hints have
    them; ``stands`` says whether there is an old environment.
    """
    told = "".join(f"\n  {finding}" for finding in findings[1:8])
    old = "; the old one still stands" if stands else ""
    message = f"the new environment did not pass the gate{old}: {findings[0].message}{told}"
    damaged = {finding.package for finding in findings if finding.kind in _DAMAGE and finding.package}
    if damaged:  # it was just installed, so it is the download in uv's cache that is damaged
        error = IntegrityError(message, hint=f"{clean(damaged)} drops the damaged download; then {rebuild}")
        error.packages = tuple(sorted(damaged))
        return error
    named = {finding.package for finding in findings if finding.package} or {"NAME"}
    again = f"if the same is found again, {clean(named)} drops what was downloaded"
    return FindingError(message, hint=f"{rebuild} builds it anew; {again}")


def _finding(kind: str, message: str, path: str | None = None, *, package: str | None = None) -> Finding:
    return Finding(kind=kind, message=message, path=path, hint=REBUILD, package=package)


def _records(inventory: Inventory) -> Iterator[Finding]:
    for package in inventory.packages:
        if package.fault:
            message = f"{package.name} {package.version}: {package.fault}"
            yield _finding("package-unfinished", message, package.dist_info, package=package.name)


def _files(inventory: Inventory) -> Iterator[Finding]:
    shared = owners(inventory.packages)
    for package in inventory.packages:
        missing = [row.path for row in package.rows if not _present(row, inventory)]
        changed = [r.path for r in package.rows if _wrong_size(r, inventory) and len(_contents(shared[r.path])) == 1]
        told = f"{package.name} {package.version}"
        if missing:
            yield _finding("file-missing", f"{told}: {_some(missing)} missing", missing[0], package=package.name)
        if changed:
            yield _finding("file-changed", f"{told}: {_some(changed)} changed", changed[0], package=package.name)


def _present(row: Recorded, inventory: Inventory) -> bool:
    return row.path in inventory.files or row.path.endswith(".pyc") or (inventory.root / row.path).exists()


def _wrong_size(row: Recorded, inventory: Inventory) -> bool:
    return row.size is not None and inventory.files.get(row.path, row.size) != row.size


def _some(paths: list[str]) -> str:
    """``a, b and 12 more files are``"""
    shown = ", ".join(path.rsplit("site-packages/", 1)[-1] for path in paths[:_SHOWN])
    more = len(paths) - _SHOWN
    return f"{shown} and {more} more files are" if more > 0 else f"{shown} {'is' if len(paths) == 1 else 'are'}"


def _overwritten(inventory: Inventory) -> Iterator[Finding]:
    """One file, two owners: harmless only where both brought the same bytes (``nvidia/__init__.py``)."""
    told: dict[tuple[str, ...], list[str]] = {}
    for path, holders in owners(inventory.packages).items():
        if len(_contents(holders)) > 1:
            told.setdefault(tuple(sorted(package.name for package, _ in holders)), []).append(path)
    for names, paths in sorted(told.items()):
        yield _finding("file-owned-twice", f"{' and '.join(names)} both own {_some(paths).rsplit(' ', 1)[0]}", paths[0])


def _contents(holders: list[tuple[Package, Recorded]]) -> set[str]:
    """The different contents that the owners of one file say it has."""
    return {row.hash for _, row in holders}


def _guarded(inventory: Inventory) -> Iterator[Finding]:
    """The files that make it an environment belong to nobody."""
    guarded = re.compile(
        r"(pyvenv\.cfg|mlenv(-image)?\.json|pylock\.[^/]+|(bin|Scripts)/(activate[^/]*|python[\d.]*w?(\.exe)?|pip[\d.]*(\.exe)?))$",
        re.IGNORECASE,
    )
    for package in inventory.packages:
        for row in package.rows:
            if guarded.match(row.path) and not (package.name == "pip" and "/pip" in row.path):
                yield _finding("environment-overwritten", f"{package.name} wrote over {row.path}", row.path)


def _unowned(inventory: Inventory) -> Iterator[Finding]:
    """What Python could import, or runs at every start (.pth), and no package brought; caches are nobody's business."""
    owned = owners(inventory.packages)
    stray: dict[str, list[str]] = {}
    for path in sorted(inventory.files):
        inside = path.removeprefix(f"{inventory.site}/")
        if inside != path and _CODE.search(inside) and path not in owned and inside not in _OF_UV:
            stray.setdefault(inside.split("/")[0], []).append(path)
    for top, paths in stray.items():
        yield _finding("file-unowned", f"{_some(paths)} of no package", paths[0], package=_brought(top, inventory))


def _brought(top: str, inventory: Inventory) -> str | None:
    """Whose files lie in this folder of site-packages, or which package this module is called after."""
    below, name = f"{inventory.site}/{top}/", canonicalize_name(top.split(".")[0])
    for package in inventory.packages:
        if package.name == name or any(row.path.startswith(below) for row in package.rows):
            return package.name
    return None


def _families(inventory: Inventory) -> Iterator[Finding]:
    for first, second in colliding(inventory.versions):
        message = f"{first} and {second} are two CUDA families of one library and share its files"
        yield _finding("cuda-families", message)


def _planned(inventory: Inventory, *, expected: Expectation) -> Iterator[Finding]:
    if expected.planned is None:
        return
    have = inventory.versions
    for name in sorted({*expected.planned, *have}):
        wanted, found = expected.planned.get(name), have.get(name)
        if wanted is None and not _is_local(inventory, name):
            yield _finding("package-added", f"{name} {found} was not asked for")
        elif wanted is not None and found is None:
            yield _finding("package-missing", f"{name} {wanted} is not installed")
        elif wanted and found is not None and not _same_release(wanted, found):
            yield _finding("package-replaced", f"{name} is {found}, it should be {wanted}")


def _same_release(wanted: str, found: str) -> bool:
    return wanted == found or wanted.partition("+")[0] == found.partition("+")[0]


def _is_local(inventory: Inventory, name: str) -> bool:
    return any(package.name == name and package.local for package in inventory.packages)


def _specifiers(inventory: Inventory, *, expected: Expectation) -> Iterator[Finding]:
    """What the foundation's packages require of others is there."""
    have = inventory.versions
    for package in inventory.packages:
        if expected.names.owns(package.name):
            yield from _unsatisfied(package, package.requires, have, expected.markers)


def _unsatisfied(
    package: Package, requires: Iterable[str], have: Mapping[str, str], markers: Mapping[str, str]
) -> Iterator[Finding]:
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({**markers, "extra": ""}):
            continue
        found = have.get(canonicalize_name(requirement.name))
        if found is None:
            yield _finding(
                "requirement-missing",
                f"{package.name} {package.version} needs {requirement.name}, which is not installed",
            )
        elif not requirement.specifier.contains(found, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            yield _finding(
                "requirement-unsatisfied", f"{package.name} {package.version} needs {wanted}, {found} is installed"
            )


def edited(paths: Iterable[str], inventory: Inventory) -> tuple[Finding, ...]:
    """Findings for files whose bytes are not those that their package brought."""
    held = owners(inventory.packages)
    return tuple(
        _finding(
            "file-changed",
            f"{path.rsplit('site-packages/', 1)[-1]} is not as its package brought it",
            path,
            package=held[path][0][0].name,
        )
        for path in paths
    )


def torch_build(text: str) -> tuple[str | None, str | None]:
    """(``__version__``, CUDA version) that torch's own version.py says; CUDA is None for a CPU build."""
    version, cuda = _TORCH_VERSION.search(text), _TORCH_CUDA.search(text)
    return (version["version"] if version else None, cuda["cuda"] if cuda else None)


def cuda_of(backend: str) -> str | None:
    """``cu130`` → ``13.0``; None for a backend without CUDA."""
    match = re.fullmatch(r"cu(\d+)(\d)", backend)
    return f"{match[1]}.{match[2]}" if match else None


def _build(inventory: Inventory, *, expected: Expectation) -> Iterator[Finding]:
    if "torch" not in inventory.versions or not (expected.backend == "cpu" or cuda_of(expected.backend)):
        return
    version, cuda = torch_build(expected.version_files.get("torch", ""))
    wanted = cuda_of(expected.backend)
    if version is None:
        yield _finding("torch-build", "torch/version.py is missing or says no version")
    elif cuda != wanted:
        is_, should = f"CUDA {cuda}" if cuda else "CPU", f"CUDA {wanted}" if wanted else "CPU"
        yield _finding(
            "torch-build", f"torch {version} is a {is_} build; backend {expected.backend} needs a {should} build"
        )
    for name in sorted(expected.version_files.keys() - {"torch"}):
        yield from _companion(name, expected)
    if expected.architecture_gap:
        yield _finding("torch-architectures", expected.architecture_gap)


def _bitsandbytes(inventory: Inventory, *, expected: Expectation) -> Iterator[Finding]:
    """It loads the library of torch's CUDA, else one of the same major (bitsandbytes/cextension.py of 0.50.2)."""
    wanted = cuda_of(expected.backend)
    package = next((package for package in inventory.packages if package.name == "bitsandbytes"), None)
    if package is None or wanted is None:
        return
    found = [match.groups()[:2] for row in package.rows if (match := _BITSANDBYTES.search(row.path))]
    if not any(major == wanted.partition(".")[0] for major, _ in found):
        has = ", ".join(f"{major}.{minor}" for major, minor in sorted(found)) or "none"
        message = f"bitsandbytes {package.version} has no library for CUDA {wanted}, only for: {has}"
        hint = "`mlenv lock --upgrade-package bitsandbytes`, or another backend"
        yield Finding(kind="bitsandbytes-library", message=message, hint=hint, package="bitsandbytes")


def _companion(name: str, expected: Expectation) -> Iterator[Finding]:
    """torchvision and torchaudio carry their build as a label; torchaudio refuses another CUDA's torch."""
    version, _ = torch_build(expected.version_files[name])
    label = (version or "").partition("+")[2]
    if re.fullmatch(r"cpu|cu\d+", label) and label != expected.backend:
        yield _finding("torch-build", f"{name} {version} is built for {label}, not for {expected.backend}")
