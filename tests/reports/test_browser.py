"""The report in a browser: every control works, nothing is fetched, and a telephone's width is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_finetune.pages.page import Page, Section, Thumbnail
from hf_finetune.pages.scatter import Point, Scatter
from hf_finetune.pages.thumbnails import thumbnail_sources
from hf_finetune.reports.page import write_report
from tests.helpers.reported import noise, random_answers, write_run

pytestmark = pytest.mark.slow

NAMES = ["ant", "a name that is so long that it does not fit beside a matrix", "<b>dog</b>"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of four classes."""
    run = write_run(tmp_path_factory.mktemp("run"), random_answers(NAMES, 200))
    write_report(run, run / "report.html", noise)
    return run / "report.html"


def visible_images(page: Any) -> list[bool]:
    """Return whether each image of the open panel has been drawn."""
    script = "images => images.map(image => image.complete && image.naturalWidth > 0)"
    return page.locator(".panel:visible img").evaluate_all(script)


@pytest.mark.parametrize("width", [390, 1280])
def test_every_control_works_without_network(browser, report, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    gallery = page.locator(".gallery img").evaluate_all("images => images.map(image => image.naturalWidth > 0)")
    assert len(gallery) > 40 and all(gallery)

    cells = page.locator(".matrix .opens")
    for number in range(cells.count()):
        cells.nth(number).click()
        images = visible_images(page)
        keys = cells.nth(number).get_attribute("data-images").split()
        absent = page.locator(".panel:visible .absent").count()
        assert len(images) + absent == len(keys) and all(images) and absent <= 1
    assert page.locator(".panel:visible p span").inner_text() == cells.nth(number).get_attribute("data-title")
    page.locator(".panel:visible p button").click()
    assert page.locator(".panel:visible").count() == 0

    numbers = page.locator(".matrix td").all_inner_texts()
    for option in page.locator(".order option").all_inner_texts():
        page.locator(".order select").select_option(label=option)
        assert sorted(page.locator(".matrix td").all_inner_texts()) == sorted(numbers)
        diagonal = page.evaluate(
            "[...document.querySelector('.matrix').tBodies[0].rows].map((row, place) => row.cells[place + 1].className)"
        )
        assert set(diagonal) == {"diagonal"}

    for details in page.locator("summary").all():
        details.click()
    headings = page.locator(".sortable th button")
    directions: list[str] = []
    for number in range(headings.count()):
        for _ in range(2):
            headings.nth(number).click()
            found = headings.nth(number).evaluate("button => button.parentElement.getAttribute('aria-sort')")
            directions.append(found)
        assert sorted(directions[-2:]) == ["ascending", "descending"]
    recall = page.locator("#classes tbody tr td:nth-child(3)")
    page.locator("#classes th button", has_text="recall").first.click()
    shown = [float(text.split()[0]) for text in recall.all_inner_texts()]
    assert shown in (sorted(shown), sorted(shown, reverse=True)) and len(set(shown)) > 1
    for link in page.locator("nav a").all():
        link.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not problems
    assert {address.split(":")[0] for address in requests} <= {"file", "data"}
    assert [address for address in requests if address.startswith("file")] == [report.as_uri()]
    page.close()


def test_a_point_shows_its_image_to_the_mouse_and_to_the_keyboard(browser, tmp_path):
    page_of_points = Page("points")
    points = [Point(float(place), place % 2, place % 2, f"map-{place}") for place in range(3)]
    for place, source in enumerate(thumbnail_sources(noise(range(4))[1:], 100_000)):
        page_of_points.images[f"map-{place}"] = Thumbnail(source, [f"image {place}"])
    page_of_points.sections = [Section("Images", [Scatter(points, ["ant", "bee"])])]  # no heading hides the images
    page_of_points.write(tmp_path / "points.html")
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto((tmp_path / "points.html").as_uri())
    shown = page.locator(".shown")
    page.locator(".point").nth(1).hover()
    assert shown.inner_text() == "image 1" and shown.locator("img").evaluate("image => image.naturalWidth") > 0
    page.keyboard.press("Tab")  # to the one point that was shown last
    page.keyboard.press("ArrowRight")
    assert shown.inner_text() == "image 2" and page.locator(".point.current").count() == 1
    page.keyboard.press("ArrowRight")
    assert shown.inner_text() == "image 2" and page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_dark_colours_and_print(browser, report, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page.goto(report.as_uri())
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(21, 25, 29)"
    page.emulate_media(media="print")
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert page.locator("details[open]").count() == 0  # open on paper alone
    page.close()
