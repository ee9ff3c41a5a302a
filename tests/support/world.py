"""One project with two backends, its indexes, and mlenv to run in it: what tests of ``sync`` and friends start from.

The torch family comes from ``pytorch-cpu`` and ``pytorch-cu130``, everything else from ``pypi``. A lock for inputs that
were locked before in this run is written, not resolved: it is the same bytes anywhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.index import LoopbackIndex
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import FakeFoundation, Package, fake_foundation

_LOCKS: dict[str, str] = {}
_PATIENCE_SECONDS = 30.0
DEMO = Package("demo-app", "1.0", requires=("torch>=2",), entry_points={"demo": "demo_app:main"})
# Of a local project `my-library` whose package is in src.
LOCAL_BACKEND = """
import os, zipfile

def _wheel(folder, text):
    name = "my_library-0.1-py3-none-any.whl"
    info = "my_library-0.1.dist-info"
    files = {f"{info}/METADATA": "Metadata-Version: 2.1\\nName: my-library\\nVersion: 0.1\\nRequires-Dist: mpmath\\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n", **text}
    record = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        for path, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, content)
    return name

def build_editable(folder, config_settings=None, metadata_directory=None):
    return _wheel(folder, {"my_library.pth": os.path.join(os.getcwd(), "src") + "\\n"})

def build_wheel(folder, config_settings=None, metadata_directory=None):
    return _wheel(folder, {"my_library.py": "HERE = 'copied'\\n"})
"""


@dataclass(frozen=True, kw_only=True)
class World:
    """The project at ``root``; ``variables`` are what every call gets."""

    root: Path
    index: LoopbackIndex
    program: RunProgram
    variables: Mapping[str, str | None]
    foundations: Mapping[str, FakeFoundation]
    home: Path
    published: list[Package] = field(default_factory=list)

    def run(self, *args: str | Path, env: Mapping[str, str | None] | None = None) -> Finished:
        """Run mlenv in the project."""
        return self.program(*args, cwd=self.root, env={**self.variables, **(env or {})})

    def json(self, *args: str | Path, env: Mapping[str, str | None] | None = None, code: int = 0) -> dict[str, Any]:
        """Run it with ``--json`` and return the document; it must end with ``code``."""
        done = self.run(*args, "--json", env=env)
        assert done.code == code, done
        document: dict[str, Any] = json.loads(done.out)
        return document

    def sync(self, *args: str | Path, env: Mapping[str, str | None] | None = None) -> str:
        """A sync for the CPU that must succeed, its gate without an import; returns what it said on both streams."""
        words = args if any(str(word).startswith(("--cu", "--backend")) for word in args) else ("--cpu", *args)
        done = self.run("sync", "--verify", "metadata", *words, env=env)
        assert done.code == 0, done
        return done.out + done.err

    def lock(self) -> None:
        """Make the lock, or write the one that the same inputs got before."""
        parts = [path.read_text() for path in sorted(self.root.rglob("*")) if _is_input(path)]
        key = "\0".join([*parts, *(package.sha256 for package in self.published)])
        if key not in _LOCKS:
            done = self.run("lock")
            assert done.code == 0, done
            _LOCKS[key] = (self.root / "requirements.txt").read_text()
        (self.root / "requirements.txt").write_text(_LOCKS[key])

    def publish(self, *packages: Package, index: str = "pypi") -> None:
        """Add packages to an index, to the default one unless told otherwise."""
        self.published.extend(packages)
        self.index.add(index, *packages)

    def require(self, *lines: str) -> None:
        """Write requirements.in and lock it."""
        (self.root / "requirements.in").write_text("".join(f"{line}\n" for line in lines))
        self.lock()

    def configure(self, text: str) -> None:
        """Write ``[tool.mlenv]``."""
        (self.root / "pyproject.toml").write_text("[tool.mlenv]\n" + text)

    def start(
        self, *args: str | Path, env: Mapping[str, str | None] | None = None, start_new_session: bool = False
    ) -> subprocess.Popen[str]:
        """Start mlenv, where asked in a process group of its own, and return at once."""
        isolated = {name: str(self.home) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_DIRS")}
        merged = {**os.environ, **isolated, **self.variables, **(env or {})}
        return subprocess.Popen(
            [sys.executable, "-m", "mlenv", *map(str, args)],
            cwd=self.root,
            env={name: value for name, value in merged.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )

    @property
    def environment(self) -> Path:
        return self.root / ".venv"

    @property
    def generation(self) -> Path:
        """What ``.venv`` points to."""
        return self.environment.resolve()

    @property
    def generations(self) -> list[str]:
        folder = self.root / ".mlenv" / "gen"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    @property
    def site(self) -> Path:
        return site_of(self.generation)

    @property
    def manifest(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.generation / "mlenv.json").read_text())
        return document

    @property
    def installed(self) -> dict[str, str]:
        """name → version of what is in the environment."""
        found = (path.name.removesuffix(".dist-info").split("-", 1) for path in self.site.glob("*.dist-info"))
        return {name.replace("_", "-"): version for name, version in found}


def make_world(index: LoopbackIndex, project: ProjectFactory, program: RunProgram) -> World:
    """A project that requires ``demo-app`` on the backends cpu and cu130, locked."""
    foundations = {name: fake_foundation(name) for name in ("cpu", "cu130")}
    files = {f"constraints/{name}.txt": f.overlay for name, f in foundations.items()}
    root = project({**files, "uv.toml": indexes_toml(index, *foundations)})
    home = root.parent / "home"
    home.mkdir(exist_ok=True)
    world = World(
        root=root,
        index=index,
        program=program,
        variables={"UV_DEFAULT_INDEX": index.url("pypi")},
        foundations=foundations,
        home=home,
    )
    for name, foundation in foundations.items():
        world.publish(*foundation.family, index=f"pytorch-{name}")
        world.publish(*foundation.companions, *foundation.ordinary)
    world.publish(DEMO)
    world.require("demo-app")
    return world


def indexes_toml(index: LoopbackIndex, *backends: str, extra: str = "") -> str:
    """A uv.toml with the index of each backend."""
    blocks = [
        f'[[index]]\nname = "pytorch-{name}"\nurl = "{index.url(f"pytorch-{name}")}"\nexplicit = true\n'
        for name in backends
    ]
    return "\n".join(blocks) + extra


def site_of(environment: Path) -> Path:
    """The environment's site-packages."""
    return next((environment / "lib").glob("python3*")) / "site-packages"


def wait_until(condition: object, *, what: str, seconds: float = _PATIENCE_SECONDS) -> None:
    """Wait until the callable says yes; fail with ``what`` where it doesn't."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def alive_below(folder: Path) -> list[int]:
    """The processes (Linux) whose command line names something in ``folder``, our own left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def end(process: subprocess.Popen[str], number: signal.Signals) -> Finished:
    """Send a signal to a process and wait for it."""
    process.send_signal(number)
    out, err = process.communicate(timeout=_PATIENCE_SECONDS)
    return Finished(code=process.returncode, out=out, err=err)


def _is_input(path: Path) -> bool:
    own = {".mlenv", ".venv"} & set(path.parts)
    return path.is_file() and not own and path.name not in ("requirements.txt", "uv.toml")
