"""Names of classes that a person would take for one: they differ only in blanks, case or how a number is written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal

from hf_finetune.errors import listing

_NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]{1,3})?")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))  # zero-width characters and byte order marks


def tidy_name(name: str) -> str:
    """Return a name as `label_strip` has it.

    Blanks of any kind around it and zero-width characters are removed, blanks inside become one space, and letters with
    accents become one character each (Unicode's form NFC).
    """
    return " ".join(unicodedata.normalize("NFC", name).translate(_INVISIBLE).split())


def note_similar_names(names: Sequence[str]) -> list[str]:
    """Return notes on class names that look like mistakes.

    Args:
        names: The class names, each different from the others.

    Returns:
        A note that names the groups of names which differ only in blanks, case, Unicode form or how a number is
        written; or one that names those with blanks around them; or nothing.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_alike(name), []).append(name)
    similar = [group for group in groups.values() if len(group) > 1]
    if similar:
        stripped = any(len({tidy_name(name) for name in group}) < len(group) for group in similar)
        hint = ", or use --label_strip, which removes blanks and joins these" if stripped else ""
        shown = listing([" and ".join(map(_shown, group)) for group in similar])
        return [
            f"Class names differ only by blanks, case or the writing of a number, and are kept as classes of their own:"
            f" {shown}; if they are one class, write them alike{hint}."
        ]
    untidy = [name for name in names if name != tidy_name(name)]
    if untidy:
        shown = listing([_shown(name) for name in untidy])
        return [f"Class names have blanks around them or odd characters: {shown}; --label_strip removes these."]
    return []


def note_stripped(before: Iterable[str], after: Sequence[str]) -> list[str]:
    """Return a note on what `label_strip` changed: `before` and `after` are the class names without and with it."""
    changed = sorted({name for name in before if tidy_name(name) != name})
    if not changed:
        return []
    shown = listing([_shown(name) for name in changed])
    return [f"label_strip changed {len(changed):,} class names ({shown}); {len(after):,} classes are left."]


def hint_at_strip(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Return advice where names are unknown only for their blanks, or an empty string."""
    tidy = {tidy_name(name) for name in known}
    twins = [name for name in unknown if tidy_name(name) in tidy]
    return f" {_shown(twins[0])} differs from a known name only by blanks; use --label_strip." if twins else ""


def _alike(name: str) -> str:
    key = tidy_name(unicodedata.normalize("NFKC", name)).casefold()
    return str(Decimal(key).normalize()) if _NUMBER.fullmatch(key) else key


def _shown(name: str) -> str:
    """Return a name in quotes; escaped where it does not look like what it is."""
    return repr(name) if name == unicodedata.normalize("NFC", name) else ascii(name)
