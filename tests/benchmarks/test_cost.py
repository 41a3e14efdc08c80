"""The cost model: growth is found from measurements."""

from __future__ import annotations

import pytest

from benchmarks.cost import PARTS, Growth
from benchmarks.harness import Session


@pytest.mark.parametrize(("fixed", "factor", "exponent"), [(2.0, 1e-3, 1.0), (0.5, 1e-6, 2.0), (0.0, 1e-2, 0.5)])
def test_growth_is_found(fixed: float, factor: float, exponent: float) -> None:
    sizes = (100, 1_000, 10_000, 100_000)
    found = Growth.fit(sizes, [fixed + factor * size**exponent for size in sizes])
    assert found.fixed == pytest.approx(fixed, rel=1e-6, abs=1e-6)
    assert (found.factor, found.exponent) == pytest.approx((factor, exponent))
    assert found.error == pytest.approx(0, abs=1e-6)


def test_noise_is_said() -> None:
    # No growth of the form passes 1 at 100, and 2 at 10 and at 1,000.
    assert Growth.fit((10, 100, 1_000), (2.0, 1.0, 2.0)).error > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_measured(part: str, tmp_path, datasets_cache) -> None:
    _, sizes, measure = PARTS[part]
    seconds = measure(Session(tmp_path, cpu=True, quick=True), sizes[0])
    assert len(seconds) == 3 and min(seconds) > 0
