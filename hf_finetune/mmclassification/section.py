"""A config's dict that records which of its keys were read, and the recipe that is built from it.

Every key that nothing reads becomes a remark in the recipe, so that no setting is dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_finetune.errors import UserError
from hf_finetune.mmclassification.unreadable import Unreadable


@dataclass(frozen=True)
class Remark:
    """A setting of the config that the recipe lacks or has in another form: its place, and the reason."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass
class Draft:
    """A recipe that is being built.

    Attributes:
        file: The config's name, for messages.
        settings: The recipe's keys and values so far.
        remarks: What of the config is not in them.
    """

    file: str
    settings: dict[str, Any] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def remark(self, place: str, reason: str) -> None:
        """Add a remark, unless it is there already."""
        remark = Remark(place, reason)
        if remark not in self.remarks:
            self.remarks.append(remark)

    def refusal(self, place: str, reason: str) -> UserError:
        """Return the error that ends the import, for the caller to raise."""
        return UserError(f"{self.file}: {place} {reason}")


class Section:
    """A dict of the config, empty where the config has none.

    Args:
        values: The dict.
        place: Where it is, such as "model.backbone".
        draft: Receives the remarks.
    """

    def __init__(self, values: Mapping[str, Any], place: str, draft: Draft) -> None:
        self.values, self.place, self.draft = values, place, draft
        self._read: set[str] = set()
        self._children: dict[str, list[Section]] = {}  # each is made once, so that it records all that is read

    def __bool__(self) -> bool:
        return bool(self.values)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def at(self, key: str) -> str:
        """Return the place of a key, for messages."""
        return f"{self.place}.{key}" if self.place else key

    def take(self, key: str, default: Any = None) -> Any:
        """Return a value and record its key as read.

        Raises:
            UserError: Only running the config would give the value.
        """
        self._read.add(key)
        value = self.values.get(key, default)
        if isinstance(value, Unreadable):
            raise UserError(f"{value}, but it is {self.at(key)}; use the value itself.")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a number, or raise `UserError` where the config has something else."""
        value = self.take(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.draft.refusal(self.at(key), f"is {value!r}; use a number.")
        return value

    def section(self, key: str) -> Section:
        """Return the dict under a key, or raise `UserError` if something else is there."""
        value = self.take(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.draft.refusal(self.at(key), f"is {shown(value)}; a dict belongs there.")
        if key not in self._children:
            self._children[key] = [Section(value or {}, self.at(key), self.draft)]
        return self._children[key][0]

    def sections(self, key: str) -> list[Section]:
        """Return the dicts of a list; a single dict counts as a list of one."""
        value = self.take(key)
        items = [value] if isinstance(value, Mapping) else list(value or [])
        for item in items:
            if isinstance(item, Unreadable):
                raise UserError(f"{item}, but it is in {self.at(key)}; use the value itself.")
            if not isinstance(item, Mapping):
                raise self.draft.refusal(self.at(key), f"holds {shown(item)}; dicts belong there.")
        if key not in self._children:
            places = [f"{self.at(key)}.{item.get('type', position)}" for position, item in enumerate(items)]
            self._children[key] = [Section(item, place, self.draft) for item, place in zip(items, places, strict=True)]
        return self._children[key]

    def skip(self, *keys: str) -> None:
        """Record keys as read that have no effect on a run's result."""
        self._read.update(keys)

    def skip_all(self) -> None:
        """Record all keys as read."""
        self._read.update(self.values)

    def unread(self) -> Iterator[tuple[str, Any]]:
        """Yield the place and the value of every key that was not read, here and in the dicts inside."""
        for key, value in self.values.items():
            if key not in self._read:
                yield self.at(str(key)), value
        for children in self._children.values():
            for child in children:
                yield from child.unread()


def shown(value: Any) -> str:
    """Return a value as text for a message: one line of at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
