"""Reads what steps of training and of evaluation pipelines have in common: sizes and interpolation."""

from __future__ import annotations

from typing import Any

from hf_finetune.mmclassification.section import Draft, Section

# Steps that load, convert or pack images, and change no pixel.
PLUMBING = {
    "LoadImageFromFile",
    "ImageToTensor",
    "ToTensor",
    "Collect",
    "PackInputs",
    "ToNumpy",
    "ToPIL",
    "NumpyToPIL",
    "PILToNumpy",
    "Transpose",
    "Normalize",  # import_normalization reads it
}
RESAMPLINGS = {"nearest", "bilinear", "bicubic", "lanczos"}


def as_lists(value: Any) -> Any:
    """Return a value with lists in place of tuples, which YAML lacks."""
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_interpolation(step: Section, draft: Draft, default: str = "bilinear") -> str:
    """Return the interpolation of a step. An unsupported one becomes the default, with a remark."""
    step.skip("backend", "max_attempts")
    word: str = step.take("interpolation", default)
    if word in RESAMPLINGS:
        return word
    draft.remark(step.at("interpolation"), f"{word!r}; {default} is taken")
    return default


def as_pair(value: Any) -> list[Any]:
    """Return a pair as a list; a number is taken twice."""
    return [value, value] if isinstance(value, (int, float)) else list(value)


def read_size(step: Section, *keys: str) -> Any:
    """Return the size under the first of `keys` that the step has: a side in pixels, or [height, width].

    Raises:
        UserError: It is neither a number nor a pair.
    """
    key = next((key for key in keys if key in step), keys[0])
    value = step.take(key)
    if not isinstance(value, (int, list, tuple)) or (not isinstance(value, int) and len(value) != 2):
        raise step.draft.refusal(step.at(key), f"is {value!r}; use a side in pixels, or two.")
    sides = as_pair(value)
    return sides[0] if sides[0] == sides[1] else sides


def resize_target(step: Section, draft: Draft) -> tuple[list[int], int | None]:
    """Return what a Resize asks for.

    Returns:
        [height, width] in pixels and None, or an empty list and the length of the short side.

    Raises:
        UserError: The size is neither a number nor a pair.
    """
    kind, key = step.values["type"], "scale" if "scale" in step else "size"
    value = step.take(key)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, (int, list, tuple)):
        raise draft.refusal(step.at(key), f"is {value!r}; use a side in pixels, or two.")
    if kind == "ResizeEdge" or "edge" in step:
        edge = step.take("edge", "short")
        if edge != "short":
            draft.remark(step.at("edge"), f"{edge!r}; the short edge is taken")
        return [], as_pair(value)[0]
    if step.take("adaptive_side", "short") != "short":
        draft.remark(step.at("adaptive_side"), f"{step.take('adaptive_side')!r}; the short side is taken")
    sides = as_pair(value)
    if -1 in sides or step.take("keep_ratio", False):
        return [], max(sides)
    return (sides[::-1] if key == "scale" else sides), None  # MMCV 2 writes (width, height), 0.x (height, width)
