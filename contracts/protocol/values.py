"""`value_class`: a dataclass that type checkers hold to be frozen, and that is made as fast as one that is not.

Freezing at run time costs a call a field whenever an object is made, and a paid request makes a dozen of them with a
hundred fields in all. Nobody may change a value: mypy refuses it. Used by what every request passes through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value_class
else:
    from collections.abc import Callable
    from dataclasses import dataclass

    def value_class(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """Make a dataclass with slots; equal values have equal hashes, as with frozen ones."""
        assert frozen
        assert slots
        return dataclass(slots=True, unsafe_hash=True)


__all__ = ["value_class"]
