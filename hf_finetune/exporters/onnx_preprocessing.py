"""Puts the preprocessing into an exported ONNX file: images of any size go in, uint8 as they are decoded.

The graph resizes, crops and normalizes as the image processor does, by ONNX's own operators. onnxruntime resizes with
antialiasing as Pillow does: of photographs few pixels differ, by a level or two of 255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import BaseImageProcessor

from hf_finetune.errors import UserError
from hf_finetune.exporters.onnx_model import IMAGES_NAME, INPUT_NAME, OUTPUT_NAME
from hf_finetune.models.processor import Preprocessing, describe, is_timm

if TYPE_CHECKING:
    import onnx

# Pillow has a = -0.5, and weighs only pixels that exist.
_MODES = {
    "bilinear": 'mode = "linear", antialias = 1, exclude_outside = 1',
    "bicubic": 'mode = "cubic", antialias = 1, exclude_outside = 1, cubic_coeff_a = -0.5',
}
# The height and the width of the resized image, from `sides`, those of the image, int64 (2).
_RESIZED_SIDES = {
    # The shorter side becomes `target`; the division rounds down.
    "crop": "shorter = ReduceMin (sides) scaled = Mul (sides, target) resized = Div (scaled, shorter)",
    "squash": "resized = Identity (target)",
    # Both fit into `target`.
    "pad": """
        exact = Cast <to = 11> (sides)
        exact_target = Cast <to = 11> (target)
        ratios = Div (exact_target, exact)
        ratio = ReduceMin (ratios)
        scaled = Mul (exact, ratio)
        rounded_down = Floor (scaled)
        resized = Cast <to = 7> (rounded_down)""",
}
# `Pad` has no axes: onnxruntime 1.32 moves `Transpose` behind it, and then expects pads for all dimensions.
_GRAPH = """
    <ir_version: {ir_version}, opset_import: ["" : {opset}]>
    preprocessing (uint8[batch, height, width, 3] {images}) => (float[batch, 3, {crop_height}, {crop_width}] {output})
    <int64[2] target = {{{target}}}, int64[2] crop = {{{crop_height}, {crop_width}}}, int64[2] none = {{0, 0}},
     int64[2] axes = {{2, 3}}, int64[1] channels = {{3}}, float two = {{2.0}},
     float[1, 3, 1, 1] fill = {{{fill}}}, float[1, 3, 1, 1] scale = {{{scale}}}, float[1, 3, 1, 1] mean = {{{mean}}}>
    {{
        sides = Shape <start = 1, end = 3> ({images})
        count = Shape <end = 1> ({images})
        {resized_sides}
        planes = Transpose <perm = [0, 3, 1, 2]> ({images})
        shape = Concat <axis = 0> (count, channels, resized)
        levels = Resize <{mode}, coordinate_transformation_mode = "half_pixel"> (planes, , , shape)

        floats = Cast <to = 1> (levels)
        above = Sub (floats, fill)
        missing = Sub (crop, resized)
        borders = Max (missing, none)
        half_borders = Cast <to = 1> (borders)
        halves = Div (half_borders, two)
        fewer = Floor (halves)
        before = Cast <to = 7> (fewer)
        after = Sub (borders, before)
        pads = Concat <axis = 0> (none, before, none, after)
        padded = Pad (above, pads)
        filled = Add (padded, fill)

        left_over = Sub (resized, crop)
        surplus = Max (left_over, none)
        half_surplus = Cast <to = 1> (surplus)
        middle = Div (half_surplus, two)
        whole = {rounding} (middle)
        start = Cast <to = 7> (whole)
        end = Add (start, crop)
        centre = Slice (filled, start, end, axes)

        centred = Sub (centre, mean)
        {output} = Mul (centred, scale)
    }}"""


def add_preprocessing(source: Path, target: Path, image_processor: BaseImageProcessor) -> None:
    """Write an exported file again, which takes images as they are decoded: uint8 (batch, height, width, 3) in RGB.

    Args:
        source: A file that `onnx_file.write_onnx` wrote.
        target: The file to write. It has the metadata of `source`.
        image_processor: What the graph does.

    Raises:
        UserError: If ONNX has no operator for what the image processor does.
    """
    import onnx  # optional

    network = onnx.load(source)
    (opset,) = (entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    graph = _graph(image_processor, network.ir_version, opset)
    whole = onnx.compose.merge_models(
        onnx.compose.add_prefix(graph, "preprocessing/", rename_inputs=False, rename_outputs=False),
        network,
        io_map=[(INPUT_NAME, INPUT_NAME)],
    )
    del whole.metadata_props[:], whole.opset_import[:]  # those of both files, twice
    whole.metadata_props.extend(network.metadata_props)
    whole.opset_import.extend(network.opset_import)
    onnx.checker.check_model(whole)
    onnx.save(whole, target)


def open_preprocessing(path: Path) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return what runs a file of `add_preprocessing`.

    Args:
        path: The file.

    Returns:
        A function of images of one size, uint8 (batch, 3, height, width), that returns what the graph makes of them,
        float32 (batch, 3, height, width), and the logits, float32 (batch, classes).
    """
    import onnx  # optional
    import onnxruntime

    model = onnx.load(path)
    pixels = onnx.helper.make_empty_tensor_value_info(INPUT_NAME)
    model.graph.output.append(pixels)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = images.permute(0, 2, 3, 1).contiguous().numpy()
        pixel_values, logits = session.run([INPUT_NAME, OUTPUT_NAME], {IMAGES_NAME: given})
        return torch.from_numpy(pixel_values), torch.from_numpy(logits)

    return run


def _graph(image_processor: BaseImageProcessor, ir_version: int, opset: int) -> onnx.ModelProto:
    """Return the graph of an image processor alone."""
    from onnx import parser  # optional

    does = describe(image_processor)
    if does.resample not in _MODES:
        raise UserError(
            f"--with_preprocessing: ONNX does not resize with {does.resample}; leave the flag out, or train with"
            f" --resample {' or '.join(_MODES)}."
        )
    if getattr(image_processor, "value_range", None) is not None:
        raise UserError(
            "--with_preprocessing is for images of 8 bits, and this model scales images of more; leave the flag out."
        )
    height, width = does.sides
    return parser.parse_model(
        _GRAPH.format(
            ir_version=ir_version,
            opset=opset,
            images=IMAGES_NAME,
            output=INPUT_NAME,
            crop_height=height,
            crop_width=width,
            target=_numbers(_target(does)),
            resized_sides=_RESIZED_SIDES[does.resize_mode],
            mode=_MODES[does.resample],
            # torchvision's centre crop, which timm uses, rounds; that of Transformers rounds down.
            rounding="Round" if is_timm(image_processor) else "Floor",
            fill=_numbers(map(float, does.fill)),
            mean=_numbers(does.mean),
            scale=_numbers(1 / std for std in does.std),
        )
    )


def _target(does: Preprocessing) -> tuple[int, int]:
    """Return what the image is resized to, (height, width) in pixels; with crop, twice the shorter side."""
    height, width = (int(side / does.crop_pct + 1e-6) for side in does.sides)
    return (min(height, width),) * 2 if does.resize_mode == "crop" else (height, width)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(map(repr, values))
