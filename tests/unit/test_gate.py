from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlenv import gate
from mlenv.errors import FindingError, IntegrityError, MlenvError
from mlenv.foundation import FoundationNames
from mlenv.gate import Expectation
from mlenv.report import Finding
from mlenv.system.inventory import Inventory, Package, Recorded

NAMES = FoundationNames(
    exact=("torch", "triton"), patterns=("nvidia-*",), excluded=("nvidia-ml-py",), include=(), exclude=()
)
SITE = "lib/python3.11/site-packages"
TORCH_CU130 = "__version__ = '2.14.1+cu130'\ncuda: Optional[str] = '13.0'\n"


def row(path: str, *, digest: str = "sha256=a", size: int = 1) -> Recorded:
    return Recorded(path=f"{SITE}/{path}", hash=digest, size=size)


def package(
    name: str, version: str = "1.0", *paths: str, requires: tuple[str, ...] = (), fault: str | None = None
) -> Package:
    rows = tuple(row(path) for path in (paths or (f"{name}/__init__.py",)))
    return Package(
        name=name,
        version=version,
        dist_info=f"{SITE}/{name}.dist-info",
        rows=rows,
        fault=fault,
        requires=requires,
        local=False,
    )


def inventory(*packages: Package, missing: tuple[str, ...] = ()) -> Inventory:
    files = {r.path: 1 for p in packages for r in p.rows if r.path not in {f"{SITE}/{m}" for m in missing}}
    return Inventory(root=Path("/nowhere"), site=SITE, packages=packages, files=files)


def expectation(**changes: object) -> Expectation:
    return replace(Expectation(backend="cu130", os="linux", names=NAMES), **changes)  # type: ignore[arg-type]


def kinds(found: Inventory, expected: Expectation | None = None) -> list[str]:
    return [finding.kind for finding in gate.metadata(found, expected or expectation())]


def test_a_whole_environment_passes() -> None:
    assert kinds(inventory(package("a"), package("b"))) == []


def refused(*found: Finding, stands: bool = False) -> MlenvError:
    return gate.failure(
        found, rebuild="`again`", clean=lambda names: f"`clean {' '.join(sorted(names))}`", stands=stands
    )


def test_bytes_that_differ_are_a_matter_of_integrity_and_the_hint_names_the_packages() -> None:
    changed = [Finding(kind="file-changed", message=f"{n} is changed", package=n) for n in ("b", "a")]
    error = refused(Finding(kind="cuda-families", message="two"), *changed, stands=True)
    assert isinstance(error, IntegrityError)
    assert error.message.startswith("the new environment did not pass the gate; the old one still stands: two\n  b is")
    assert error.hint == "`clean a b` drops the damaged download; then `again`"


@pytest.mark.parametrize("path", ["a/foreign.py", "a.py"])
def test_a_file_of_no_package_lies_with_the_package_it_is_beside_or_called_after(path: str) -> None:
    found = inventory(package("b"), package("a", "1.0", "a/x.py"))
    found = replace(found, files={**found.files, f"{SITE}/{path}": 1})
    (finding,) = gate.metadata(found, expectation())
    assert (finding.kind, finding.package) == ("file-unowned", "a")
    assert isinstance(refused(finding), IntegrityError)


@pytest.mark.parametrize(("package", "named"), [("a", "a"), (None, "NAME")])
def test_other_findings_are_findings(package: str | None, named: str) -> None:
    error = refused(Finding(kind="package-replaced", message="wrong", package=package))
    assert isinstance(error, FindingError)
    assert error.message == "the new environment did not pass the gate: wrong"
    assert error.hint is not None
    assert error.hint.endswith(f"if the same is found again, `clean {named}` drops what was downloaded")


def test_a_package_without_its_files_is_named() -> None:
    found = inventory(package("a", "1.0", "a/x.py", "a/y.py"), missing=("a/x.py",))
    (finding,) = gate.metadata(found, expectation())
    assert (finding.kind, finding.message) == ("file-missing", "a 1.0: a/x.py is missing")
    assert finding.package == "a"


def test_a_truncated_file_is_named() -> None:
    found = inventory(package("a"))
    found = replace(found, files={f"{SITE}/a/__init__.py": 0})
    (finding,) = gate.metadata(found, expectation())
    assert (finding.kind, finding.message) == ("file-changed", "a 1.0: a/__init__.py is changed")


def test_an_unfinished_installation_is_named() -> None:
    assert kinds(inventory(package("a", fault="its RECORD is torn"))) == ["package-unfinished"]


def test_an_application_wheel_over_torch_is_found() -> None:
    evil = package("evil")
    evil = replace(evil, rows=(row("torch/__init__.py", digest="sha256=other"),))
    found = inventory(package("torch"), evil)
    (finding,) = gate.metadata(found, expectation(version_files={"torch": TORCH_CU130}))
    assert finding.kind == "file-owned-twice"
    assert "evil and torch both own torch/__init__.py" in finding.message


def test_two_owners_of_the_same_bytes_do_no_harm() -> None:
    found = inventory(package("nvidia-a", "1", "nvidia/__init__.py"), package("nvidia-b", "1", "nvidia/__init__.py"))
    assert kinds(found) == []


@pytest.mark.parametrize(
    "path",
    [
        "pyvenv.cfg",
        "mlenv.json",
        "pylock.cu130.toml",
        "bin/activate",
        "bin/python3.11",
        "Scripts/activate.bat",
        "Scripts/python.exe",
    ],
)
def test_the_environments_own_files_belong_to_nobody(path: str) -> None:
    evil = replace(package("evil"), rows=(Recorded(path=path, hash="", size=None),))
    found = replace(inventory(evil), files={path: 1})
    assert kinds(found) == ["environment-overwritten"]


def test_two_cuda_families_of_one_library_are_named() -> None:
    found = inventory(package("nvidia-nccl-cu12"), package("nvidia-nccl-cu13"))
    (finding,) = gate.metadata(found, expectation())
    assert finding.kind == "cuda-families"
    assert "nvidia-nccl-cu12" in finding.message
    assert "nvidia-nccl-cu13" in finding.message


@pytest.mark.parametrize(
    ("backend", "text", "problem"),
    [
        ("cu130", TORCH_CU130, None),
        ("cu130", "__version__ = '2.14.1+cpu'\ncuda: Optional[str] = None\n", "is a CPU build"),
        ("cpu", TORCH_CU130, "needs a CPU build"),
        ("cu126", TORCH_CU130, "needs a CUDA 12.6 build"),
        ("cpu", "__version__ = '2.14.1'\ncuda = None\n", None),  # macOS builds carry no label
        ("cu130", None, "says no version"),
    ],
)
def test_torch_is_the_build_that_was_asked_for(backend: str, text: str | None, problem: str | None) -> None:
    findings = gate.metadata(
        inventory(package("torch")), expectation(backend=backend, version_files={"torch": text} if text else {})
    )
    assert (problem is None) == (findings == ())
    assert problem is None or problem in findings[0].message


def test_what_the_foundation_requires_must_be_there() -> None:
    torch = package(
        "torch", requires=("nvidia-x==2.0", "sympy>=1", 'win; sys_platform == "win32"', 'o; extra == "opt"')
    )
    found = inventory(torch, package("nvidia-x", "3.0"))
    expected = expectation(version_files={"torch": TORCH_CU130}, markers={"sys_platform": "linux"})
    assert kinds(found, expected) == ["requirement-unsatisfied", "requirement-missing"]


def test_what_was_not_planned_or_is_another_release_is_named() -> None:
    found = inventory(package("a", "1.0"), package("b", "2.0"))
    findings = gate.metadata(found, expectation(planned={"a": "1.1", "c": "1.0"}))
    assert [finding.message for finding in findings] == [
        "a is 1.0, it should be 1.1",
        "b 2.0 was not asked for",
        "c 1.0 is not installed",
    ]


def test_a_local_label_does_not_make_another_release() -> None:
    assert kinds(inventory(package("triton", "3.0+git1")), expectation(planned={"triton": "3.0"})) == []


def test_a_companion_of_another_build_is_named() -> None:
    """torchaudio 2.11.0 of PyPI is a CUDA 13.0 build and refuses to load beside a CUDA 13.2 torch."""
    files = {"torch": "__version__ = '2.15.0+cu132'\ncuda = '13.2'\n", "torchaudio": "__version__ = '2.11.0+cu130'\n"}
    findings = gate.metadata(inventory(package("torch")), expectation(backend="cu132", version_files=files))
    assert [finding.message for finding in findings] == ["torchaudio 2.11.0+cu130 is built for cu130, not for cu132"]


def bitsandbytes(*versions: str, suffix: str = "so") -> Package:
    return package(
        "bitsandbytes", "0.50.2", *(f"bitsandbytes/libbitsandbytes_{v}.{suffix}" for v in ("cpu", *versions))
    )


@pytest.mark.parametrize(
    ("libraries", "backend", "has"),
    [
        (("cuda126", "cuda130"), "cu130", None),
        (("cuda126", "cuda130"), "cu132", None),  # it takes the nearest of the same major
        (("cuda118", "cuda126"), "cu132", "11.8, 12.6"),
        ((), "cu126", "none"),
        (("rocm71", "xpu2025"), "cu126", "none"),
        ((), "cpu", None),
    ],
)
def test_bitsandbytes_needs_a_library_of_the_same_cuda_major(
    libraries: tuple[str, ...], backend: str, has: str | None
) -> None:
    for suffix in ("so", "dll"):
        found = gate.metadata(inventory(bitsandbytes(*libraries, suffix=suffix)), expectation(backend=backend))
        told = [f.message for f in found if f.kind == "bitsandbytes-library"]
        cuda = gate.cuda_of(backend)
        wanted = [f"bitsandbytes 0.50.2 has no library for CUDA {cuda}, only for: {has}"] if has else []
        assert told == wanted


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a/extra.py", "a/extra.py is of no package"),
        ("evil.pth", "evil.pth is of no package"),
        ("a/__pycache__/x.cpython-311.pyc", None),
        ("a/cache.json", None),
        ("_virtualenv.pth", None),
    ],
)
def test_code_of_nobody(name: str, told: str | None) -> None:
    found = inventory(package("a"))
    files = {**found.files, f"{SITE}/{name}": 1, "bin/mine.py": 1}
    assert [f.message for f in gate.metadata(replace(found, files=files), expectation())] == ([told] if told else [])
