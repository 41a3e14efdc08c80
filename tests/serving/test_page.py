"""The page in a browser, where there is one: images in, bars and a CSV out, nothing from elsewhere."""

from __future__ import annotations

import shutil

import PIL.Image
import pytest

from hf_finetune.serving.limits import Limits
from tests.helpers.served import NAMES, served, small_classifier

pytest.importorskip("fastapi")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def test_a_batch_of_files_is_classified_and_downloaded(tmp_path):
    for number in range(6):
        PIL.Image.new("RGB", (20, 16), (40 * number, 90, 20)).save(tmp_path / f"{number}.png")
    (tmp_path / "=bad.png").write_text("no image")
    asked: list[str] = []
    with served(small_classifier(), Limits()) as server, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 340, "height": 700})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.set_input_files("#files", [str(path) for path in sorted(tmp_path.iterdir())])
        page.wait_for_selector("#download:not([disabled])")
        assert page.text_content("#status") == "7 classified"
        assert page.locator(".result").count() == 7 and page.locator(".classes li").count() == 30
        assert set(page.locator(".label").all_text_contents()) <= set(NAMES)  # <b> is text, and no element
        assert page.text_content(".note.bad").startswith("=bad.png is no JPEG")
        assert page.evaluate("document.documentElement.scrollWidth") <= 340
        button = page.locator(".map").first
        button.click()
        page.wait_for_selector(".map[aria-pressed=true]")
        page.wait_for_function("document.querySelector('.result img').naturalWidth === 224")
        said = page.locator(".result").first.locator(".note").text_content()
        assert said.startswith(("Yellow: where the network finds ", "Nothing in the image speaks for "))
        button.click()
        page.wait_for_function("document.querySelector('.result img').naturalWidth === 20")
        assert page.locator(".map:visible").count() == 6  # one file is no image
        with page.expect_download() as download:
            page.click("#download")
        lines = download.value.path().read_text().splitlines()
        assert lines[0] == "file,rank,label,score,error" and lines[31].startswith("'=bad.png,,,,") and len(lines) == 32
        page.click("#clear")
        assert page.locator(".result").count() == 0
        browser.close()
    assert not errors and all(url.startswith((f"http://127.0.0.1:{server.port}/", "blob:")) for url in asked)
