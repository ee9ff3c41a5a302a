"""``dataclass`` with values that the type checker keeps frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    import dataclasses

    def dataclass(cls=None, /, *, frozen=False, **options):
        """``dataclasses.dataclass``; ``frozen`` gives a hash and is no further enforced while mlenv runs.

        That would take 0.2 ms a class at each start, and every command imports eighty of them.
        """
        return dataclasses.dataclass(cls, unsafe_hash=frozen, **options)
