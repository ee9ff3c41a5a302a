"""Write docs/reference.md from the code: commands, exit codes, settings. ``tests/unit/test_reference.py`` checks it.

Usage: python docs/generate.py
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import click

from mlenv import errors
from mlenv.cli import cli
from mlenv.errors import ExitCode, MlenvError
from mlenv.settings import Settings

TARGET = Path(__file__).parent / "reference.md"
# What is kept for machines or for mlenv itself, and is no key of [tool.mlenv].
INTERNAL = frozenset({"per_backend", "index_urls", "origins"})

EXAMPLE = """\
```toml
[tool.mlenv]
python = "3.11"                  # default: the lock's header; a first lock: .python-version, else the running one
backend = "cu130"                # where none is asked for; default: detection
platforms = ["linux-x86_64"]     # what the lock is for; several make one lock with markers; "all"
extras = []                      # extras of a pyproject.toml among the requirements; "*" for all
groups = []                      # its dependency groups
constraints = []                 # files that bound and bring nothing
unproven = ["cu126"]             # overlays the lock is not proven on
held-back = "error"              # or "warn", "off": a package that an overlay keeps held-back-days behind
held-back-allow = []             # packages that may be behind
build = ["llama-cpp-python"]     # packages whose source distributions may be built

[tool.mlenv.foundation]
roots = []                       # more names that an overlay pins
include = ["my-cuda-kernels"]    # more names that belong to the foundation
exclude = []                     # names that a pattern takes for foundation and that are not

[tool.mlenv.backends.cu130]
sources = ["default", "pytorch-cu130"]   # the order they are tried in; "default" is uv's default index

[tool.mlenv.backends.cu118]
lock = "requirements.cu118.txt"  # a lock of its own, for a backend that can't share the pins of the others

[tool.mlenv.index]
"company-*" = "company"          # name or glob → one explicit index of uv.toml

[[tool.mlenv.catalogue.backend]]     # rows that change mlenv's catalogue or add to it; so do release, driver_family
name = "cu140"
```

`backends = [...]` and `[tool.mlenv.backends.X]` can't stand in one file (TOML); then write `proven = [...]` in
`[tool.mlenv.backends]`.

Per machine, `MLENV_ENVIRONMENT`, `MLENV_BACKEND`, `MLENV_KEEP` and `MLENV_INDEX_URL_<NAME>` are read, and the same
keys of the user's and the system's `mlenv.toml`. What shapes the lock comes from the project's files and the command
line alone.

A member of a workspace may set `python`, `requirements`, `extras`, `groups`, `constraints`, `lock`, `environment`,
`layout`, `backend`, `backends`, `keep` and `isolated` in its own pyproject.toml, its paths relative to its folder; all
else is the workspace's."""


def reference() -> str:
    """The text of docs/reference.md."""
    return "\n".join([*_head(), *_commands(), *_exit_codes(), *_settings()]) + "\n"


def _head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Generated from the code by `python docs/generate.py`; a test fails when it is stale."


def _commands() -> Iterator[str]:
    yield from ("", "## Commands", "")
    yield "Results go to standard output, everything else to standard error."
    for name, command in _below(cli, "mlenv"):
        context = click.Context(command, info_name=name, **cli.context_settings)
        yield from ("", f"### {name}", "", "```text")
        yield from (line.rstrip() for line in command.get_help(context).splitlines())
        yield "```"


def _below(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command of a group with its whole name, those of the groups in it after their group."""
    for word, command in sorted(group.commands.items()):
        yield f"{name} {word}", command
        if isinstance(command, click.Group):
            yield from _below(command, f"{name} {word}")


def _exit_codes() -> Iterator[str]:
    yield from ("", "## Exit codes", "", "| code | meaning |", "|---|---|", "| 0 | done, or nothing to do |")
    found = {
        int(e.code): e.meaning for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, MlenvError)
    }
    yield from (f"| {code} | {found[code]} |" for code in sorted(found))
    yield f"| {int(ExitCode.INTERRUPTED)}, {int(ExitCode.TERMINATED)} | ended by Ctrl-C, by SIGTERM or SIGHUP |"
    yield from ("", "`mlenv run` returns the command's own.")


def _settings() -> Iterator[str]:
    yield from (
        "",
        "## Settings",
        "",
        "`[tool.mlenv]` in pyproject.toml. Everything is optional; a mistyped key is an error.",
    )
    yield from ("", "| key | type | default |", "|---|---|---|")
    for field in fields(Settings):
        if field.name in INTERNAL:
            continue
        default = field.default if field.default is not MISSING else "{}"
        shown = default if isinstance(default, str | int | tuple | None.__class__) else "see below"
        kind = str(field.type).replace("|", "\\|")
        yield f"| `{field.name.replace('_', '-')}` | `{kind}` | `{shown!r}` |"
    yield from ("", *EXAMPLE.splitlines())


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
