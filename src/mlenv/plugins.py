"""Backends that an installed package brings: the protocol of the entry-point group ``mlenv.backends``.

    [project.entry-points."mlenv.backends"]
    acme = "mlenv_acme"

What the entry point names, a module or an object, has a ``catalogue``: rows of data/catalogue.toml's shape, which
describe the backends that it brings and name the torch releases that have them. It may have, besides:

- ``foundation``: ``{"exact": [...], "patterns": [...]}``, more names that the foundation owns. They count in projects
  with an overlay of one of its backends.
- ``observe(environ, root)``: what it sees of the machine, as texts by name. They are ``Machine.facts``, the entry
  point's name and a dot in front, so a file for ``--machine`` carries them. ``root`` is where the machine's files are.
- ``runs(backend, machine)``: why a backend does not run on that machine, in a sentence, or None where it does. It
  looks at ``machine`` alone, which may be another one than this.

A lock depends on the project's files alone, and so a plugin speaks of its own backends only. mlenv reads ``cpu`` and
``cu132`` by rule, so these are nobody's. What mlenv or the project says of a torch release counts before a plugin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Protocol

from mlenv import catalogue_rows
from mlenv.catalogue import Catalogue, Runs, brought, document, extended
from mlenv.catalogue_rows import Rows, Where
from mlenv.errors import MlenvError, ProjectError
from mlenv.location import may_be_brought
from mlenv.machine import Machine
from mlenv.report import Finding
from mlenv.values import dataclass

GROUP = "mlenv.backends"


class BackendPlugin(Protocol):
    """What an entry point must name; ``foundation``, ``observe`` and ``runs`` are optional."""

    catalogue: Mapping[str, object]


Observe = Callable[[Mapping[str, str], Path], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One plugin, checked. ``package`` is the installed package that has it."""

    name: str
    package: str
    rows: Rows
    exact: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    observe: Observe | None = None
    runs: Runs | None = None

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that it brings."""
        return tuple(row["name"] for row in self.rows.get("backend", ()))

    @property
    def project(self) -> str:
        """The package's name without its version."""
        return self.package.partition(" ")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it adds to the foundation, patterns among them."""
        return (*self.exact, *self.patterns)


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """The plugins that are installed; ``findings`` are about those that can't be used."""

    usable: tuple[Plugin, ...] = ()
    findings: tuple[Finding, ...] = field(default=())

    def refuse_broken(self) -> None:
        """Raise ProjectError for the first plugin that can't be used."""
        for found in self.findings:
            raise ProjectError(found.message, hint=found.hint)

    def broken(self, project: str) -> Finding | None:
        """What is wrong with the plugin of that package, or None where it can be used or isn't there."""
        return next((found for found in self.findings if found.package == project), None)


def checked(name: str, package: str, named: object) -> Plugin:
    """The plugin that an entry point names. Raises ProjectError, with the package, where it is none."""

    def wrong(where: Where, message: str, hint: str) -> MlenvError:
        return ProjectError(f"{_called(name, package)}: {catalogue_rows.written(where)} {message}", hint=hint)

    rows = catalogue_rows.read(getattr(named, "catalogue", None), wrong=wrong, where=("catalogue",))
    _refuse_foreign(rows, wrong)
    catalogue_rows.require_complete(rows, document(), wrong=lambda where, *told: wrong(("catalogue", *where), *told))
    names = getattr(named, "foundation", {})
    if not isinstance(names, Mapping) or not set(names) <= {"exact", "patterns"}:
        raise wrong(("foundation",), "must be a mapping", "its keys are exact and patterns")
    return Plugin(
        name=name,
        package=package,
        rows=rows,
        exact=_texts(names.get("exact", ()), ("foundation", "exact"), wrong),
        patterns=_texts(names.get("patterns", ()), ("foundation", "patterns"), wrong),
        observe=_function(named, "observe", wrong),
        runs=_honest(_function(named, "runs", wrong), package),
    )


def _refuse_foreign(rows: Rows, wrong: catalogue_rows.Wrong) -> None:
    """A plugin speaks of backends of its own alone: else a lock would depend on what is installed."""
    own = {row["name"] for row in rows.get("backend", ())}
    hint = "name a backend of its own: acme132, rocm7.1"
    for name in sorted(own):
        if not may_be_brought(name):
            raise wrong(("catalogue", "backend"), f"has {name}, a name that mlenv reads by rule", hint)
    for place, row in enumerate(rows.get("release", ())):
        for field_name in ("backends", "unconfirmed", "pypi"):
            value = row.get(field_name, ())
            for name in value.values() if isinstance(value, Mapping) else value:
                if name not in own:
                    raise wrong(
                        ("catalogue", "release", place, field_name), f"has {name}, which it doesn't bring", hint
                    )


def _texts(value: object, where: Where, wrong: catalogue_rows.Wrong) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise wrong(where, "must be a list of names", 'write ["acme-kernels"]')
    return tuple(value)


def _function(named: object, word: str, wrong: catalogue_rows.Wrong) -> Callable[..., Any] | None:
    found = getattr(named, word, None)
    if found is not None and not callable(found):
        raise wrong((word,), "must be a function", "leave it out, or write a function")
    return found


def _honest(runs: Callable[..., Any] | None, package: str) -> Runs | None:
    """``runs``, its own mistakes told as a reason why the backend can't be taken."""
    if runs is None:
        return None

    def ask(backend: str, machine: Machine) -> str | None:
        try:
            with redirect_stdout(sys.stderr):  # what it prints is no part of our result
                answer = runs(backend, machine)
        except (Exception, SystemExit) as error:  # somebody else's code may not end mlenv
            return f"{package} fails to tell whether it runs here: {type(error).__name__}: {error}"
        if answer is None or (isinstance(answer, str) and answer):
            return answer
        return f"{package} doesn't tell whether it runs here: it answers {answer!r}"

    return ask


def broken(name: str, package: str, error: BaseException) -> Finding:
    """What is told of a plugin that can't be used."""
    is_told = isinstance(error, MlenvError)
    message = str(error) if is_told else f"{_called(name, package)} can't be loaded: {type(error).__name__}: {error}"
    project = package.partition(" ")[0]
    hint = f"upgrade {project}, or take it out: uv pip uninstall {project}"
    return Finding(kind="plugin-broken", message=message, hint=hint, severity="warning", package=project)


def _called(name: str, package: str) -> str:
    return f"the plugin {name} of {package}"


def without_rivals(plugins: Iterable[Plugin]) -> Plugins:
    """The plugins, but for those that bring a backend which another one brought before."""
    usable: list[Plugin] = []
    findings: list[Finding] = []
    owners: dict[str, Plugin] = {}
    for plugin in plugins:
        rival = next((owners[backend] for backend in plugin.backends if backend in owners), None)
        if rival is None:
            usable.append(plugin)
            owners |= dict.fromkeys(plugin.backends, plugin)
        else:
            message = f"{plugin.package} and {rival.package} both bring a backend {_shared(plugin, rival)}"
            findings.append(broken(plugin.name, plugin.package, ProjectError(message)))
    return Plugins(usable=tuple(usable), findings=tuple(findings))


def _shared(one: Plugin, other: Plugin) -> str:
    return ", ".join(name for name in one.backends if name in other.backends)


def with_rows(plugins: Plugins, above: Rows) -> Catalogue:
    """mlenv's catalogue with the rows of plugins, and with those of the project above all."""
    rows = [plugin.rows for plugin in plugins.usable]
    below = {
        kind: tuple(catalogue_rows.joined(kind, *(each.get(kind, ()) for each in rows))) for kind in catalogue_rows.KEYS
    }
    by = {name: (plugin.package, plugin.runs) for plugin in plugins.usable for name in plugin.backends}
    return brought(extended(below=below, above=above), by)


def with_facts(machine: Machine, plugins: Plugins, environ: Mapping[str, str], *, root: Path) -> Machine:
    """The machine with what the plugins see of it; a plugin that fails to look is a finding."""
    facts = dict(machine.facts)
    findings: list[Finding] = []
    for plugin in plugins.usable:
        if plugin.observe is None:
            continue
        try:
            with redirect_stdout(sys.stderr):
                seen = plugin.observe(environ, root)
            facts |= {f"{plugin.name}.{key}": _fact(value) for key, value in seen.items()}
        except (Exception, SystemExit) as error:  # somebody else's code may not end mlenv
            findings.append(broken(plugin.name, plugin.package, error))
    return replace(machine, facts=facts, findings=(*machine.findings, *findings))


def _fact(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a fact is {value!r}, and must be a text")
    return value
