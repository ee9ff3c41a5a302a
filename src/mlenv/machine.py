"""What was observed of a machine, as frozen values; as JSON and back. Pure: ``system/probe.py`` looks."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, fields
from typing import Any, Literal, TypeVar, get_args

from mlenv.errors import ProjectError
from mlenv.report import Finding
from mlenv.values import dataclass

OperatingSystem = Literal["linux", "windows", "macos"]
Architecture = Literal["x86_64", "aarch64", "arm64"]
DRIVER_FAULTS = ("driver-", "gpu-")
"""How the kinds of findings start that say: a GPU or its driver is there, and can't be used."""

_LEADING_INTEGER = r"[+-]?\d+"
_VERSION = r"(\d{1,2})\.(\d{1,2})"
_DRIVER = r"\d[\w.+~-]*"
_WINDOWS_DISPLAY_DRIVER = r"\d+\.\d+\.(\d{1,2})\.(\d{4})"
_UNPRINTABLE = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_OTHER_WORDS = {
    "darwin": "macos",
    "mac": "macos",
    "win32": "windows",
    "nt": "windows",
    "amd64": "x86_64",
    "x64": "x86_64",
}
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU. ``index`` is NVML's (PCI bus order); ``visible`` says whether CUDA programs see it here.

    ``mig`` has the UUIDs of its MIG instances; with MIG on, CUDA programs see those and not the whole GPU.
    """

    index: int
    name: str
    uuid: str
    memory_mib: int | None
    compute_capability: tuple[int, int]
    visible: bool
    mig: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine. ``cuda`` is the newest CUDA its driver supports; ``findings`` are what is wrong with its driver.

    On WSL2 ``driver`` is the number of the driver of Windows. ``jetson`` is NVIDIA's board with an integrated GPU.
    ``facts`` are what installed plugins saw, by their own names.
    """

    os: OperatingSystem
    arch: Architecture
    wsl: bool = False
    container: bool = False
    jetson: bool = False
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def platform(self) -> str:
        """The settings' word for it: ``linux-x86_64``, ``macos-arm64``, ..."""
        return f"{self.os}-{self.arch}"

    @property
    def visible_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that CUDA programs see, CUDA_VISIBLE_DEVICES applied."""
        return tuple(gpu for gpu in self.gpus if gpu.visible)

    @property
    def driver_fault(self) -> Finding | None:
        """What keeps a GPU that is there from being used, or None."""
        return next((found for found in self.findings if found.kind.startswith(DRIVER_FAULTS)), None)

    def as_json(self) -> dict[str, Any]:
        """The machine as JSON values; ``from_json`` reads them back."""
        return {
            "os": self.os,
            "arch": self.arch,
            "wsl": self.wsl,
            "container": self.container,
            "jetson": self.jetson,
            "driver": self.driver,
            "cuda": None if self.cuda is None else dotted(self.cuda),
            "gpus": [_gpu_as_json(gpu) for gpu in self.gpus],
            "findings": [found.as_json() for found in self.findings],
            "facts": dict(self.facts),
        }


def _gpu_as_json(gpu: Gpu) -> dict[str, Any]:
    return {**vars(gpu), "compute_capability": dotted(gpu.compute_capability), "mig": list(gpu.mig)}


def dotted(version: tuple[int, int]) -> str:
    """(12, 0) → ``12.0``."""
    return f"{version[0]}.{version[1]}"


@dataclass(frozen=True, kw_only=True)
class Visible:
    """Which GPUs CUDA_VISIBLE_DEVICES leaves, in its order; ``stopped_at`` is the first word that names none."""

    indices: tuple[int, ...]
    stopped_at: str | None = None


def visible_devices(value: str | None, devices: Sequence[Sequence[str]]) -> Visible:
    """What CUDA_VISIBLE_DEVICES leaves of ``devices``, each given by its UUID followed by those of its MIG instances.

    Not set: all. Empty or negative: none. Reading stops at the first word that names no device, or more than one;
    numbers and UUIDs don't mix; a device named twice hides all (CUDA programming guide; torch's own reading of it).
    """
    if value is None:
        return Visible(indices=tuple(range(len(devices))))
    words = [word.strip() for word in value.split(",")]
    if words in ([""], ["-1"]):
        return Visible(indices=())
    find = _by_uuid if words[0].startswith(("GPU-", "MIG-")) else _by_number
    chosen: list[int] = []
    seen: set[str] = set()
    for word in words:
        index = find(word, devices)
        if index is None:
            return Visible(indices=tuple(chosen), stopped_at=word)
        if word in seen or (index in chosen and not word.startswith("MIG-")):
            return Visible(indices=(), stopped_at=word)
        seen.add(word)
        chosen += [] if index in chosen else [index]
    return Visible(indices=tuple(chosen))


def _by_number(word: str, devices: Sequence[Sequence[str]]) -> int | None:
    found = re.match(_LEADING_INTEGER, word)
    return int(found[0]) if found and 0 <= int(found[0]) < len(devices) else None


def _by_uuid(word: str, devices: Sequence[Sequence[str]]) -> int | None:
    if not word.startswith(("GPU-", "MIG-")):
        return None
    # MIG-GPU-<uuid>/<instance>/<instance> is how drivers before R470 named MIG instances.
    prefix = word.removeprefix("MIG-").split("/")[0] if word.startswith("MIG-GPU-") else word
    named = [index for index, uuids in enumerate(devices) for uuid in uuids if uuid.startswith(prefix)]
    return named[0] if len(named) == 1 else None


def parse(text: str, *, path: str) -> Machine:
    """The machine in a file: what ``mlenv detect --json`` printed, or the machine alone. Raises ProjectError."""
    import json

    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _each_once(pairs, path=path))
    except (ValueError, RecursionError) as error:
        hint = "write what `mlenv detect --json` printed there into it"
        raise ProjectError(f"is not JSON: {error}", path=path, hint=hint) from error
    if isinstance(data, dict) and isinstance(data.get("machine"), dict):
        data = data["machine"]
    return from_json(data, path=path)


def _each_once(pairs: Sequence[tuple[str, object]], *, path: str) -> dict[str, object]:
    """A JSON object. Raises ProjectError for a field that is there twice: JSON lets the last one win in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ProjectError(f"has the field {twice!r} twice", path=path, hint="keep one of the two")
    return found


def from_json(data: object, *, path: str | None = None) -> Machine:
    """The machine that JSON values describe: what ``as_json`` gave, or a description written by hand.

    Only ``os`` and ``arch``, and of a GPU ``name`` and ``compute_capability``, must be there. ``path`` is the file that
    errors name. Raises ProjectError with the path to the bad field.
    """
    read = _Reader(data, where="", path=path)
    read.only(fields(Machine))
    system = read.get("os", _one_of(get_args(OperatingSystem)))
    return Machine(
        os=system,
        arch=read.get("arch", _architecture(system)),
        wsl=read.get("wsl", _boolean, default=False),
        container=read.get("container", _boolean, default=False),
        jetson=read.get("jetson", _boolean, default=False),
        driver=read.get("driver", _optional(_driver), default=None),
        cuda=read.get("cuda", _optional(_version), default=None),
        gpus=tuple(_gpu(item, index) for index, item in enumerate(read.items("gpus"))),
        findings=tuple(_finding(item) for item in read.items("findings")),
        facts=read.get("facts", _texts_by_name, default={}),
    )


def _gpu(read: _Reader, position: int) -> Gpu:
    read.only(fields(Gpu))
    return Gpu(
        index=read.get("index", _integer, default=position),
        name=read.get("name", _printable),
        uuid=read.get("uuid", _printable, default=""),
        memory_mib=read.get("memory_mib", _optional(_integer), default=None),
        compute_capability=read.get("compute_capability", _version),
        visible=read.get("visible", _boolean, default=True),
        mig=read.get("mig", _texts, default=()),
    )


def _finding(read: _Reader) -> Finding:
    read.only(fields(Finding))
    return Finding(
        kind=read.get("kind", _string),
        message=read.get("message", _string),
        hint=read.get("hint", _optional(_string), default=None),
        path=read.get("path", _optional(_string), default=None),
        line=read.get("line", _optional(_integer), default=None),
        severity=read.get("severity", _one_of(("error", "warning", "note")), default="error"),
        package=read.get("package", _optional(_string), default=None),
        why=read.get("why", _optional(_string), default=None),
    )


class _Reader:
    """A JSON object whose fields are taken one by one; every complaint carries the path to the field."""

    def __init__(self, data: object, *, where: str, path: str | None):
        self.where = where
        self.path = path
        if not isinstance(data, Mapping):
            raise self._error(where or "the machine", "must be a table (object)")
        self.data: Mapping[str, object] = data

    def only(self, known: Collection[Any]) -> None:
        """Raise ProjectError for a field that isn't among the fields of the dataclass."""
        import difflib

        names = [field.name for field in known]
        for key in self.data:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                meant = f"; did you mean {near[0]}?" if near else f" (known: {', '.join(names)})"
                raise self._error(self._name(key), f"is not a field of it{meant}")

    def get(self, key: str, convert: Callable[[object], _T], *, default: Any = ...) -> _T:
        """The field, converted. Raises ProjectError where it is missing without a default, or of another kind."""
        if key not in self.data and default is not ...:
            fallback: _T = default
            return fallback
        if key not in self.data:
            raise self._error(self._name(key), "is missing")
        try:
            return convert(self.data[key])
        except ValueError as error:
            raise self._error(self._name(key), f"must be {error}, not {self.data[key]!r}") from error

    def items(self, key: str) -> list[_Reader]:
        """The objects of a list; an absent list is empty."""
        items = self.get(key, _list, default=[])
        return [_Reader(item, where=f"{self._name(key)}[{n}]", path=self.path) for n, item in enumerate(items)]

    def _name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def _error(self, name: str, what: str) -> ProjectError:
        return ProjectError(
            f"{name} {what}", path=self.path, hint="`mlenv detect --json` prints a machine as it must look"
        )


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")  # one exception type for every conversion
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError("a list")
    return value


def _version(value: object) -> tuple[int, int]:
    found = re.fullmatch(_VERSION, value) if isinstance(value, str) else None
    if found is None:
        raise ValueError('a version such as "12.0"')
    return int(found[1]), int(found[2])


def _optional(convert: Callable[[object], _T]) -> Callable[[object], _T | None]:
    return lambda value: None if value is None else convert(value)


def _printable(value: object) -> str:
    text = _string(value)
    if re.search(_UNPRINTABLE, text):
        raise ValueError("a text of one line")
    return text


def _driver(value: object) -> str:
    """NVIDIA's number. The last five digits of the one that Windows shows for the display driver are that, too."""
    text = _string(value)
    shown_by_windows = re.fullmatch(_WINDOWS_DISPLAY_DRIVER, text)
    if shown_by_windows is not None:
        digits = "".join(shown_by_windows.groups())[-5:]
        return f"{digits[:3]}.{digits[3:]}"
    if not re.fullmatch(_DRIVER, text):
        raise ValueError('the number of a driver such as "580.65.06"')
    return text


def _architecture(system: str) -> Callable[[object], Any]:
    """One architecture has two names: macOS says arm64, the others say aarch64 here."""
    own, other = ("arm64", "aarch64") if system == "macos" else ("aarch64", "arm64")

    def of_system(value: object) -> object:
        if isinstance(value, str) and value.lower() == other:
            raise ValueError(f"{own} where os is {system}")
        return _one_of(("x86_64", own))(value)

    return of_system


def _one_of(words: Sequence[Any]) -> Callable[[object], Any]:
    def convert(value: object) -> object:
        import difflib

        if value in words:
            return value
        said = str(value).lower()
        near = difflib.get_close_matches(_OTHER_WORDS.get(said, said), words, n=1)
        raise ValueError(f"{near[0]} (of {', '.join(words)})" if near else f"one of {', '.join(words)}")

    return convert


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of texts")
    return tuple(value)


def _texts_by_name(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in (*value, *value.values())):
        raise ValueError("a table of texts")
    return value
