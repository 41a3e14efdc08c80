"""The map of a split's images: its points, its axes, and what happens where it cannot be made."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from hf_finetune.jobs.report import report_run
from hf_finetune.pages.scatter import Point, Scatter
from hf_finetune.reports.embedding_map import principal_axes
from hf_finetune.reports.network import RunNetwork

POINT = re.compile(r'<circle class="point hue(\d)( ringed)?" cx="([\d.]+)" cy="([\d.]+)" r="5" data-image="map-(\d+)"')


@pytest.fixture(scope="module")
def page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return report_run(finished_run, tmp_path_factory.mktemp("report") / "page.html").read_text()


def test_each_image_of_the_split_is_a_point_with_its_class_and_thumbnail(page, finished_run):
    points = POINT.findall(page)
    images = json.loads(re.search(r'id="images">(.*?)</script>', page)[1])
    assert sorted(int(place) for *_, place in points) == list(range(24))
    assert [float(x) for _, _, x, _, _ in points] == sorted(float(x) for _, _, x, _, _ in points)
    for group, _, _, _, place in points:
        source, name, *_ = images[f"map-{place}"]
        assert source.startswith("data:image/jpeg") and name.split("/")[1] == ["blue", "green", "red"][int(group)]
    assert page.count('tabindex="0"') - page.count('<pre tabindex="0"') == 1
    assert "24 of 24 images by the features" in page and 'aria-label="blue"' in page


def test_images_of_one_class_are_near_each_other(page):
    """The three colours of the images are what the network was trained on."""
    points = np.array([(float(x), float(y), int(group)) for group, _, x, y, _ in POINT.findall(page)])
    places, groups = points[:, :2], points[:, 2]
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag(np.full(len(places), np.inf))
    assert np.mean(groups[distances.argmin(axis=1)] == groups) > 0.9


def test_the_axes_are_those_of_the_largest_variance():
    draws = np.random.default_rng(0)
    directions = np.linalg.qr(draws.normal(size=(8, 8)))[0]
    wanted = draws.normal(size=(50, 2)) * (5, 2)
    features = wanted @ directions[:2] + 3 + 0.01 * draws.normal(size=(50, 8))
    points, share = principal_axes(features)
    assert 0.99 < share < 1
    assert abs(np.corrcoef(points[:, 0], wanted[:, 0])[0, 1]) > 0.98
    assert points[:, 0].var() > points[:, 1].var() and np.allclose(points.mean(axis=0), 0)
    mirrored, _ = principal_axes(features[:, ::-1])
    assert np.allclose(np.abs(mirrored), np.abs(points))
    assert (
        principal_axes(np.ones((4, 3)))[1] == 0 and principal_axes(np.arange(4.0)[:, None])[0][:, 1].tolist() == [0] * 4
    )


def test_points_lie_within_the_drawing():
    scatter = Scatter([Point(5, 1, 0, "a"), Point(-1, 1, 1, "b", ringed=True)], ["x", "y"])
    assert [(x, y, point.image) for x, y, point in scatter.drawn] == [(12.0, 210.0, "b"), (628.0, 210.0, "a")]
    assert Scatter([Point(0, 0, 0, "a")], [str(number) for number in range(21)]).legend == ()


def test_it_stops_when_its_time_is_over_and_a_network_without_features_costs_a_line(
    finished_run, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("checkpoint-*"))
    with monkeypatch.context() as patch:
        patch.setattr(RunNetwork, "late", property(lambda _: True))
        report_run(run)
    assert "There is no map of the images, for want of time; hf-finetune report" in (run / "report.html").read_text()
    monkeypatch.setattr("hf_finetune.reports.network.head_module", lambda _: None)
    report_run(run)
    assert (
        "There is no map of the images: ResNetForImageClassification has no head" in (run / "report.html").read_text()
    )
