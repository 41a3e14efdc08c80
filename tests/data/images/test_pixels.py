"""The quick decoder gives Pillow's pixels, and leaves to Pillow what it would do otherwise."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch

from hf_finetune.data.images import pixels
from hf_finetune.data.images.decoding import UnreadableImage, decode_image
from hf_finetune.data.images.pixels import decode_pixels, to_tensor
from tests.helpers.launched import run_in


def jpeg(mode: str = "RGB", size: tuple[int, int] = (45, 31), **settings) -> bytes:
    generator = np.random.default_rng(0)
    image = PIL.Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **settings)
    return file.getvalue()


def with_orientation(orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def resampled(content: bytes, factors: int, size: tuple[int, int]) -> bytes:
    """Return a JPEG read with sampling factors that Pillow does not write, and with the size that then fits."""
    changed = bytearray(content)
    frame = changed.index(b"\xff\xc0")
    changed[frame + 5 : frame + 9] = size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big")
    changed[frame + 11] = factors
    return bytes(changed)


@pytest.fixture
def quick(monkeypatch) -> list[bytes]:
    """What the quick decoder was given."""
    given: list[bytes] = []
    decode = pixels._decode_jpeg
    assert pixels._decoders_agree()
    monkeypatch.setattr(pixels, "_decode_jpeg", lambda content: given.append(content) or decode(content))
    return given


@pytest.mark.parametrize(
    "content",
    [
        jpeg(),
        jpeg(subsampling=0, quality=95),
        jpeg(subsampling=2, quality=30),
        jpeg(progressive=True),
        jpeg("L"),
        jpeg(size=(1, 1)),
        jpeg(size=(300, 7), comment=b"a comment", icc_profile=b"p" * 70000),
        jpeg(keep_rgb=True),
        jpeg(restart_marker_blocks=1),
        resampled(jpeg(size=(64, 64), subsampling=2), 0x41, (128, 32)),
        resampled(jpeg(size=(64, 64), subsampling=2), 0x14, (32, 128)),
    ],
)
def test_ordinary_files_go_the_quick_way_to_the_same_pixels(content, quick):
    decoded = decode_pixels({"bytes": content, "path": None})
    assert quick == [content]
    assert decoded.dtype == torch.uint8 and torch.equal(decoded, to_tensor(decode_image(content)))


def test_decoding_warns_of_nothing(tmp_path):
    """In a process of its own, because PyTorch warns once."""
    (tmp_path / "decode.py").write_text(
        "import io, warnings, PIL.Image\n"
        "from hf_finetune.data.images.pixels import decode_pixels\n"
        "file = io.BytesIO(); PIL.Image.new('RGB', (8, 8)).save(file, 'JPEG')\n"
        "warnings.filterwarnings('error', message='The given buffer'); decode_pixels(file.getvalue())\n"
    )
    ended = run_in(1, tmp_path / "decode.py")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("content", [with_orientation(6), with_orientation(1), jpeg("CMYK")])
def test_others_are_pillows(content, quick):
    assert torch.equal(decode_pixels(content), to_tensor(decode_image(content)))


def test_chroma_of_half_the_height_is_pillows(quick):
    """Up to version 0.27, torchvision enlarges it otherwise than Pillow."""
    content = resampled(jpeg(size=(64, 64), subsampling=1), 0x12, (32, 128))
    assert torch.equal(decode_pixels(content), to_tensor(decode_image(content))) and not quick


def test_a_image_that_exif_turns_is_turned(quick):
    assert decode_pixels(with_orientation(6)).shape == (3, 45, 31) and not quick


def test_where_the_decoders_differ_pillow_decides(monkeypatch, quick):
    monkeypatch.setattr(pixels, "_decoders_agree", lambda: False)
    assert decode_pixels(jpeg()).shape == (3, 31, 45) and not quick


@pytest.mark.parametrize("cut", [5, 100, 600])
def test_a_file_cut_short_is_unreadable(cut, quick):
    with pytest.raises(UnreadableImage):
        decode_pixels(jpeg(size=(64, 64))[:cut])
    assert not quick


def test_a_file_that_claims_too_much_is_refused_before_it_is_decoded(quick):
    content = bytearray(jpeg())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # height and width of 65,535 pixels
    with pytest.raises(UnreadableImage, match="pixels"):
        decode_pixels(bytes(content))
    assert not quick


def test_other_formats_and_paths(tmp_path, quick):
    image = PIL.Image.new("RGB", (6, 4), (1, 2, 3))
    image.save(tmp_path / "a.png")
    for value in (str(tmp_path / "a.png"), {"bytes": None, "path": str(tmp_path / "a.png")}, image):
        assert decode_pixels(value)[:, 0, 0].tolist() == [1, 2, 3]
    assert not quick
