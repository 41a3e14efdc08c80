"""What the steps of training and of evaluation pipelines have in common."""

from __future__ import annotations

from typing import Any

from hf_finetune.mmclassification.section import Draft, Section

# Steps that load, convert or pack, and change no pixel.
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
    """Returns a value with its tuples, which YAML has not, as lists."""
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_interpolation(step: Section, draft: Draft, default: str = "bilinear") -> str:
    """Returns the interpolation of a step; one that there is none for here becomes the default, with a remark."""
    step.skip("backend", "max_attempts")
    word = step.take("interpolation", default)
    if word in RESAMPLINGS:
        return word
    draft.remark(step.at("interpolation"), f"{word!r}; {default} is taken")
    return default


def as_pair(value: Any) -> list[Any]:
    """Returns a pair, or a number twice."""
    return [value, value] if isinstance(value, (int, float)) else list(value)


def read_size(step: Section, *keys: str) -> Any:
    """Returns the size under the first of the keys that is there: a side in pixels, or [height, width]."""
    key = next((key for key in keys if key in step), keys[0])
    value = step.take(key)
    if not isinstance(value, (int, list, tuple)) or (not isinstance(value, int) and len(value) != 2):
        raise step.draft.refusal(step.at(key), f"is {value!r}; write a side in pixels, or two.")
    sides = as_pair(value)
    return sides[0] if sides[0] == sides[1] else sides


def resize_target(step: Section, draft: Draft) -> tuple[list[int], int | None]:
    """Returns what a Resize asks for: [height, width], or the length of the short side alone."""
    kind, key = step.values["type"], "scale" if "scale" in step else "size"
    value = step.take(key)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, (int, list, tuple)):
        raise draft.refusal(step.at(key), f"is {value!r}; write a side in pixels, or two.")
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
