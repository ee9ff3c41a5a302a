"""The only place that knows uv's options, its environment variables and the shape of its messages.

Every call gets an explicit configuration file, an allow-list of environment variables and an absolute interpreter:
nothing that a shell or a home folder holds can change a result (docs/adr/0003, FACTS "Reliability and trust" 5).
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mlenv.errors import (
    EnvironmentBuildError,
    FaultError,
    MlenvError,
    NoSpaceError,
    PackageIndexError,
    ProjectError,
    ResolutionError,
)
from mlenv.system import process, scratch
from mlenv.system.uv_messages import GENERATED_PROJECT, UPGRADES, answered, empty_page, explain, mask, missing_name
from mlenv.values import dataclass

# What a user sets to reach the network, and what a process needs to live.
_FORWARDED = frozenset(
    """
    PATH HOME USER LOGNAME TMPDIR TEMP TMP LANG LANGUAGE TERM NETRC LD_LIBRARY_PATH DYLD_LIBRARY_PATH
    SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT APPDATA LOCALAPPDATA USERPROFILE PROGRAMDATA
    XDG_CACHE_HOME XDG_DATA_HOME XDG_CONFIG_HOME XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS
    HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR SSL_CLIENT_CERT
    UV_CACHE_DIR UV_LINK_MODE UV_HTTP_TIMEOUT UV_REQUEST_TIMEOUT UV_HTTP_CONNECT_TIMEOUT UV_HTTP_RETRIES
    UV_CONCURRENT_DOWNLOADS UV_CONCURRENT_BUILDS UV_CONCURRENT_INSTALLS
    UV_NATIVE_TLS UV_SYSTEM_CERTS UV_INSECURE_HOST UV_KEYRING_PROVIDER UV_PYTHON_INSTALL_DIR UV_CREDENTIALS_DIR
    """.split()  # noqa: SIM905 - a page of quotes says less
)
_FORWARDED_PATTERN = r"LC_[A-Z]+|UV_INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)"
# Read by mlenv itself and handed to uv in another form.
_HANDLED = frozenset({"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_OFFLINE", "UV_PYTHON_DOWNLOADS"})
# What compilers read, for the packages that the settings name in `build` and for local projects.
_COMPILER = (
    r"CC|CXX|CPP|AR|LD|CFLAGS|CXXFLAGS|CPPFLAGS|LDFLAGS|CMAKE_[A-Z_]+|CUDA_HOME|CUDA_PATH|CUDNN_HOME|FORCE_CUDA"
    r"|CPATH|C_INCLUDE_PATH|CPLUS_INCLUDE_PATH|LIBRARY_PATH|TORCH_CUDA_ARCH_LIST|NVCC_(?:PREPEND|APPEND)_FLAGS"
    r"|(?:FLASH_ATTENTION|FLASH_ATTN|CAUSAL_CONV1D|MAMBA|DS)_[A-Z0-9_]+"
)
# Read by them, and no part of what comes out.
_SPEED = frozenset({"MAX_JOBS", "NVCC_THREADS", "CUDA_VISIBLE_DEVICES"})
# Left alone, these builds fetch a binary that nobody hashed, and compile only where they find none.
_COMPILED_HERE = {f"{name}_FORCE_BUILD": "TRUE" for name in ("FLASH_ATTENTION", "CAUSAL_CONV1D", "MAMBA")}

# In the private folder uv runs in, where no file of the project can be.
_OWN = ".mlenv-in"
_GENERATED = f"{_OWN}/pyproject.toml"
_PROBES = 3
_ERROR = b"error: "
Format = Literal["requirements.txt", "pylock.toml"]
# Linux: glibc 2.35 (Ubuntu 22.04). uv's plain "linux" means 2.28, for which vllm, for one, has no wheel.
UV_PLATFORMS = {
    "linux-x86_64": "x86_64-manylinux_2_35",
    "linux-aarch64": "aarch64-manylinux_2_35",
    "windows-x86_64": "x86_64-pc-windows-msvc",
    "macos-arm64": "aarch64-apple-darwin",
}

# uv means macOS 13; torch has wheels for 14 and later.
_TARGET_VARIABLES: Mapping[str, Mapping[str, str]] = {"macos-arm64": {"MACOSX_DEPLOYMENT_TARGET": "14.0"}}


@dataclass(frozen=True, kw_only=True)
class Uv:
    """How uv is to be started: its path, the variables it gets, whether the network may be used."""

    binary: Path
    env: Mapping[str, str]
    offline: bool = False
    echo: Callable[[bytes], None] | None = None
    terminal: bool = False


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """Which existing pins may move: all of them, or the named ones (``name`` or ``name==version``)."""

    everything: bool = False
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """One resolution: the files uv reads (path → text, inside a private folder), and what it is for.

    ``python`` is a version ("3.11"), ``platform`` one of mlenv's platforms, or None for the machine's own.
    ``excluded`` names are passed over as if nothing asked for them, ``alone`` passes over all dependencies, ``lowest``
    takes the oldest release of each direct requirement. The index is asked for the names in ``refresh`` however fresh
    the cache is. ``seed`` is an earlier output whose pins are preferred. ``allowed_builds`` are names and folders whose
    build code may run.
    ``config`` is the text of uv's configuration file.
    """

    files: Mapping[str, str]
    sources: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    config: str = ""
    python: str
    interpreter: Path
    platform: str | None
    excluded: tuple[str, ...] = ()
    alone: bool = False
    lowest: bool = False
    refresh: tuple[str, ...] = ()
    seed: str = ""
    upgrade: Upgrade = Upgrade()
    output: Format = "requirements.txt"
    allowed_builds: tuple[str, ...] = ()


def find(environ: Mapping[str, str], *, offline: bool = False, echo: Callable[[bytes], None] | None = None) -> Uv:
    """The uv that mlenv was installed with. Raises FaultError where it is missing."""
    try:
        import uv

        binary = Path(uv.find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        raise _no_uv(str(error)) from error
    switched_off = environ.get("UV_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return Uv(binary=binary, env=forwarded(environ), offline=offline or switched_off, echo=echo)


def impatient(uv: Uv) -> Uv:
    """The same uv that gives an index seconds, not minutes: for questions whose answer may be "not reachable"."""
    seconds = {"UV_HTTP_RETRIES": "0", "UV_HTTP_CONNECT_TIMEOUT": "3", "UV_HTTP_TIMEOUT": "5"}
    kept = {name: value for name, value in uv.env.items() if name != "UV_REQUEST_TIMEOUT"}
    return replace(uv, env={**kept, **seconds}, echo=None)


def patient(env: Mapping[str, str]) -> dict[str, str]:
    """The variables with how long a silent index is waited for, where they don't say: 12 s, three times.

    uv itself waits 30 s, four times: that is told after two minutes and more.
    """
    timeout = {} if "UV_REQUEST_TIMEOUT" in env else {"UV_HTTP_TIMEOUT": "12"}
    return {**timeout, "UV_HTTP_RETRIES": "2", **env}


def version(uv: Uv) -> str:
    """uv's own version, ``0.13.9``. Raises FaultError where it doesn't start."""
    done = _run([uv.binary, "--version"], env=uv.env)
    words = done.out.split()
    if done.code != 0 or len(words) < 2:
        raise _no_uv(done.err.strip() or f"{uv.binary} --version says {done.out.strip()!r}")
    return words[1]


def cache_folder(uv: Uv, *, config: str) -> Path:
    """uv's cache, as a call with the configuration ``config`` (text of a uv.toml) uses it. Raises FaultError."""
    with scratch.folder() as folder:
        path = Path(folder, "uv.toml")
        path.write_text(config, encoding="utf-8")
        done = _run([uv.binary, "cache", "dir", "--config-file", path, "--color", "never"], env=uv.env)
    if done.code != 0:
        raise explain(done.err, code=done.code)
    return Path(done.out.strip())


def cache_clean(uv: Uv, names: Iterable[str]) -> str:
    """The command that drops packages from uv's cache, for hints: with uv's path unless a shell finds this very uv."""
    import shutil

    on_path = shutil.which("uv", path=uv.env.get("PATH"))
    found = on_path is not None and Path(on_path).resolve() == uv.binary.resolve()
    return f"`{shlex.join(['uv' if found else str(uv.binary), 'cache', 'clean', *sorted(names)])}`"


def clean_cache(uv: Uv, names: Iterable[str]) -> None:
    """Drop packages from uv's cache, so that they are fetched again. Raises EnvironmentBuildError."""
    done = _run([uv.binary, "cache", "clean", "--no-config", "--quiet", *sorted(names)], env=uv.env)
    if done.code != 0:
        raise explain(done.err, code=done.code, default=EnvironmentBuildError)


def _no_uv(reason: str) -> FaultError:
    return FaultError(
        f"uv, which mlenv was installed with, can't be started: {reason}", hint="reinstall mlenv, and uv with it"
    )


def forwarded(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables uv is given: an allow-list, so that none can quietly change a result."""
    kept = {
        name: value
        for name, value in environ.items()
        if name.upper() in _FORWARDED
        or name in _SPEED
        or re.fullmatch(_FORWARDED_PATTERN, name)
        or re.fullmatch(_COMPILER, name)
    }
    downloads = environ.get("UV_PYTHON_DOWNLOADS", "never")
    return kept | {"UV_PYTHON_DOWNLOADS": downloads, "UV_NO_PROGRESS": "0", "UV_NO_WRAP": "1"}


def compiler(uv: Uv) -> dict[str, str]:
    """Of the variables uv is given, those that decide what a compiler makes."""
    return {name: value for name, value in uv.env.items() if re.fullmatch(_COMPILER, name)}


def dropped(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The UV_* and PIP_* variables that are set and kept from uv, sorted."""
    ours = forwarded(environ)
    return tuple(sorted(n for n in environ if n.startswith(("UV_", "PIP_")) and n not in ours and n not in _HANDLED))


def compile_(uv: Uv, task: Compilation, *, expected: Callable[[str], bool] = lambda _: False) -> str:
    """Resolve, and return the text of uv's output file. Raises what ``uv_messages.explain`` makes of a failure.

    Where a name is missing of which that is ``expected``, the index is not asked what it really said.
    """
    with _folder(task) as folder:
        output = folder / _OWN / ("pylock.toml" if task.output == "pylock.toml" else "output.txt")
        if task.seed:
            output.write_text(task.seed, encoding="utf-8")
        argv = _compile_argv(uv, task, output)
        env = {
            **uv.env,
            **_TARGET_VARIABLES.get(task.platform or "", {}),
            "PYTHONPATH": str(folder / _OWN / "guard"),
            "MLENV_BUILD_ALLOWED": _json(task.allowed_builds),
        }
        done = _run(argv, env=env, cwd=folder)
        if done.code != 0:
            read = {UPGRADES: "\n".join(task.upgrade.packages), **task.files}
            error = explain(done.err, code=done.code, folder=str(folder), files=read)
            name = missing_name(error) if isinstance(error, ResolutionError) else None
            sure = name is not None and expected(name)
            told = None if sure else _second_opinion(replace(uv, env=env), task, folder, error)
            raise _located(task, told or error)
        return output.read_text(encoding="utf-8")


def _run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    echo: Callable[[bytes], None] | None = None,
    terminal: bool = False,
) -> process.Completed:
    """uv's own end. Raises FaultError where uv can't be started."""
    try:
        return process.run(argv, env=patient(env), cwd=cwd, echo=echo, terminal=terminal)
    except OSError as error:
        raise _no_uv(f"{error.strerror}: {argv[0]}") from error


def _second_opinion(uv: Uv, task: Compilation, folder: Path, error: MlenvError) -> MlenvError | None:
    """What the index really said of a name or a release that uv reports as not there; None where that is so.

    uv tells 401, 403 and a log-in page of an explicit index as "not found". And where up to three other names that must
    come from the same index are missing too, its URL is wrong; for a direct requirement of the default index ``pip`` is
    one of them, as every mirror has it.
    """
    name = missing_name(error, releases=True) if isinstance(error, ResolutionError) and not uv.offline else None
    if name is None:
        return None
    answer = _ask(uv, task, folder, name)
    if not isinstance(answer, ResolutionError) or missing_name(answer) != name:
        return answer if isinstance(answer, PackageIndexError) else None
    bound, direct = _direct(task)
    others = [other for other in direct if other != name and bound.get(other) == bound.get(name)][:_PROBES]
    others += ["pip"] if name in direct and name not in bound else []
    for other in others:
        answer = _ask(uv, task, folder, other)
        if answer is None or missing_name(answer) != other:
            return None
    return _wrong_url(_index_url(task, bound.get(name)), [name, *others]) if others else None


def _located(task: Compilation, error: MlenvError) -> MlenvError:
    """The error, with the page's address where uv names only the package."""
    name = empty_page(error)
    url = _index_url(task, _direct(task)[0].get(name)) if name else ""
    if name and "://" in url:
        error.message = error.message.replace("the index answered for", f"{url.rstrip('/')}/{name}/ answered for", 1)
    return error


def _wrong_url(url: str, names: Sequence[str]) -> MlenvError:
    return PackageIndexError(
        f"{url} answers 404 for every name: {', '.join(names)}",
        hint="is it the right URL? That of an index ends in /simple, as a rule; if it is, check the names' spelling",
    )


def _direct(task: Compilation) -> tuple[Mapping[str, str], list[str]]:
    """(name → index, for the names that are bound to one; every direct requirement's name)."""
    import tomllib

    sources = _generated(task).get("tool", {}).get("uv", {}).get("sources", {})
    projects = [tomllib.loads(text) for path, text in task.files.items() if path.endswith("pyproject.toml")]
    lines = [line for project in projects for line in project.get("project", {}).get("dependencies", [])]
    listed = [path for path in task.sources if not path.endswith("pyproject.toml")]
    lines += [line for path in listed for line in task.files.get(path, "").splitlines()]
    named = (match[1] for line in lines if (match := re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line)))
    names = (re.sub(r"[-_.]+", "-", name).lower() for name in named)
    return {name: source["index"] for name, source in sources.items()}, list(dict.fromkeys(names))


def _generated(task: Compilation) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(task.files.get(_GENERATED, ""))


def _index_url(task: Compilation, name: str | None) -> str:
    """Where a name is looked for; ``name`` is that of an index, None for the default one."""
    import tomllib

    named = _generated(task).get("tool", {}).get("uv", {}).get("index", [])
    tables = [t for t in named if t.get("name") == name] if name else tomllib.loads(task.config).get("index", [])
    return mask(str(tables[0]["url"])) if tables else "the default index"


def _ask(uv: Uv, task: Compilation, folder: Path, name: str) -> MlenvError | None:
    """What is wrong with one name, asked for alone; None where its index serves it."""
    import tomlkit

    document = _generated(task)
    document.setdefault("project", {}).update({"name": GENERATED_PROJECT, "version": "0", "dependencies": [name]})
    (folder / _OWN / "probe").mkdir(exist_ok=True)
    (folder / _OWN / "probe" / "pyproject.toml").write_text(tomlkit.dumps(document), encoding="utf-8")
    argv: list[str | Path] = [uv.binary, "pip", "compile", f"{_OWN}/probe/pyproject.toml", "--no-deps", "--verbose"]
    argv += ["--config-file", f"{_OWN}/uv.toml", "--python", task.interpreter, "--color", "never"]
    done = _run(argv, env=uv.env, cwd=folder)
    if done.code == 0:
        return None
    if refused := re.search(r"because of status code failure: (\d+ [A-Za-z ]+)", done.err):
        return answered(_index_url(task, _direct(task)[0].get(name)), refused[1])
    told = [line for line in done.err.splitlines() if not line.startswith(("DEBUG ", "TRACE ", "INFO "))]
    return explain("\n".join(told), code=done.code)


def _compile_argv(uv: Uv, task: Compilation, output: Path) -> list[str | Path]:
    argv: list[str | Path] = [uv.binary, "pip", "compile", *task.sources, "--output-file", output]
    argv += ["--config-file", f"{_OWN}/uv.toml", "--python", task.interpreter, "--python-version", task.python]
    argv += ["--format", task.output, "--no-header", "--quiet", "--color", "never", "--index-strategy", "first-index"]
    argv += [word for constraint in task.constraints for word in ("--constraints", constraint)]
    argv += ["--excludes", f"{_OWN}/excluded.txt"] if task.excluded else []
    argv += ["--no-deps"] if task.alone else []
    argv += ["--resolution", "lowest-direct"] if task.lowest else []
    argv += [word for name in task.refresh if not uv.offline for word in ("--refresh-package", name)]
    if task.platform is not None:
        argv += ["--python-platform", UV_PLATFORMS[task.platform]]
    if task.output == "requirements.txt":
        argv += ["--generate-hashes", "--no-strip-extras", "--annotation-style", "split", "--emit-index-annotation"]
    if task.upgrade.everything:
        argv += ["--upgrade"]
    argv += [word for package in task.upgrade.packages for word in ("--upgrade-package", package)]
    return argv + (["--offline"] if uv.offline else [])


@contextmanager
def _folder(task: Compilation) -> Iterator[Path]:
    """A private folder that holds what uv reads and nothing else."""
    with scratch.folder() as folder:
        excluded = "".join(f"{name}\n" for name in task.excluded)
        for path, text in {**task.files, f"{_OWN}/uv.toml": task.config, f"{_OWN}/excluded.txt": excluded}.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        guard = folder / _OWN / "guard"
        guard.mkdir()
        from importlib import resources

        (guard / "sitecustomize.py").write_bytes(resources.files("mlenv.data").joinpath("build_guard.py").read_bytes())
        yield folder


def find_python(uv: Uv, request: str) -> Path:
    """The absolute path of an interpreter: ``request`` is a version ("3.11") or a path.

    The Python that runs mlenv is taken where it has the version asked for, as that starts no process.
    Raises ProjectError where there is none.
    """
    if os.sep in request or request.startswith("."):
        path = Path(request).absolute()
        if not path.is_file():
            raise ProjectError(f"there is no Python at {request}", hint="name a version (3.11) or another path")
        return path
    own = tuple(str(number) for number in sys.version_info[:3])
    if tuple(request.split(".")) == own[: len(request.split("."))]:
        return base_interpreter()
    argv: list[str | Path] = [uv.binary, "python", "find", "--no-project", "--system", "--no-config", request]
    done = _run(argv, env=uv.env)
    if done.code != 0:
        raise ProjectError(
            f"Python {request} is not on this machine",
            hint="install it, name another with --python, or let uv fetch it: "
            f"UV_PYTHON_DOWNLOADS=automatic mlenv sync --python {request}",
        )
    return Path(done.out.strip())


def python_version(uv: Uv, interpreter: Path) -> str:
    """``3.11.7``, as the interpreter itself says. Raises ProjectError where it doesn't start."""
    script = "import platform; print(platform.python_version())"
    try:
        done = process.run([interpreter, "-I", "-c", script], env=uv.env)
    except OSError:
        done = None
    if done is None or done.code != 0:
        raise ProjectError(f"{interpreter} does not start as a Python", hint="name a version (3.11) or another path")
    return done.out.strip()


def base_interpreter() -> Path:
    """The interpreter below any virtual environment that mlenv itself runs in."""
    base = Path(getattr(sys, "_base_executable", None) or sys.executable)
    return base if base.is_file() else Path(sys.executable)


def make_environment(uv: Uv, *, target: Path, python: Path, prompt: str, relocatable: bool = False) -> None:
    """An empty virtual environment at ``target``, which must not exist. Raises EnvironmentBuildError.

    The commands of a ``relocatable`` one find their Python beside them, wherever it is moved to.
    """
    argv: list[str | Path] = [
        uv.binary,
        "venv",
        "--no-project",
        "--no-config",
        "--offline",
        "--quiet",
        "--python",
        python,
    ]
    argv += ["--relocatable"] if relocatable else []
    done = _run([*argv, "--prompt", prompt, target], env=uv.env)
    if done.code != 0:
        raise _failure(uv, done, at=target)


def _failure(uv: Uv, done: process.Completed, *, at: Path) -> MlenvError:
    """What a call of uv that writes to ``at`` failed with; of a full disk, which one that is."""
    error = explain(done.err, code=done.code, default=EnvironmentBuildError)
    if isinstance(error, NoSpaceError):
        import tempfile

        cache = _run([uv.binary, "cache", "dir", "--no-config", "--color", "never"], env=uv.env).out.strip()
        places = {"the environment": at, "uv's cache": Path(cache), "temporary files": Path(tempfile.gettempdir())}
        error.hint = _make_room(places)
    return error


def _make_room(places: Mapping[str, Path]) -> str:
    """The hint to make room on the fullest of the disks that uv writes to."""
    from mlenv.system import disks

    found = {what: disks.look(path) for what, path in places.items()}
    what, disk = min(found.items(), key=lambda item: item[1].free)
    on = f" on {disk.mount}" if disk.mount else ""
    frees = "; `uv cache prune` frees some of it" if what == "uv's cache" else ""
    return f"make room for {what}{on}: {disks.shown(disk.free)} are free at {disk.path}{frees}; then run it again"


def install_plan(uv: Uv, *, plan: Path, python: Path, config: Path, adding: bool = False, strict: bool = True) -> None:
    """Make the environment of ``python`` be exactly what ``plan`` (pylock.toml) lists, each file checked by hash.

    With ``adding``, what else is there stays, untouched; ``strict`` warns of what a package requires and isn't there.

    The cache is tried first: an index that sends no cache headers would otherwise have every file fetched again.
    Raises IntegrityError, PackageIndexError or EnvironmentBuildError.
    """
    verb = ("install", "--no-deps", "--requirements") if adding else ("sync",)
    argv: list[str | Path] = [uv.binary, "pip", *verb, plan, "--python", python, "--config-file", config]
    argv += ["--require-hashes", *(["--strict"] if strict else []), "--preview-features", "pylock", "--color", "never"]
    cached = _run([*argv, "--offline"], env=uv.env)
    if cached.code == 0:
        return
    # After a full disk a second run would take half a package for a whole one (FACTS, reliability 1).
    if uv.offline or isinstance(explain(cached.err, code=cached.code), EnvironmentBuildError):
        raise _failure(uv, cached, at=plan.parent)
    done = _run(argv, env=uv.env, echo=_until_error(uv.echo), terminal=uv.terminal)
    if done.code != 0:
        raise _failure(uv, done, at=plan.parent)


# uv lists every package it installed, which in a new environment is all of them.
_PACKAGE_LINE = (
    rb"(?m)^(?:\x1b\[[0-9;]*m|\s)*[+~-] ?(?:\x1b\[[0-9;]*m| )*[A-Za-z0-9._-]+(?:\x1b\[[0-9;]*m)*==[^\n]*\r?\n"
)
_BEGUN_PACKAGE_LINE = rb"(?:\x1b(?:\[[0-9;]*m?)?|[ \t])*(?:[+~-][^\r\n]*)?"


def _until_error(echo: Callable[[bytes], None] | None) -> Callable[[bytes], None] | None:
    """Progress goes through as it comes; an error is told once, in mlenv's words."""
    if echo is None:
        return None
    held, failed = b"", False

    def filtered(block: bytes) -> None:
        nonlocal held, failed
        head, found, _ = (held + block).partition(_ERROR)
        waiting = 0 if found else _unfinished(head)
        shown, held = head[: len(head) - waiting], head[len(head) - waiting :]
        if shown and not failed:
            echo(re.sub(_PACKAGE_LINE, b"", shown))
        failed = failed or bool(found)

    return filtered


def _unfinished(text: bytes) -> int:
    """How many bytes at the end may yet become an error or a package's line: uv writes both in pieces."""
    line = text.rpartition(b"\n")[2]
    if re.fullmatch(_BEGUN_PACKAGE_LINE, line):
        return len(line)
    return next(n for n in range(len(_ERROR), -1, -1) if text.endswith(_ERROR[:n]))


def install_local(
    uv: Uv, *, requirements: Sequence[str], python: Path, config: Path, given: Collection[str] = ()
) -> None:
    """Install local projects (``-e PATH`` or a path, extras allowed) without their dependencies.

    ``given`` are packages whose folders are known: what ``tool.uv.sources`` says of them (``workspace = true``) holds
    in a workspace of uv's alone.
    """
    apart = [word for name in sorted(given) for word in ("--no-sources-package", name)]
    _install_local(uv, requirements, apart, python=python, config=config, env=uv.env)


def install_local_against(
    uv: Uv, *, requirement: str, name: str, python: Path, config: Path, path: str, folder: Path
) -> None:
    """Install one local project, built with what the environment holds; ``path`` is the PATH of its build.

    setuptools and scikit-build-core compile in ``folder``, and everything anew: beside an editable project may lie what
    was compiled for another foundation.
    """
    anew = folder / "setuptools.cfg"
    anew.write_text(f"[build]\nbuild_base = {folder / 'build'}\nforce = 1\n", encoding="utf-8")
    private = {"DIST_EXTRA_CONFIG": str(anew), "SKBUILD_BUILD_DIR": str(folder / "build")}
    alone = ["--no-build-isolation-package", name, "--no-sources"]
    _install_local(uv, [requirement], alone, python=python, config=config, env={**uv.env, **private, "PATH": path})


def _install_local(
    uv: Uv, lines: Sequence[str], more: Sequence[str] = (), *, python: Path, config: Path, env: Mapping[str, str]
) -> None:
    argv: list[str | Path] = [uv.binary, "pip", "install", "--no-deps", "--python", python, "--config-file", config]
    argv += [word for line in lines for word in (("--editable", line[3:]) if line.startswith("-e ") else (line,))]
    argv += [*more, "--quiet", *(["--offline"] if uv.offline else [])]
    done = _run(argv, env=env, echo=_until_error(uv.echo))
    if done.code != 0:
        raise _failure(uv, done, at=python.parent)


def fetch_source(uv: Uv, *, plan: Path, python: Path, config: Path, to: Path, cache: Path) -> None:
    """Unpack the one source distribution that ``plan`` (pylock.toml) lists to ``to``, its hash checked.

    uv has no command for this: it is asked to install it, and where it would start the build, a file of ours takes a
    copy instead, so no code of it runs. ``cache`` is a cache of uv's that nothing is ever built in: what was built for
    another foundation can't be in the source. Raises IntegrityError, PackageIndexError or EnvironmentBuildError.
    """
    with scratch.folder() as folder:
        from importlib import resources

        taker = resources.files("mlenv.data").joinpath("take_source.py").read_bytes()
        Path(folder, "sitecustomize.py").write_bytes(taker)
        argv: list[str | Path] = [uv.binary, "pip", "sync", plan, "--python", python, "--config-file", config]
        argv += ["--target", Path(folder, "target"), "--cache-dir", cache, "--no-build-isolation", "--require-hashes"]
        argv += ["--preview-features", "pylock", "--color", "never"]
        env = {**uv.env, "PYTHONPATH": str(folder), "MLENV_TAKE_SOURCE_TO": str(to)}
        done = _run([*argv, *(["--offline"] if uv.offline else [])], env=env)
    if not to.is_dir():
        raise _failure(uv, done, at=to.parent)


def build_wheel(uv: Uv, *, source: Path, out: Path, python: Path, path: str) -> process.Completed:
    """Build a wheel of ``source`` into ``out`` with what the environment of ``python`` holds; ``path`` is its PATH."""
    env = {**_COMPILED_HERE, **uv.env, "PATH": path}
    argv: list[str | Path] = [uv.binary, "build", "--wheel", "--no-build-isolation", "--offline", "--no-config"]
    argv += ["--python", python, "--out-dir", out, "--no-create-gitignore", "--color", "never", source]
    return _run(argv, env=env, echo=uv.echo if uv.terminal else None)


def build_output(done: process.Completed) -> str:
    """What a build wrote, without what uv says about it."""
    return done.err.partition("\nerror: Failed to build")[0].removeprefix("Building wheel...\n")


def install_wheel(uv: Uv, *, wheel: Path, sha256: str, python: Path, config: Path) -> None:
    """Install one wheel that is on the disk, checked by hash, without what it requires.

    As a release found in its folder, so that the environment doesn't say it came from there. Raises IntegrityError or
    EnvironmentBuildError.
    """
    name, version = wheel.name.split("-")[:2]
    with scratch.folder() as folder:
        listed = Path(folder, "wheel.txt")
        listed.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
        argv: list[str | Path] = [uv.binary, "pip", "install", "--requirements", listed, "--no-deps", "--no-index"]
        argv += ["--find-links", wheel.parent, "--require-hashes", "--offline", "--quiet", "--color", "never"]
        done = _run([*argv, "--python", python, "--config-file", config], env=uv.env)
    if done.code != 0:
        raise _failure(uv, done, at=python.parent)


def _json(values: Sequence[str]) -> str:
    import json

    return json.dumps(sorted(values))


def build_alone(uv: Uv, *, source: Path, folder: Path, python: Path, config: Path) -> Path:
    """The wheel of a source distribution, built in isolation into an empty ``folder``. Raises EnvironmentBuildError."""
    argv: list[str | Path] = [uv.binary, "build", source, "--wheel", "--out-dir", folder, "--python", python]
    argv += ["--config-file", config, "--color", "never", *(["--offline"] if uv.offline else [])]
    done = _run(argv, env=uv.env, cwd=source.parent)
    built = sorted(folder.glob("*.whl"))
    if done.code != 0 or not built:
        raise _failure(uv, done, at=folder)
    return built[0]


def remove_tree(path: Path) -> None:
    """Remove a folder that mlenv made, read-only files included."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)
