"""Environment variables: those kept from uv, and those that break programs at run time. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mlenv.catalogue import cuda_of
from mlenv.report import Area, Finding

# Libraries that torch brings itself and the loader takes from LD_LIBRARY_PATH first: torch's wheels have a RUNPATH.
_OF_TORCH = re.compile(
    r"lib(cudnn|nccl|nvshmem|cusparseLt|cublas|cublasLt|cudart|nvrtc|nvJitLink|torch)(_\w+)?\.so(\.|$)"
)
FOUNDATION_MODULES = ("torch", "torchvision", "torchaudio", "torchcodec", "triton", "nvidia", "tensorflow", "jax")
_CUDA_IN_PATH = re.compile(r"cuda-?(\d+)(?:\.\d+)?(?:/|$)")
Names = Callable[[Path], Sequence[str]]


def judge(
    environ: Mapping[str, str],
    *,
    dropped: Sequence[str],
    backend: str | None,
    environment: Path | None,
    names: Names,
    resolve: Callable[[Path], Path] = Path,
) -> Area:
    """What is set and matters. ``dropped`` are kept from uv, ``backend`` is what this machine gets.

    ``environment`` is the project's, ``names`` lists a folder (empty where it isn't one), ``resolve`` follows links.
    """
    findings = (
        *_dropped(dropped),
        *_libraries(environ, names),
        *_python(environ, names),
        *_cuda_home(environ, backend, resolve),
        *_others(environ, environment, resolve),
    )
    count = sum(finding.severity != "note" for finding in findings)
    return Area(name="variables", seen=f"{count} of them break something" if count else "", findings=findings)


def _dropped(names: Sequence[str]) -> Iterator[Finding]:
    if names:
        yield Finding(
            kind="variable-dropped",
            message=f"kept from uv: {', '.join(names)}",
            why="they would quietly change what is installed; what the project needs belongs into its files",
            hint=f"`unset {' '.join(names)}`, or write an index into uv.toml",
            severity="note",
        )


def _libraries(environ: Mapping[str, str], names: Names) -> Iterator[Finding]:
    for folder in filter(None, environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        found = sorted({match[1] for name in names(Path(folder)) if (match := _OF_TORCH.match(name))})
        if found:
            yield Finding(
                kind="variable-libraries",
                message=f"LD_LIBRARY_PATH holds {folder}, which has {', '.join(found)}",
                why="programs load these instead of the ones that torch was built with: undefined symbols, crashes",
                hint="`unset LD_LIBRARY_PATH`, or take that folder out of it",
                severity="warning",
            )
    if environ.get("LD_PRELOAD"):
        message = f"LD_PRELOAD={environ['LD_PRELOAD']} is loaded into every program"
        yield Finding(kind="variable-preload", message=message, hint="`unset LD_PRELOAD`", severity="note")


def _python(environ: Mapping[str, str], names: Names) -> Iterator[Finding]:
    if environ.get("PYTHONHOME"):
        yield Finding(
            kind="variable-pythonhome",
            message=f"PYTHONHOME={environ['PYTHONHOME']} is set",
            why="every Python takes its standard library from there, the environment's too",
            hint="`unset PYTHONHOME`",
            severity="warning",
        )
    for folder in filter(None, environ.get("PYTHONPATH", "").split(os.pathsep)):
        there = names(Path(folder))
        modules = ", ".join(name for name in FOUNDATION_MODULES if name in there or f"{name}.py" in there)
        installed = any(name.endswith((".dist-info", ".egg-info")) for name in there)
        has = modules or ("installed packages" if installed else "")
        yield Finding(
            kind="variable-pythonpath",
            message=f"PYTHONPATH holds {folder}" + (f", which has {has}" if has else ""),
            why="what is there comes before the environment's own packages, in every Python",
            hint="`unset PYTHONPATH`",
            severity="warning" if has else "note",
        )


def _cuda_home(environ: Mapping[str, str], backend: str | None, resolve: Callable[[Path], Path]) -> Iterator[Finding]:
    cuda = cuda_of(backend or "")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        home = environ.get(name)
        found = _CUDA_IN_PATH.search(str(resolve(Path(home)))) if home else None
        if cuda is not None and found is not None and int(found[1]) != cuda[0]:
            yield Finding(
                kind="variable-cuda-home",
                message=f"{name}={home} is CUDA {found[1]}; {backend} is CUDA {cuda[0]}",
                why="it counts only where a package is compiled against torch (build-against-foundation)",
                hint=f"before such a build: `export {name}=/usr/local/cuda-{cuda[0]}.{cuda[1]}`",
                severity="note",
            )


def _others(environ: Mapping[str, str], environment: Path | None, resolve: Callable[[Path], Path]) -> Iterator[Finding]:
    if environ.get("CONDA_PREFIX"):
        yield Finding(
            kind="variable-conda",
            message=f"a conda environment is active: {environ['CONDA_PREFIX']}",
            why="its programs and compilers come first on PATH; the environment of mlenv is another one",
            hint="`conda deactivate`",
            severity="note",
        )
    active = environ.get("VIRTUAL_ENV")
    if active and environment is not None and resolve(Path(active)) != resolve(environment):
        yield Finding(
            kind="variable-virtual-env",
            message=f"another virtual environment is active: {active}",
            why="`python` is that one's in this shell; mlenv itself does not mind",
            hint="`deactivate`, or start programs with `mlenv run -- python`",
            severity="note",
        )
