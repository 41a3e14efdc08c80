"""A folder of heat maps: a PNG file for each image, and a page that shows them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from PIL import Image

from hf_finetune.errors import UserError
from hf_finetune.jobs.explanation import Explanation
from hf_finetune.pages.page import Gallery, Note, Page, Paragraph, Section, Thumbnail, shortened
from hf_finetune.pages.thumbnails import thumbnail_sources

PAGE = "index.html"
_ON_THE_PAGE = 100  # images
_WIDTH = 480  # pixels of an image and its heat map together
_BUDGET = 4_000_000  # characters of all of them
_LONGEST_NAME = 100  # characters of a file's name without its ending

READING = (
    "On the left is the image as the network sees it, on the right the same below its heat map: from dark, where"
    " nothing was found, to yellow. A map shows where the network looked and not what it saw there, and its places are"
    " as coarse as the network's last maps of features."
)


class ExplanationFolder:
    """Writes heat maps into a new folder.

    Attributes:
        path: The folder.
        page: The page, when `finish` has written it.
    """

    def __init__(self, path: Path) -> None:
        """Check that nothing is in the folder. Raises `UserError` where there is."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "holds files" if path.is_dir() else "is a file"
            raise UserError(f"--output: {path} {what}; use another folder, or remove it.")
        self.path = path
        self.page = path / PAGE
        self._names: set[str] = {PAGE}
        self._shown: list[tuple[Explanation, Image.Image]] = []
        self._count = 0

    def add(self, explanation: Explanation) -> Explanation:
        """Write the PNG file of an image, and return the explanation with it; one that cannot be read has none."""
        if explanation.error is not None:
            return explanation
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / self._name(str(explanation.image))
        explanation.overlay().save(file)
        self._count += 1
        if self._count <= _ON_THE_PAGE:
            small = explanation.overlay(line=False)
            small.thumbnail((_WIDTH, _WIDTH))
            self._shown.append((replace(explanation, view=None), small))
        return replace(explanation, file=file)

    def _name(self, image: str) -> str:
        stem = re.sub(r"[^\w.-]+", "_", Path(image).name)
        stem = re.sub(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", "", stem, flags=re.IGNORECASE)[:_LONGEST_NAME].strip(".")
        name, number = f"{stem or 'image'}.png", 1
        while name.lower() in self._names:
            number += 1
            name = f"{stem or 'image'}-{number}.png"
        self._names.add(name.lower())
        return name

    def finish(self, model: str, how: str) -> None:
        """Write the page.

        Args:
            model: What the user calls the model.
            how: The method in words (`HeatMapper.described`).
        """
        images = f"{self._count:,} image{'s' * (self._count > 1)}"
        page = Page(f"Heat maps of {model}", f"{images}, {how}")
        sources = thumbnail_sources([image for _, image in self._shown], _BUDGET, _WIDTH)
        for place, ((explanation, _), source) in enumerate(zip(self._shown, sources, strict=True)):
            name = shortened(Path(str(explanation.image)).name)
            page.images[str(place)] = Thumbnail(source, [shortened(explanation.described()), name])
        notes = []
        if self._count > len(self._shown):
            notes.append(Note(f"These are the first {len(self._shown)}; the others are files beside this page."))
        if any(explanation.nothing_found for explanation, _ in self._shown):
            notes.append(Note("Where nothing was found, no position of the layer speaks for the class."))
        gallery = Gallery(list(page.images), pairs=True)
        page.sections = [Section("Heat maps", [Paragraph(READING), *notes, gallery])]
        page.write(self.page)
