"""Which releases of the foundation's family exist: the newest of a backend on its source, stable or nightly.

The torch family is one choice: torchvision names its torch, and torchaudio, which names none, is matched by the
catalogue (FACTS, CUDA 7).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlenv import indexes as index_module
from mlenv import platforms, resolution, solve
from mlenv.errors import MlenvError, PackageIndexError, ResolutionError, UnreachableError
from mlenv.overlay import Overlay
from mlenv.project import Project
from mlenv.resolution import Source
from mlenv.solve import Question
from mlenv.system import reach
from mlenv.system import uv as uv_module
from mlenv.system.uv import Uv
from mlenv.system.uv_messages import missing_name
from mlenv.values import dataclass

_ROUNDS = 6
_FAMILY = ("torch", "torchvision", "torchaudio")


@dataclass(frozen=True, kw_only=True)
class Family:
    """One set of releases that belong together: public version by name, and the source that has them.

    ``lacking`` are names that the source doesn't have for that torch.
    """

    versions: Mapping[str, str]
    source: Source
    lacking: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """It as JSON values."""
        return {"versions": dict(self.versions), "source": self.source.index, "lacking": list(self.lacking)}

    @property
    def torch(self) -> Version:
        """Torch's version."""
        return Version(self.versions["torch"])


def newest(project: Project, uv: Uv, overlay: Overlay) -> Family:
    """The newest family of a backend that exists on a source of it, for the target Python, on every platform.

    It holds the names that the overlay pins. Raises PackageIndexError where no source can be reached,
    ResolutionError where none has any.
    """
    names = family_of(overlay)
    found: list[Family] = []
    errors: list[MlenvError] = []
    for source in _sources(project, overlay):
        try:
            _require_address(project, uv, source)
            found.append(_on_named(project, uv, overlay, source, names))
        except (PackageIndexError, ResolutionError) as error:
            errors.append(error)
    for candidate in equal_releases(project, overlay):
        try:
            found.append(confirmed(project, uv, overlay, candidate, Source()))
            break
        except (PackageIndexError, ResolutionError) as error:
            errors.append(error)
            if isinstance(error, PackageIndexError):
                break
    unasked = next((error for error in errors if isinstance(error, PackageIndexError)), None)
    best = max(found, key=lambda family: (family.torch, not family.lacking), default=None)
    if best is not None and (unasked is None or best.torch >= Version(overlay.torch_version or "0")):
        return best  # what is older than the overlay is newest only as long as the better source is silent
    if errors:
        raise unasked or errors[0]
    raise ResolutionError(
        f"no source of {overlay.backend} is known",
        hint=f'`mlenv init --backend {overlay.backend}` adds the index "pytorch-{overlay.backend}" to uv.toml',
    )


def newest_nightly(project: Project, uv: Uv, overlay: Overlay) -> Family:
    """The newest nightlies that belong together, of the names that the (stable) ``overlay`` pins.

    Raises ProjectError without a nightly index, PackageIndexError, ResolutionError.
    """
    source = solve.nightly_source(project, overlay.backend)
    _require_address(project, uv, source)
    return _on_named(project, uv, overlay, source, family_of(overlay), suffix=">=0.dev0")


def nearest(project: Project, uv: Uv, overlay: Overlay, *, torch: str) -> str | None:
    """The nightly torch nearest to one that is gone: the newest before it, else the oldest after it; None for none."""
    source = solve.nightly_source(project, overlay.backend)
    for bound, lowest in ((f"torch<{torch},>=0.dev0", False), (f"torch>{torch}", True)):
        try:
            found = _ask(project, uv, overlay, source, [Requirement(bound)], platform=None, alone=True, lowest=lowest)
        except (PackageIndexError, ResolutionError):
            continue
        return found.get("torch")
    return None


def is_gone(project: Project, uv: Uv, overlay: Overlay, root: Requirement) -> bool:
    """Whether the index of nightlies, asked anew, doesn't have a pin of the overlay any more."""
    source = solve.nightly_source(project, overlay.backend)
    try:
        _ask(project, uv, overlay, source, [root], platform=None, alone=True)
    except (PackageIndexError, ResolutionError) as error:
        return missing_name(error, releases=True) == canonicalize_name(root.name)
    return False


def targets(project: Project) -> list[Mapping[str, str]]:
    """PEP 508's variables of every target of the project: pins for elsewhere stay where they are."""
    return [platforms.environment(platform, project.target_python[0]) for platform in project.settings.platforms]


def family_of(overlay: Overlay) -> tuple[str, ...]:
    """The names of the torch family that an overlay pins."""
    pinned = {canonicalize_name(root.name) for root in overlay.roots()}
    return tuple(name for name in _FAMILY if name in pinned)


def equal_releases(project: Project, overlay: Overlay) -> Iterable[Mapping[str, str]]:
    """The releases of the catalogue whose files on the default index are this backend's build on every platform."""
    names = family_of(overlay)
    there = _platforms(project, overlay)
    for release in project.catalogue.releases:
        builds = {project.catalogue.default_index_build(release.torch, platform) for platform in there}
        if builds == {overlay.backend} and _has_python(release.python, project.target_python[0]):
            known = {"torch": release.torch, "torchvision": release.torchvision, "torchaudio": release.torchaudio}
            # torchaudio is numbered like the torch it was built with; beside another CUDA's torch it does not load
            audio = {project.catalogue.default_index_build(release.torchaudio, platform) for platform in there}
            yield {n: v for n, v in known.items() if n in names and (n != "torchaudio" or audio == builds)}


def confirmed(project: Project, uv: Uv, overlay: Overlay, versions: Mapping[str, str], source: Source) -> Family:
    """The family, where the source has it on every platform. Raises ResolutionError, PackageIndexError."""
    roots = [Requirement(f"{name}=={version}") for name, version in versions.items()]
    for platform in _platforms(project, overlay):
        _ask(project, uv, overlay, source, roots, platform=platform)
    lacking = tuple(name for name in family_of(overlay) if name not in versions)
    return Family(versions=dict(versions), source=source, lacking=lacking)


def _on_named(
    project: Project, uv: Uv, overlay: Overlay, source: Source, names: Sequence[str], *, suffix: str = ""
) -> Family:
    """The newest family on one index: what one platform gets is held on the others, and lowered where one lacks it."""
    first = _platforms(project, overlay)[0]
    bound = suffix
    lacking: list[str] = []
    for _ in range(_ROUNDS):
        wanted = [name for name in names if name not in lacking]
        roots = [Requirement(f"{name}{bound if name == 'torch' else suffix}") for name in wanted]
        try:
            versions = _ask(project, uv, overlay, source, roots, platform=first)
        except (PackageIndexError, ResolutionError) as error:
            missing = missing_name(error)
            if missing is None or missing not in wanted or missing == "torch":
                raise
            lacking.append(missing)
            continue
        try:
            return _matched(project, uv, overlay, source, versions, lacking)
        except ResolutionError:
            bound = f"<{versions['torch']}{',' + suffix if suffix else ''}"
    raise ResolutionError(
        f"no torch of {overlay.backend} is on {source.index} for every platform of the lock",
        hint="make platforms in [tool.mlenv] fewer, or the Python another",
    )


def _matched(
    project: Project, uv: Uv, overlay: Overlay, source: Source, versions: Mapping[str, str], lacking: Iterable[str]
) -> Family:
    """The family with the torchaudio and torchvision of its torch's row in the catalogue, on every platform."""
    release = project.catalogue.release(versions["torch"])
    chosen = dict(versions)
    if release is not None:
        known = {"torchvision": release.torchvision, "torchaudio": release.torchaudio}
        chosen |= {name: version for name, version in known.items() if name in chosen}
    family = confirmed(project, uv, overlay, chosen, source)
    return replace(family, lacking=tuple(lacking))


def _ask(
    project: Project,
    uv: Uv,
    overlay: Overlay,
    source: Source,
    roots: Sequence[Requirement],
    *,
    platform: str | None,
    alone: bool = False,
    lowest: bool = False,
) -> dict[str, str]:
    """Public version by name of what uv chooses for the roots from one source, which is asked however fresh a cache is.

    A cached page lacks the newest nightly, and still has those that are gone.
    """
    asked = Overlay(backend=overlay.backend, path=overlay.path, constraints=(), channel=overlay.channel)
    wanted = tuple(canonicalize_name(root.name) for root in roots)
    question = Question(
        files={},
        sources=(),
        python=project.target_python[0],
        interpreter=uv_module.base_interpreter(),
        platform=platform or project.settings.platforms[0],
        source=source,
        roots=tuple(roots),
        with_files=False,
        alone=alone,
        lowest=lowest,
        refresh=wanted,
    )
    resolved = solve.resolve_backend(project, uv, asked, question, platform=platform or "")
    return {pin.name: Version(pin.version or "0").public for pin in resolved.foundation if pin.name in wanted}


def _require_address(project: Project, uv: Uv, source: Source) -> None:
    """Raise UnreachableError at once for a host that has no address: uv would try again for long."""
    host = urlsplit(project.indexes.named[source.index].url).hostname
    if host is not None and not uv.offline and not reach.has_address(host, env=uv.env):
        raise UnreachableError(
            f"{host} can't be reached (the index {source.index})",
            hint=f"check the network, or name a mirror: {index_module.mirror_variable(source.index)}=<URL>",
        )


def _sources(project: Project, overlay: Overlay) -> tuple[Source, ...]:
    """The named indexes that serve the backend."""
    chosen = project.settings.per_backend.get(overlay.backend)
    declared = chosen.sources if chosen is not None else None
    order = resolution.source_order(overlay, equal_default=False, declared=declared, indexes=project.indexes.named)
    return tuple(source for source in order if source.named)


def _platforms(project: Project, overlay: Overlay) -> tuple[str, ...]:
    """The platforms of the lock on which the backend has builds."""
    there = tuple(p for p in project.settings.platforms if project.catalogue.builds_for(overlay.backend, p))
    return there or project.settings.platforms[:1]


def _has_python(versions: Sequence[str], python: str) -> bool:
    return ".".join(python.split(".")[:2]) in versions
