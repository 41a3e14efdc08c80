"""Pixels of every image mode, parity with transformers' own loading, and the header's size and faults."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.GifImagePlugin
import PIL.Image
import pytest
from transformers.image_utils import load_image

from hf_finetune.data.images.decoding import Decoding, OpenImage, UnreadableImage, Unused, decode_image, read_header
from hf_finetune.errors import UserError

_GENERATOR = np.random.default_rng(0)


def encode(image: PIL.Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def color_image(height: int = 12, width: int = 20) -> PIL.Image.Image:
    return PIL.Image.fromarray(_GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8))


def palette_with_transparency() -> PIL.Image.Image:
    image = color_image().convert("P")
    image.info["transparency"] = bytes(range(256))
    return image


def rotated(orientation: int) -> dict:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


ORDINARY_IMAGES = {
    "rgb.png": encode(color_image(), "PNG"),
    "rgb.jpg": encode(color_image(), "JPEG"),
    "gray.jpg": encode(color_image().convert("L"), "JPEG"),
    "bilevel.png": encode(color_image().convert("1"), "PNG"),
    "gray_alpha.png": encode(color_image().convert("LA"), "PNG"),
    "rgba.png": encode(PIL.Image.merge("RGBA", [*color_image().split(), color_image().convert("L")]), "PNG"),
    "palette.png": encode(color_image().convert("P"), "PNG"),
    "palette_transparent.png": encode(palette_with_transparency(), "PNG"),
    "palette.gif": encode(color_image().convert("P"), "GIF"),
    "cmyk.jpg": encode(color_image().convert("CMYK"), "JPEG"),
    "cmyk.tif": encode(color_image().convert("CMYK"), "TIFF"),
    "webp.webp": encode(color_image(), "WEBP"),
    **{f"exif_{orientation}.jpg": encode(color_image(), "JPEG", **rotated(orientation)) for orientation in range(1, 9)},
    "exif_6.png": encode(color_image(), "PNG", **rotated(6)),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", ORDINARY_IMAGES)
def test_ordinary_image_is_what_the_pipeline_sees(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(ORDINARY_IMAGES[name])
    expected = load_image(str(tmp_path / name))
    values = [
        str(tmp_path / name),
        tmp_path / name,
        ORDINARY_IMAGES[name],
        {"bytes": ORDINARY_IMAGES[name], "path": "elsewhere.png"},
        {"bytes": None, "path": str(tmp_path / name)},
        PIL.Image.open(tmp_path / name),
    ]
    for value in values:
        image = decode_image(value)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert read_header(tmp_path / name).size == (expected.height, expected.width)
    assert read_header({"bytes": ORDINARY_IMAGES[name], "path": None}).size == (expected.height, expected.width)


def test_orientation_turns_the_image_upright() -> None:
    pixels = np.asarray(color_image())
    turned = encode(PIL.Image.fromarray(np.rot90(pixels)), "PNG", **rotated(6))  # 6: turn clockwise to see it upright
    np.testing.assert_array_equal(np.asarray(decode_image(turned)), pixels)
    assert read_header(turned).size == (12, 20)


def _with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """Return a PNG with a chunk after its pixels."""
    end = len(png) - 12
    chunk = len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
    return png[:end] + chunk + png[end:]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"eXIf", rotated(6)["exif"].tobytes()[6:]),
        (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="6"/>'),
    ],
)
def test_an_orientation_after_the_pixels_counts(name: bytes, content: bytes) -> None:
    turned = _with_chunk(ORDINARY_IMAGES["rgb.png"], name, content)
    expected = load_image(PIL.Image.open(io.BytesIO(turned)))
    assert (expected.height, expected.width) == read_header(turned).size == (20, 12)
    np.testing.assert_array_equal(np.asarray(decode_image(turned)), np.asarray(expected))
    assert read_header(_with_chunk(ORDINARY_IMAGES["rgb.png"], b"tEXt", b"Comment\0Orientation")).size == (12, 20)


def test_palette_transparency_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_image(ORDINARY_IMAGES["palette_transparent.png"])


@pytest.mark.parametrize(
    ("dtype", "image_format", "mode"),
    [("<u2", "PNG", "I;16"), ("<u2", "TIFF", "I;16"), (">u2", "TIFF", "I;16B"), ("<i4", "TIFF", "I")],
)
def test_16_bit_images_keep_their_high_byte(dtype: str, image_format: str, mode: str) -> None:
    values = np.array([[0, 255, 256], [32768, 65279, 65535]], dtype=dtype)
    contents = encode(PIL.Image.fromarray(values), image_format)
    assert PIL.Image.open(io.BytesIO(contents)).mode == mode
    pixels = np.asarray(decode_image(contents))
    np.testing.assert_array_equal(pixels[:, :, 0], [[0, 0, 1], [128, 254, 255]])
    assert (pixels == pixels[:, :, :1]).all()


def test_floating_point_images() -> None:
    unit = PIL.Image.fromarray(np.array([[0.0, 0.5], [1.0, np.nan]], dtype=np.float32))
    np.testing.assert_array_equal(np.asarray(decode_image(encode(unit, "TIFF")))[:, :, 0], [[0, 128], [255, 0]])
    bytes_range = PIL.Image.fromarray(np.array([[-3.0, 0.6], [200.0, 300.0]], dtype=np.float32))
    decoded = decode_image(encode(bytes_range, "TIFF"), Decoding(value_range=(0, 255)))
    np.testing.assert_array_equal(np.asarray(decoded)[:, :, 0], [[0, 1], [200, 255]])


def test_one_bright_pixel_changes_no_other_pixel() -> None:
    grey = np.full((8, 8), 0.5, np.float32)
    bright = grey.copy()
    bright[0, 0] = 1.02
    first, second = (np.asarray(decode_image(encode(PIL.Image.fromarray(image), "TIFF"))) for image in (grey, bright))
    assert first[4, 4].tolist() == second[4, 4].tolist() == [128, 128, 128]


@pytest.mark.parametrize(
    ("value_range", "levels"),
    [
        ((0, 4095), [0, 64, 128, 255, 255]),
        ((-1024, 3071), [64, 128, 192, 255, 255]),
        ((1024, 2048), [0, 0, 255, 255, 255]),
        (None, [0, 4, 8, 15, 255]),
    ],
)
def test_whole_numbers_of_a_range(value_range: tuple[float, float] | None, levels: list[int]) -> None:
    contents = encode(PIL.Image.fromarray(np.array([[0, 1024, 2048, 4095, 65535]], np.uint16)), "PNG")
    decoded = decode_image(contents, Decoding(value_range=value_range))
    assert np.asarray(decoded)[0, :, 0].tolist() == levels
    # Images of 8 bits stay as they are, also among wider ones.
    narrow = encode(color_image(), "PNG")
    assert decode_image(narrow, Decoding(value_range=value_range)).tobytes() == decode_image(narrow).tobytes()


def broken_images(folder: Path) -> dict[str, str]:
    """Writes one broken image of each kind and returns the reason that each must be given."""
    (folder / "text.jpg").write_text("this is not an image")
    (folder / "empty.png").write_bytes(b"")
    jpeg, png = ORDINARY_IMAGES["rgb.jpg"], ORDINARY_IMAGES["rgb.png"]
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) * 3 // 4])
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    return {
        "text.jpg": "not an image",
        "empty.png": "empty file",
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "gone.jpg": "no such file",
    }


def test_broken_images_are_named(tmp_path: Path) -> None:
    for name, reason in broken_images(tmp_path).items():
        for read in (decode_image, read_header):
            with pytest.raises(UserError) as caught:
                read({"bytes": None, "path": str(tmp_path / name)})
            assert str(tmp_path / name) in str(caught.value)
            assert reason in str(caught.value)
            assert "\n" not in str(caught.value)


def test_bytes_without_a_name() -> None:
    with pytest.raises(UnreadableImage, match=r"^an image without a name .*: not an image\.$"):
        decode_image(b"nonsense")
    with pytest.raises(UnreadableImage, match=r"^digit\.png .*: empty file\.$"):
        decode_image({"bytes": b"", "path": "digit.png"})
    with pytest.raises(UnreadableImage, match="there is no image"):
        decode_image({"bytes": None, "path": None})


def test_bytes_appended_to_a_whole_image_do_no_harm() -> None:
    for name in ("rgb.jpg", "rgb.png"):
        assert read_header(ORDINARY_IMAGES[name] + b"\x00\x00camera notes").size == (12, 20)


def test_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    for read in (decode_image, read_header):
        with pytest.raises(UnreadableImage, match="more than 200 pixels"):
            read(ORDINARY_IMAGES["rgb.png"])


def test_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("cats/1.jpg", "empty file")))
    assert (error.name, error.reason, str(error)) == (
        "cats/1.jpg",
        "empty file",
        "cats/1.jpg cannot be read as an image: empty file.",
    )


def _several(image_format: str, **options) -> bytes:
    return encode(color_image(), image_format, save_all=True, append_images=[color_image(), color_image()], **options)


PAGES = {
    "one.tif": (encode(color_image(), "TIFF"), Unused.NONE),
    "pages.tif": (_several("TIFF"), Unused.MORE),
    "compressed.tif": (_several("TIFF", compression="tiff_lzw"), Unused.MORE),
    "one.gif": (ORDINARY_IMAGES["palette.gif"], Unused.NONE),
    "moving.gif": (_several("GIF"), Unused.MORE),
    "broken after the first frame.gif": (_several("GIF")[:1200], Unused.NONE),
    "one.png": (ORDINARY_IMAGES["rgb.png"], Unused.NONE),
    "moving.png": (_several("PNG"), Unused.MORE),
    "moving beside an image.png": (_several("PNG", default_image=True), Unused.MORE),
    "one.webp": (ORDINARY_IMAGES["webp.webp"], Unused.NONE),
    "moving.webp": (_several("WEBP", lossless=True), Unused.MORE),
    "one.jpg": (ORDINARY_IMAGES["rgb.jpg"], Unused.NONE),
    "camera.mpo": (_several("MPO"), Unused.OF_CAMERA),
    "sizes.ico": (encode(color_image(64, 64), "ICO", sizes=[(16, 16), (32, 32), (64, 64)]), Unused.NONE),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_seen_and_the_first_is_decoded(name: str) -> None:
    content, pages = PAGES[name]
    assert read_header(content).unused == pages
    with OpenImage(content) as image:
        assert image.unused == pages
        np.testing.assert_array_equal(
            np.asarray(image.decode()), np.asarray(load_image(PIL.Image.open(io.BytesIO(content))))
        )


def _png_of_16_bits(color_type: int, channels: int) -> bytes:
    """Return a PNG of 8 x 8 pixels, which Pillow could not write."""
    rows = (np.arange(64 * channels) * 777 % 65536).astype(">u2").reshape(8, -1)
    header = struct.pack(">IIBBBBB", 8, 8, 16, color_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _tiff_of_16_bits() -> bytes:
    """Return an RGB TIFF of 8 x 8 pixels."""
    pixels = (np.arange(192) * 99).astype("<u2").tobytes()
    bits_at = 8 + 2 + 9 * 12 + 4
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 3, bits_at), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, bits_at + 6), (277, 3, 1, 3), (278, 3, 1, 8), (279, 4, 1, len(pixels))]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, 9) + table + bytes(4) + struct.pack("<HHH", 16, 16, 16) + pixels


COLOURS_OF_16_BITS = {
    "rgb.png": _png_of_16_bits(2, 3),
    "rgba.png": _png_of_16_bits(6, 4),
    "gray with alpha.png": _png_of_16_bits(4, 2),
    "rgb.tif": _tiff_of_16_bits(),
    "rgb.ppm": b"P6 4 4 65535\n" + np.arange(48, dtype=">u2").tobytes(),
}


@pytest.mark.parametrize("name", COLOURS_OF_16_BITS)
def test_colours_of_16_bits_lose_their_low_bits_in_sight(name: str) -> None:
    content = COLOURS_OF_16_BITS[name]
    header = read_header(content)
    assert (header.unused, header.wide) == (Unused.LOW_BITS, False)
    np.testing.assert_array_equal(
        np.asarray(decode_image(content)), np.asarray(load_image(PIL.Image.open(io.BytesIO(content))))
    )


def test_gray_of_16_bits_and_colours_of_8_lose_none() -> None:
    assert read_header(_png_of_16_bits(0, 1)).unused == Unused.NONE
    assert read_header(encode(color_image(), "PPM")).unused == Unused.NONE


def test_a_second_frame_that_cannot_be_read_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    content = PAGES["moving.gif"][0]
    seek = PIL.GifImagePlugin.GifImageFile._seek

    def broken(self, frame, *rest):
        if frame:
            raise SyntaxError("a broken frame")
        seek(self, frame, *rest)

    monkeypatch.setattr(PIL.GifImagePlugin.GifImageFile, "_seek", broken)
    assert read_header(content) == (12, 20, Unused.NONE, False)
    assert decode_image(content).size == (20, 12)
