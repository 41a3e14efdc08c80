"""Fonts for class names that matplotlib's own font, DejaVu Sans, cannot draw, such as Chinese and Korean ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font

DEFAULT_FONT = "DejaVu Sans"  # comes with matplotlib

# Parts of the names of files of sans-serif fonts that have Chinese, Japanese or Korean characters, the best first.
_PREFERRED = (
    "notosanscjk", "sourcehansans", "wqy", "pingfang", "hiragino", "msyh", "simhei", "yugoth", "meiryo", "malgun",
    "nanumgothic", "applegothic", "droidsansfallback", "arialunicode",
)  # fmt: skip
_LEFT_OUT = ("emoji", "lastresort")  # bitmaps, which matplotlib cannot draw, and boxes


def families_for(text: str) -> tuple[list[str], set[str]]:
    """Choose fonts that draw a text: matplotlib falls back from one to the next for each character.

    Fonts are looked for among the system's files only where DejaVu Sans lacks a character. Matplotlib's own list of
    them is not enough: it is made once, and fonts that were installed later are not in it.

    Args:
        text: All characters to draw.

    Returns:
        Names of font families, DejaVu Sans first, and the characters that no installed font has.
    """
    families = [DEFAULT_FONT]
    missing = {character for character in text if character.isprintable()} - _characters(findfont(DEFAULT_FONT))
    for path in _system_fonts() if missing else ():
        found = missing & _characters(path)
        if found:
            families.append(_family(path))
            missing -= found
        if not missing:
            break
    return families, missing


def cannot_draw(name: str, missing: Iterable[str]) -> bool:
    """Return whether a name has a character of `missing`."""
    return not set(missing).isdisjoint(name)


def _system_fonts() -> Iterator[str]:
    def rank(path: str) -> tuple[int, bool, str]:
        name = Path(path).stem.lower().replace("-", "").replace("_", "")
        place = next((place for place, part in enumerate(_PREFERRED) if part in name), len(_PREFERRED))
        return place, "regular" not in name, path

    paths = sorted(findSystemFonts(), key=rank)
    return (path for path in paths if not any(part in path.lower().replace(" ", "") for part in _LEFT_OUT))


@cache
def _characters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # a file that is damaged or has no scalable glyphs
        return frozenset()


def _family(path: str) -> str:
    name: str = FontProperties(fname=path).get_name()
    if name not in fontManager.get_font_names():
        fontManager.addfont(path)
    return name
