"""What a driver's library told of it and its GPUs, before CUDA_VISIBLE_DEVICES is looked at."""

from __future__ import annotations

from mlenv.report import Finding
from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """One GPU. ``uuids`` is its own, then those of its MIG instances; ``usable`` is False where MIG has none yet."""

    index: int
    name: str
    uuids: tuple[str, ...]
    memory_mib: int | None
    compute_capability: tuple[int, int]
    usable: bool = True


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The driver's number, the newest CUDA it supports, its GPUs, and what went wrong.

    ``filtered`` says that CUDA's own library told it, which lists only what CUDA_VISIBLE_DEVICES leaves.
    """

    driver: str | None = None
    cuda: tuple[int, int] | None = None
    devices: tuple[Device, ...] = ()
    findings: tuple[Finding, ...] = ()
    filtered: bool = False
