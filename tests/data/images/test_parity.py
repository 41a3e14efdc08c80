"""What is decoded is what `pipeline` sees: every mode of Pillow, in every container, with everything a file can say."""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.PngImagePlugin
import pytest
import torch
import transformers
from transformers import (
    BaseImageProcessor,
    BitImageProcessor,
    BitImageProcessorPil,
    CLIPImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
    pipeline,
)
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import load_image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from hf_finetune import evaluate, finetune
from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.images.cache import open_decoded_images
from hf_finetune.data.images.decoding import (
    AS_STORED,
    Decoding,
    OpenImage,
    UnreadableImage,
    decode_image,
    read_header,
)
from hf_finetune.data.images.pixels import decode_pixels
from hf_finetune.data.sources import in_memory
from hf_finetune.data.stages import EvaluationStage, TrainingStage, decoding_of
from hf_finetune.data.transforms.build import build_train_transforms
from tests.helpers.tiny import write_recipe

HEIGHT, WIDTH = 16, 24
ORIENTATION = 0x0112
# Where nothing but the range of values decides what 8 bits are: see `decoding`. These are compared elsewhere.
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# fmt: off
CONTAINERS = (
    "AVIF", "BLP", "BMP", "DDS", "DIB", "GIF", "ICO", "IM", "JPEG", "JPEG2000", "MPO", "MSP", "PCX", "PNG", "PPM",
    "QOI", "SGI", "TGA", "TIFF", "WEBP", "XBM",
)
# fmt: on


def _profile(exchanged: bool = False) -> bytes:
    """Return an sRGB profile, or one that exchanges red and blue."""
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    return (
        profile.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ") if exchanged else profile
    )


def _orientation(number: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = number
    return exif


def _gamma(value: int) -> PIL.PngImagePlugin.PngInfo:
    info = PIL.PngImagePlugin.PngInfo()
    info.add(b"gAMA", value.to_bytes(4, "big"))
    return info


def _images() -> dict[str, PIL.Image.Image]:
    """Return an image of every mode. It has few colours, so that a transparent one occurs often."""
    generator = np.random.default_rng(0)
    color = PIL.Image.fromarray(generator.choice([0, 90, 200], (HEIGHT, WIDTH, 3)).astype(np.uint8))
    alpha = PIL.Image.fromarray(generator.choice([0, 128, 255], (HEIGHT, WIDTH)).astype(np.uint8))
    gray, palette = color.convert("L"), color.quantize(30)
    gray_alpha = PIL.Image.merge("LA", [gray, alpha])
    color_alpha = PIL.Image.merge("RGBA", [*color.split(), alpha])
    images = [
        *(color.convert(mode) for mode in ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")),
        *(palette, gray_alpha, color_alpha, PIL.Image.merge("PA", [palette, alpha])),
        *(gray_alpha.convert("La"), color_alpha.convert("RGBa")),
        *(PIL.Image.new(mode, (WIDTH, HEIGHT), 7) for mode in WIDE_MODES),
    ]
    return {image.mode: image for image in images}


IMAGES = _images()
_TRANSPARENT = {  # of each mode, what PNG and GIF can name transparent
    "1": (0, 1),
    "L": (IMAGES["L"].getpixel((0, 0)),),
    "P": (IMAGES["P"].getpixel((0, 0)), bytes(range(0, 90, 3))),
    "RGB": (IMAGES["RGB"].getpixel((0, 0)), (1, 2, 3)),
}


def _infos(mode: str) -> dict[str, dict[str, Any]]:
    """Return what a file can say beside its pixels: a name, and the arguments with which it is saved."""
    later = IMAGES[mode].transpose(PIL.Image.Transpose.ROTATE_180)
    return {
        "none": {},
        "profile": {"icc_profile": _profile(exchanged=True)},
        "gamma": {"pnginfo": _gamma(100_000)},
        "pages": {"save_all": True, "append_images": [later, later]},
        **{f"orientation {number}": {"exif": _orientation(number)} for number in range(1, 9)},
        **{f"transparent {value!r:.20}": {"transparency": value} for value in _TRANSPARENT.get(mode, ())},
    }


def _files(container: str) -> Iterator[tuple[str, bytes]]:
    """Yield a name and the bytes of each file that Pillow writes into a container and can read again."""
    for mode in IMAGES:
        for name, options in _infos(mode).items():
            file = io.BytesIO()
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                IMAGES[mode].save(file, container, **{"speed": 10} if container == "AVIF" else {}, **options)
                PIL.Image.open(file).load()  # before version 13, Pillow writes a TIFF in YCbCr that it cannot read
                yield f"{container} {mode} {name}", file.getvalue()


def _is_wide(content: bytes) -> bool:
    with PIL.Image.open(io.BytesIO(content)) as image:
        return image.mode in WIDE_MODES


def _seen_by_pipeline(content: bytes) -> PIL.Image.Image:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        return load_image(PIL.Image.open(io.BytesIO(content)))


def _check_reduced(reduced: PIL.Image.Image, expected: PIL.Image.Image, is_jpeg: bool, name: str) -> None:
    """Check a decoding at a quarter of the size: only JPEG is smaller, by the means of 4 x 4 pixels, and is upright."""
    if not is_jpeg:
        np.testing.assert_array_equal(np.asarray(reduced), np.asarray(expected), name)
        return
    means = np.asarray(expected.reduce(4)).astype(int)
    assert reduced.size == (expected.width // 4, expected.height // 4), name
    assert np.abs(np.asarray(reduced) - means).mean() < 10 < np.abs(np.asarray(reduced)[::-1] - means).mean(), name


# Whether the image processors of this version of Transformers make a transparent colour white, as 5.23 does.
FILLED = "return_numpy" in inspect.signature(convert_to_rgb).parameters
# All ways of Transformers to handle transparency: none, by torchvision, by Pillow.
PROCESSORS: dict[str, BaseImageProcessor] = {
    "none": ViTImageProcessor(do_resize=False),
    "torchvision": BitImageProcessor(do_resize=False, do_center_crop=False),
    "Pillow": BitImageProcessorPil(do_resize=False, do_center_crop=False),
}


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_file_is_decoded_as_the_pipeline_does(container: str) -> None:
    PIL.Image.init()
    if container not in PIL.Image.SAVE:
        pytest.skip(f"this Pillow writes no {container}")
    compared = 0
    for name, content in _files(container):
        if _is_wide(content):
            continue
        compared += 1
        expected = _seen_by_pipeline(content)
        opened = PIL.Image.open(io.BytesIO(content))
        in_a_dataset = in_memory._encode(
            PIL.Image.open(io.BytesIO(content))
        )  # of a torch dataset that opens images itself
        for value in (content, {"bytes": content, "path": None}, opened, in_a_dataset):
            image = decode_image(value)
            assert image.mode == "RGB", name
            np.testing.assert_array_equal(np.asarray(image), np.asarray(expected), name)
            assert image.info.get("transparency") == expected.info.get("transparency"), name
        assert read_header(content).size == (expected.height, expected.width), name
        with OpenImage(content) as opened:
            _check_reduced(opened.decode(4), expected, container in ("JPEG", "MPO"), name)
        for kind, processor in PROCESSORS.items():
            wanted = processor(expected, return_tensors="pt")["pixel_values"][0]
            found = EvaluationStage(processor, uniform=False)({"image": [content], "label": [0]})["pixel_values"][0]
            if kind != "Pillow":
                found = processor(found[None], return_tensors="pt")["pixel_values"][0]
            assert torch.equal(found, wanted), f"{name}, transparency: {kind}"
    assert compared


@pytest.mark.parametrize("mode", [mode for mode in IMAGES if mode not in WIDE_MODES])
def test_every_image_object_is_what_the_pipeline_sees(mode: str) -> None:
    if mode == "La":  # Pillow converts it to nothing but LA
        with pytest.raises(ValueError, match="conversion"):
            load_image(IMAGES[mode])
        with pytest.raises(UnreadableImage, match="conversion"):
            decode_image(IMAGES[mode])
        return
    expected = load_image(IMAGES[mode])
    np.testing.assert_array_equal(np.asarray(decode_image(IMAGES[mode])), np.asarray(expected))
    assert read_header(IMAGES[mode]).size == (HEIGHT, WIDTH)


def test_profiles_and_gamma_change_nothing() -> None:
    """A profile that exchanges red and blue, and a gamma that darkens, leave the pixels as the file has them."""
    image = IMAGES["RGB"]
    exchanged = PIL.ImageCms.profileToProfile(
        image, io.BytesIO(_profile(exchanged=True)), io.BytesIO(_profile()), outputMode="RGB"
    )
    assert np.abs(np.asarray(exchanged).astype(int)[..., ::-1] - np.asarray(image)).max() <= 2, "it is a real profile"
    for options in ({"icc_profile": _profile(exchanged=True)}, {"pnginfo": _gamma(20_000)}):
        file = io.BytesIO()
        image.save(file, "PNG", **options)
        assert PIL.Image.open(file).info.keys() & {"icc_profile", "gamma"}
        np.testing.assert_array_equal(np.asarray(decode_image(file.getvalue())), np.asarray(image))
    for quality in (50, 100):  # torchvision's decoder, too
        with_profile, without = io.BytesIO(), io.BytesIO()
        image.save(with_profile, "JPEG", quality=quality, icc_profile=_profile(exchanged=True))
        image.save(without, "JPEG", quality=quality)
        assert torch.equal(decode_pixels(with_profile.getvalue()), decode_pixels(without.getvalue()))


def _transparent_png() -> tuple[bytes, np.ndarray, np.ndarray]:
    """Return a PNG with a transparent colour, its pixels, and its pixels on white."""
    image = IMAGES["RGB"]
    file = io.BytesIO()
    image.save(file, "PNG", transparency=image.getpixel((0, 0)))
    stored = np.asarray(image)
    on_white = np.where((stored == stored[0, 0]).all(axis=-1, keepdims=True), 255, stored).astype(np.uint8)
    assert (on_white != stored).any()
    return file.getvalue(), stored, on_white


@pytest.mark.parametrize(
    ("processor", "fills"),
    [
        (ViTImageProcessor(), False),
        (BitImageProcessor(), True),
        (BitImageProcessor(do_convert_rgb=False), False),
        (BitImageProcessorPil(), True),
        (CLIPImageProcessor(), True),
        (SiglipImageProcessor(), True),
    ],
)
def test_the_processor_decides_what_is_transparent(processor: BaseImageProcessor, fills: bool) -> None:
    content, stored, on_white = _transparent_png()
    fills &= FILLED
    how = decoding_of(processor)
    assert how == Decoding(on_white=fills)
    expected = on_white if fills else stored
    np.testing.assert_array_equal(np.asarray(decode_image(content, how)), expected)
    np.testing.assert_array_equal(decode_pixels(content, how).permute(1, 2, 0).numpy(), expected)


def _processors_of_classifiers() -> list[str]:
    """Return the image processors of all families of Transformers that classify images."""
    names = (IMAGE_PROCESSOR_MAPPING_NAMES.get(family) for family in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    return sorted({name for kinds in names if kinds for name in kinds.values() if name})


# One takes its figures from timm's configuration, one needs the clusters of its colours.
@pytest.mark.parametrize(
    "name",
    [name for name in _processors_of_classifiers() if not name.startswith(("TimmWrapper", "ImageGPT"))],
)
def test_the_processor_of_every_family_is_followed(name: str) -> None:
    content, stored, on_white = _transparent_png()
    processor = getattr(transformers, name)()
    fills = decoding_of(processor).on_white
    seen = processor(_seen_by_pipeline(content), return_tensors="np")["pixel_values"]
    decoded = PIL.Image.fromarray(on_white if fills else stored)
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(processor(decoded, return_tensors="np")["pixel_values"]))


@pytest.mark.parametrize("transforms", [[], [{"Resize": {"size": [8, 12]}}], [{"RandomResizedCrop": {"size": 8}}]])
def test_training_sees_what_evaluation_sees(transforms: list[dict[str, Any]]) -> None:
    content, stored, on_white = _transparent_png()
    pngs = {}
    for name, pixels in (("stored", stored), ("on white", on_white)):
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "PNG")
        pngs[name] = file.getvalue()

    def prepared(image: bytes, how: Decoding) -> torch.Tensor:
        stage = TrainingStage(build_train_transforms(transforms, uniform=not transforms), seed=3, decoding=how)
        rows = {"image": [{"bytes": image, "path": None}], "label": [0], "sample_index": [5]}
        return stage(rows)["pixel_values"]

    assert torch.equal(prepared(content, AS_STORED), prepared(pngs["stored"], AS_STORED))
    assert torch.equal(prepared(content, Decoding(on_white=True)), prepared(pngs["on white"], AS_STORED))
    assert not torch.equal(prepared(pngs["stored"], AS_STORED), prepared(pngs["on white"], AS_STORED))


def _transparent_folder(folder: Path, count: int) -> Path:
    """Write images of two classes, in which the transparent colour makes half of the pixels white."""
    generator = np.random.default_rng(1)
    for split in ("train", "test"):
        for label, colour in {"dark": 40, "light": 170}.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = generator.choice([0, colour, colour + 50], (16, 16)).astype(np.uint8)
                file = folder / split / label / f"{number}.png"
                PIL.Image.fromarray(pixels).convert("RGB").save(file, transparency=(0, 0, 0))
    return folder


def test_decoded_images_are_kept_apart(tmp_path: Path, datasets_cache: Path) -> None:
    data = load_image_dataset(DataArguments(dataset=str(_transparent_folder(tmp_path / "images", 2))), seed=0)
    rows = np.arange(2)
    stored = open_decoded_images(data, "always")["test"]
    on_white = open_decoded_images(data, "always", how=Decoding(on_white=True))["test"]
    assert stored.finished != on_white.finished
    assert (stored[rows] == 0).any() and not (on_white[rows] == 0).any()
    assert np.array_equal(np.where(stored[rows] == 0, 255, stored[rows]), on_white[rows])


@pytest.mark.slow
@pytest.mark.parametrize("decode_cache", ["always", "never"])
def test_a_run_on_transparent_images_agrees_with_the_pipeline(
    decode_cache: str, tmp_path: Path, datasets_cache: Path
) -> None:
    images = _transparent_folder(tmp_path / "images", 12)
    output = tmp_path / "output"
    result = finetune(
        str(write_recipe(tmp_path)), dataset=str(images), output_dir=str(output), decode_cache=decode_cache
    )
    classifier = pipeline("image-classification", model=str(output), device="cpu")
    assert classifier.image_processor.do_convert_rgb, "the case that this is about"
    losses = [
        -np.log(next(entry["score"] for entry in classifier(str(image)) if entry["label"] == image.parent.name))
        for image in sorted((images / "test").rglob("*.png"))
    ]
    assert np.mean(losses) == pytest.approx(result.metrics["test_loss"], abs=1e-4)
    evaluated = evaluate(str(output), dataset=str(images))
    assert evaluated.metrics["loss"] == pytest.approx(result.metrics["test_loss"], abs=1e-4)
