"""A config's dict that knows which of its keys were read, and the recipe that grows from it.

What no one reads is told in the recipe as a remark, so that nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hf_finetune.errors import UserError
from hf_finetune.mmclassification.unreadable import Unreadable

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Remark:
    """A setting of the config that the recipe has not, or has otherwise: where it stood, and why."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass
class Draft:
    """The recipe as far as it is known: its settings, and remarks on what is not in them."""

    file: str
    settings: dict[str, Any] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def remark(self, place: str, reason: str) -> None:
        remark = Remark(place, reason)
        if remark not in self.remarks:
            self.remarks.append(remark)

    def refusal(self, place: str, reason: str) -> UserError:
        """Returns the error that ends the import, to be raised."""
        return UserError(f"{self.file}: {place} {reason}")


class Section:
    """A dict of the config at `place` ("model.backbone"), or an empty one where the config has none."""

    def __init__(self, values: Mapping[str, Any], place: str, draft: Draft) -> None:
        self.values, self.place, self.draft = values, place, draft
        self._read: set[str] = set()
        self._children: dict[str, list[Section]] = {}  # what is read of them is remembered, however often one asks

    def __bool__(self) -> bool:
        return bool(self.values)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def at(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def take(self, key: str, default: Any = None) -> Any:
        """Returns a value and counts it as read. Raises `UserError` where only running the config would give it."""
        self._read.add(key)
        value = self.values.get(key, default)
        if isinstance(value, Unreadable):
            raise UserError(f"{value}, but it is {self.at(key)}; write the value itself.")
        return value

    def number(self, key: str, default: _Number) -> _Number:
        """Returns a number; raises `UserError` where the config has something else."""
        value = self.take(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.draft.refusal(self.at(key), f"is {value!r}; use a number.")
        return value

    def section(self, key: str) -> Section:
        """Returns the dict under a key; raises `UserError` if something else is there."""
        value = self.take(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.draft.refusal(self.at(key), f"is {shown(value)}; a dict belongs there.")
        if key not in self._children:
            self._children[key] = [Section(value or {}, self.at(key), self.draft)]
        return self._children[key][0]

    def sections(self, key: str) -> list[Section]:
        """Returns the dicts of a list, or the one dict that stands for a list of one."""
        value = self.take(key)
        items = [value] if isinstance(value, Mapping) else list(value or [])
        for item in items:
            if isinstance(item, Unreadable):
                raise UserError(f"{item}, but it is in {self.at(key)}; write the value itself.")
            if not isinstance(item, Mapping):
                raise self.draft.refusal(self.at(key), f"holds {shown(item)}; dicts belong there.")
        if key not in self._children:
            places = [f"{self.at(key)}.{item.get('type', position)}" for position, item in enumerate(items)]
            self._children[key] = [Section(item, place, self.draft) for item, place in zip(items, places, strict=True)]
        return self._children[key]

    def skip(self, *keys: str) -> None:
        """Counts keys as read that say nothing of a run's outcome."""
        self._read.update(keys)

    def skip_all(self) -> None:
        self._read.update(self.values)

    def unread(self) -> Iterator[tuple[str, Any]]:
        """Yields the place and the value of every key that was not read, here and below."""
        for key, value in self.values.items():
            if key not in self._read:
                yield self.at(str(key)), value
        for children in self._children.values():
            for child in children:
                yield from child.unread()


def shown(value: Any) -> str:
    """Returns a value as a message shows it: on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
