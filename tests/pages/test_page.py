"""Pages hold all they show, keep within their size, and show text as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hf_finetune.pages.charts import Line, LineChart
from hf_finetune.pages.page import (
    MOST_BYTES,
    Cell,
    Charts,
    Code,
    Column,
    Details,
    Fact,
    Facts,
    Gallery,
    ImageRows,
    Matrix,
    Note,
    Page,
    Paragraph,
    Section,
    Table,
    Thumbnail,
    shortened,
)
from hf_finetune.pages.thumbnails import thumbnail_sources

HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;\x1b\u202e"


class Elements(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.text += data


def hostile_page() -> Page:
    """Return a page of every kind of block whose texts would be HTML."""
    text = HOSTILE
    chart = LineChart(text, [Line(text, [(0, 1), (1, 2)], dots=True), Line(text, [(0, 1)], dotted=True)], text)
    table = Table([Column(text), Column(text, True)], [[Cell(text, images=["a"], title=text), Cell(text, text, 0.5)]])
    matrix = Matrix([text], [[Cell(text, share=0.5)]], text, text, {text: [0], text * 2: [0]})
    blocks = [Paragraph(text), Note(text), Facts([Fact(text, text, text)]), table, matrix, Gallery(["a", "b"])]
    more = [ImageRows([(text, text)], [["a"], ["b"]]), Code(text), Charts([chart]), Details(text, [Paragraph(text)])]
    images = {"a": Thumbnail("data:image/jpeg;base64,AAAA", [text]), "b": Thumbnail("", [text])}
    return Page(text, text, [Section(text, [*blocks, *more]), Section("b", []), Section("c", [])], images)


def test_text_is_shown_as_text_in_every_block():
    html = hostile_page().html()
    elements = Elements(html)
    assert elements.tags.count("script") == 2  # the images and the page's own
    assert not [attribute for attribute in elements.attributes if attribute[1].startswith("on")]
    assert "\x1b" not in html and "\u202e" not in html
    assert elements.text.count("onerror=\"alert('2')\"") > 20
    data = json.loads(re.search(r'id="images">(.*?)</script>', html)[1])
    assert data["a"][1].startswith("</script></style><script>alert(1)</script>")


def test_a_page_refers_to_nothing_outside_of_it():
    elements = Elements(hostile_page().html())
    addresses = [value for _, name, value in elements.attributes if name in ("src", "href", "action", "data")]
    assert all(value.startswith(("#", "data:")) for value in addresses)
    (policy,) = [value for tag, name, value in elements.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_images_that_would_make_a_page_too_large_are_left_out_the_last_first():
    source = "data:image/jpeg;base64," + "A" * 400_000
    images = {str(number): Thumbnail(source, [f"image {number}"]) for number in range(20)}
    page = Page("many", sections=[Section("all", [Gallery(list(images))])], images=images)
    html = page.html()
    assert MOST_BYTES - 400_100 < len(html.encode()) <= MOST_BYTES
    data = json.loads(re.search(r'id="images">(.*?)</script>', html)[1])
    has_source = [bool(data[str(number)][0]) for number in range(20)]
    assert has_source == sorted(has_source, reverse=True) and sum(has_source) == 12
    assert html.count("no image</div>") == 8


def test_thumbnails_are_as_large_as_their_budget_allows():
    draws = np.random.default_rng(0)
    noise = [Image.fromarray(draws.integers(0, 255, (200, 300, 3), dtype=np.uint8)) for _ in range(6)]
    rich, poor = thumbnail_sources([*noise, None], 10**6), thumbnail_sources([*noise, None], 20_000)
    assert rich[-1] == poor[-1] == ""
    assert sum(map(len, poor)) <= 20_000 < sum(map(len, rich))
    assert all(source.startswith("data:image/jpeg;base64,") for source in rich[:-1])


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "F"])
def test_thumbnails_are_made_of_images_of_any_mode(mode):
    (source,) = thumbnail_sources([Image.new(mode, (3, 500))], 10_000)
    assert source.startswith("data:image/jpeg")


def test_a_long_text_keeps_its_beginning_and_its_end():
    assert shortened("a" * 200 + "z").startswith("aaa") and shortened("a" * 200 + "z").endswith("az")
    assert len(shortened("a" * 10_000)) == 120
    assert shortened("short\x1b") == "short\\u001b"


def test_a_chart_draws_points_within_its_axes_and_round_ticks():
    chart = LineChart("loss", [Line("train", [(0.0, 2.0), (5.0, 1.0), (10.0, 0.5)])], "epoch")
    assert [text for _, text in chart.x_ticks()] == ["0", "2", "4", "6", "8", "10"]
    places = chart.drawn(chart.lines[0])
    assert places[0] == (chart.left, chart.top) and places[-1] == (chart.right, chart.bottom)
    long = Line("long", [(float(x), 0.0) for x in range(100_001)])
    drawn = LineChart("a", [long], "x").drawn(long)
    assert len(drawn) <= 402 and drawn[-1][0] == chart.right
    flat = LineChart("flat", [Line("one", [(1.0, 1.0)])], "x")
    assert flat.y_ticks() and flat.drawn(flat.lines[0])


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    Page("first").write(path)
    monkeypatch.setattr(Page, "html", lambda page: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Page("second").write(path)
    assert "first" in path.read_text() and list(tmp_path.iterdir()) == [path]
