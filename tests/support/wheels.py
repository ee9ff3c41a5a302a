"""Packages for tests: a frozen description becomes the bytes of a wheel or of a source distribution.

The same description gives the same bytes, so that hashes can be compared across runs: nothing is compressed and every
timestamp is fixed. The fake foundation has the real one's names, metadata, paths and collisions (FACTS, CUDA 4-8).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from textwrap import dedent
from typing import Literal

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Build:
    """How a source distribution is built, with a backend of its own that needs nothing but the standard library.

    ``marker`` gets a line for each time any code of the package runs. ``requires`` are its build requirements,
    ``imports`` what the backend imports before it builds (``torch`` makes it a package that is built against the
    foundation). ``static`` says whether the metadata can be read without building. ``files`` (path → text) are added to
    the source, and take the place of those that are made otherwise.
    """

    marker: Path | None = None
    requires: Sequence[str] = ()
    imports: Sequence[str] = ()
    static: bool = True
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Package:
    """One file of an index. ``files`` (path → content) takes the place of the module that is made otherwise.

    ``extras`` maps an extra to its requirements, ``entry_points`` a console script to ``module:function``. ``yanked``
    is True or the reason. ``tag`` and ``build_tag`` apply to wheels, ``build`` to source distributions.
    """

    name: str
    version: str
    _: KW_ONLY
    requires: Sequence[str] = ()
    extras: Mapping[str, Sequence[str]] | None = None
    requires_python: str | None = None
    files: Mapping[str, str | bytes] | None = None
    entry_points: Mapping[str, str] | None = None
    tag: str = "py3-none-any"
    build_tag: str | None = None
    metadata_version: str = "2.1"
    kind: Literal["wheel", "sdist"] = "wheel"
    build: Build = Build()
    upload_time: str = "2026-01-01T00:00:00Z"
    yanked: bool | str = False

    @property
    def normalized(self) -> str:
        """The name as an index spells it (PEP 503)."""
        return re.sub(r"[-_.]+", "-", self.name).lower()

    @property
    def module(self) -> str:
        """The name as file names and imports spell it."""
        return self.normalized.replace("-", "_")

    @property
    def wheel_name(self) -> str:
        parts = [self.module, self.version, *([self.build_tag] if self.build_tag else []), self.tag]
        return "-".join(parts) + ".whl"

    @property
    def filename(self) -> str:
        return self.wheel_name if self.kind == "wheel" else f"{self.module}-{self.version}.tar.gz"

    @cached_property
    def data(self) -> bytes:
        """The bytes of the file."""
        return _wheel(self) if self.kind == "wheel" else _sdist(self)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def metadata(self) -> bytes:
        """The text of METADATA or PKG-INFO."""
        return _metadata(self).encode()


def write(package: Package, folder: Path) -> Path:
    """Put the package's file into ``folder`` (made where it is missing) and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package.filename
    path.write_bytes(package.data)
    return path


def _metadata(package: Package) -> str:
    lines = [f"Metadata-Version: {_metadata_version(package)}", f"Name: {package.name}", f"Version: {package.version}"]
    lines += ["Summary: made by a test"]
    if package.requires_python:
        lines += [f"Requires-Python: {package.requires_python}"]
    if package.kind == "sdist" and not package.build.static:
        lines += ["Dynamic: Requires-Dist", "Dynamic: Provides-Extra"]
    else:
        lines += _dependency_lines(package)
    return "\n".join(lines) + "\n"


def _metadata_version(package: Package) -> str:
    """PKG-INFO is trusted from 2.2 on, where Dynamic says what may change (PEP 643)."""
    return "2.2" if package.kind == "sdist" and package.metadata_version < "2.2" else package.metadata_version


def _dependency_lines(package: Package) -> Iterator[str]:
    yield from (f"Requires-Dist: {requirement}" for requirement in package.requires)
    for extra, requirements in (package.extras or {}).items():
        yield f"Provides-Extra: {extra}"
        for requirement in requirements:
            bare, _, marker = (part.strip() for part in requirement.partition(";"))
            yield f"Requires-Dist: {bare}; " + (f"({marker}) and " if marker else "") + f'extra == "{extra}"'


def _wheel(package: Package) -> bytes:
    info = f"{package.module}-{package.version}.dist-info"
    entries = {path: _bytes(content) for path, content in _contents(package).items()}
    entries[f"{info}/METADATA"] = package.metadata
    entries[f"{info}/WHEEL"] = _wheel_file(package).encode()
    if package.entry_points:
        scripts = "".join(f"{name} = {target}\n" for name, target in package.entry_points.items())
        entries[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}".encode()
    rows = [f"{path},sha256={_record_hash(content)},{len(content)}\n" for path, content in entries.items()]
    entries[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    return _zip(entries)


def _wheel_file(package: Package) -> str:
    purelib = str(package.tag.endswith("-any")).lower()
    build = f"Build: {package.build_tag}\n" if package.build_tag else ""
    return f"Wheel-Version: 1.0\nGenerator: mlenv-tests\nRoot-Is-Purelib: {purelib}\nTag: {package.tag}\n{build}"


def _contents(package: Package) -> Mapping[str, str | bytes]:
    if package.files is not None:
        return package.files
    text = f"__version__ = {package.version!r}\n\n\ndef main():\n    print({package.name!r}, __version__)\n"
    return {f"{package.module}/__init__.py": text}


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _record_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _zip(entries: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in entries.items():
            entry = zipfile.ZipInfo(path, _ZIP_EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, content)
    return buffer.getvalue()


def _sdist(package: Package) -> bytes:
    """The wheel rides inside; the backend only hands it out."""
    root = f"{package.module}-{package.version}"
    wheel = replace(package, kind="wheel")
    entries: dict[str, bytes] = {
        "PKG-INFO": package.metadata,
        "pyproject.toml": _pyproject(package).encode(),
        "build_backend.py": _backend(package, metadata_folder=f"{root}.dist-info").encode(),
        f"prebuilt/{wheel.filename}": wheel.data,
    }
    if package.build.marker is not None:
        entries["setup.py"] = _mark(package.build.marker, "setup.py").encode()
    entries |= {path: text.encode() for path, text in package.build.files.items()}
    return _tar({f"{root}/{path}": content for path, content in entries.items()})


def _pyproject(package: Package) -> str:
    system = {"requires": list(package.build.requires), "build-backend": "build_backend", "backend-path": ["."]}
    text = "[build-system]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in system.items())
    if not package.build.static:
        return text
    text += f'\n[project]\nname = "{package.name}"\nversion = "{package.version}"\n'
    if package.requires_python:
        text += f"requires-python = {json.dumps(package.requires_python)}\n"
    text += f"dependencies = {json.dumps(list(package.requires))}\n"
    if package.extras:
        text += "\n[project.optional-dependencies]\n"
        text += "".join(f"{extra} = {json.dumps(list(names))}\n" for extra, names in package.extras.items())
    return text


def _backend(package: Package, *, metadata_folder: str) -> str:
    mark = _mark(package.build.marker, "build_backend") if package.build.marker else ""
    imports = "".join(f"    import {name}\n" for name in package.build.imports)
    return mark + dedent(
        f"""\
        import os, shutil, zipfile
        WHEEL, INFO = {package.wheel_name!r}, {metadata_folder!r}
        PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "prebuilt", WHEEL)

        def get_requires_for_build_wheel(config_settings=None):
            return []

        def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
            with zipfile.ZipFile(PATH) as archive:
                for name in ("METADATA", "WHEEL"):
                    archive.extract(INFO + "/" + name, metadata_directory)
            return INFO

        def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
        @imports@
            shutil.copy(PATH, wheel_directory)
            return WHEEL
        """
    ).replace("@imports@\n", imports)


def _mark(marker: Path, what: str) -> str:
    return f"with open({str(marker)!r}, 'a') as marker:\n    marker.write({what + chr(10)!r})\n"


def _tar(entries: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in entries.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), compresslevel=0, mtime=0)


# --- the fake foundation ---------------------------------------------------------------------------------------------

_LINUX = '; platform_system == "Linux"'
_VISION = {"2.15.0": "0.29.2", "2.14.1": "0.29.1", "2.13.0": "0.28.0", "2.11.0": "0.26.0", "2.9.1": "0.24.1"}
_ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


@dataclass(frozen=True, kw_only=True)
class FakeFoundation:
    """One backend's foundation: ``family`` belongs to the backend's index, the rest to the default index.

    ``companions`` are triton, nvidia-* and cuda-*; ``ordinary`` is what torch needs of the Application.
    """

    backend: str
    family: tuple[Package, ...]
    companions: tuple[Package, ...]
    ordinary: tuple[Package, ...]

    @property
    def everything(self) -> tuple[Package, ...]:
        return (*self.family, *self.companions, *self.ordinary)

    @property
    def overlay(self) -> str:
        """The text of ``constraints/<backend>.txt`` that pins the family."""
        return "".join(f"{package.name}=={package.version}\n" for package in self.family)


def fake_foundation(
    backend: str, *, torch: str = "2.14.1", source: Literal["pytorch", "default"] = "pytorch"
) -> FakeFoundation:
    """A small foundation for ``cpu`` or any ``cuXYZ``.

    With ``source="pytorch"`` the versions carry the build's label, as on its own index; with ``"default"`` they carry
    none, as on PyPI, and only ``torch/version.py`` does (FACTS, CUDA 4).
    """
    cuda = _cuda(backend)
    label = f"+{backend}" if source == "pytorch" else ""
    companions = _companions(cuda)
    needed = (*_torch_requires(cuda, companions), "filelock", "sympy>=1.13.3")
    nccl = next((package.name for package in companions if "nccl" in package.name), None)
    return FakeFoundation(
        backend=backend,
        family=(
            fake_torch(torch + label, cuda=cuda, requires=needed, nccl=nccl),
            Package("torchvision", _VISION.get(torch, "0.29.1") + label, requires=(f"torch=={torch}",)),
            Package("torchaudio", "2.11.0" + label),
        ),
        companions=companions,
        ordinary=fake_ordinary(),
    )


def fake_ordinary() -> tuple[Package, ...]:
    """What torch needs of the Application: filelock, sympy and sympy's mpmath."""
    mpmath = Package("mpmath", "1.3.0")
    return (Package("filelock", "3.20.0"), Package("sympy", "1.14.0", requires=("mpmath<1.4,>=1.1.0",)), mpmath)


def fake_torch(
    version: str,
    *,
    cuda: str | None,
    requires: Sequence[str] = (),
    build: str | None = None,
    nccl: str | None = None,
    architectures: Sequence[str] = _ARCHITECTURES,
) -> Package:
    """A torch that imports in a millisecond.

    ``build`` is what ``torch/version.py`` says; without it, ``version`` with the label that ``cuda`` gives (``+cpu``
    for None; macOS builds have none: give ``build=version``). With ``nccl`` the name of an NCCL package, importing
    torch fails as the real one does where another family's library took its place (FACTS, CUDA 8).
    """
    label = f"cu{cuda.replace('.', '')}" if cuda else "cpu"
    said = build or (version if "+" in version else f"{version}+{label}")
    files = {
        "torch/__init__.py": _TORCH_INIT.format(nccl=nccl),
        "torch/version.py": _TORCH_VERSION.format(version=said, cuda=cuda),
        "torch/cuda/__init__.py": _TORCH_CUDA.format(architectures=list(architectures if cuda else ())),
        "torch/lib/libtorch_cpu.so": f"not a library: {said}\n",
    }
    return Package("torch", version, requires=requires, files=files, requires_python=">=3.10")


def fake_nccl(family: Literal["cu12", "cu13"]) -> Package:
    """NCCL of one CUDA family; both families own the same two paths, with different bytes."""
    name = f"nvidia-nccl-{family}"
    files = {
        "nvidia/nccl/include/nccl.h": f"// {name}\n",
        "nvidia/nccl/lib/libnccl.so.2": f"not a library: {name}\n",
    }
    return Package(name, "2.30.7", files=files)


def _cuda(backend: str) -> str | None:
    match = re.fullmatch(r"cu(\d+)(\d)", backend)
    return f"{match[1]}.{match[2]}" if match else None


def _companions(cuda: str | None) -> tuple[Package, ...]:
    if cuda is None:
        return ()
    triton = Package("triton", "3.8.0")
    if cuda.startswith("12."):
        cublas = _library("nvidia-cublas-cu12", f"{cuda}.4.1", path="nvidia/cublas/lib/libcublas.so.12")
        return (triton, cublas, fake_nccl("cu12"))
    cublas = _library("nvidia-cublas", f"{cuda}.1.1", path="nvidia/cu13/lib/libcublas.so.13")
    runtime = _library("nvidia-cuda-runtime", f"{cuda}.96", path="nvidia/cu13/lib/libcudart.so.13")
    extras = {"cublas": (f"nvidia-cublas=={cuda}.*{_LINUX}",), "cudart": (f"nvidia-cuda-runtime=={cuda}.*{_LINUX}",)}
    return (triton, Package("cuda-toolkit", f"{cuda}.3", extras=extras, files={}), cublas, runtime, fake_nccl("cu13"))


def _library(name: str, version: str, *, path: str) -> Package:
    return Package(name, version, files={path: f"not a library: {name} {version}\n"})


def _torch_requires(cuda: str | None, companions: Sequence[Package]) -> tuple[str, ...]:
    """What torch's METADATA says of them: cu13 goes through cuda-toolkit, cu12 names each (FACTS, CUDA 6)."""
    if cuda is None:
        return ()
    toolkit = f"cuda-toolkit[cublas,cudart]=={cuda}.3{_LINUX}"
    direct = [p for p in companions if "nccl" in p.name or p.name in ("triton", "nvidia-cublas-cu12")]
    named = tuple(f"{package.name}=={package.version}{_LINUX}" for package in direct)
    return named if cuda.startswith("12.") else (toolkit, *named)


_TORCH_VERSION = """\
from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda!r}
git_version = '0000000000000000000000000000000000000000'
hip: Optional[str] = None
rocm: Optional[str] = None
xpu: Optional[str] = None
"""

_TORCH_CUDA = """\
def is_available():
    return False


def device_count():
    return 0


def get_arch_list():
    return {architectures!r}
"""

_TORCH_INIT = """\
import os

_nccl = {nccl!r}
_library = os.path.join(os.path.dirname(__file__), "..", "nvidia", "nccl", "lib", "libnccl.so.2")
if _nccl is not None:
    if not os.path.exists(_library):
        raise ImportError("libnccl.so.2: cannot open shared object file: No such file or directory")
    with open(_library) as _file:
        if _nccl not in _file.read():
            raise ImportError("libtorch_cuda.so: undefined symbol: ncclCommResume")

from torch import cuda, version
from torch.version import __version__
"""
