"""McNemar's test and the interval of a paired difference, against SciPy, published values and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hf_finetune.evaluation.intervals import wilson_interval
from hf_finetune.evaluation.paired import PairedCounts, difference_interval, mcnemar


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (0, 1), (3, 9), (12, 12), (24, 0)])
def test_few_differing_images_are_tested_exactly(only_first, only_second):
    p_value, test = mcnemar(PairedCounts(50, only_first, only_second, 5))
    differing = only_first + only_second
    assert test == "exact binomial"
    assert p_value == pytest.approx(stats.binomtest(only_first, differing).pvalue if differing else 1.0)


def test_many_differing_images_are_tested_by_chi_square():
    # Agresti, "Categorical Data Analysis", 150 and 86 who changed their mind: (64 - 1)^2 / 236
    p_value, test = mcnemar(PairedCounts(794, 150, 86, 570))
    assert test == "chi-square"
    assert p_value == pytest.approx(stats.chi2.sf((150 - 86 - 1) ** 2 / 236, 1))
    assert mcnemar(PairedCounts(0, 30, 30, 0))[0] == 1.0
    assert (
        mcnemar(PairedCounts(0, 25, 0, 0))[1] == "chi-square" and mcnemar(PairedCounts(0, 24, 0, 0))[1] != "chi-square"
    )


def test_the_first_and_the_second_can_be_exchanged():
    counts, exchanged = PairedCounts(70, 5, 20, 5), PairedCounts(70, 20, 5, 5)
    assert mcnemar(counts) == mcnemar(exchanged)
    low, high = difference_interval(counts)
    assert difference_interval(exchanged) == (pytest.approx(-high), pytest.approx(-low))
    assert low < 0.15 < high


@pytest.mark.parametrize("counts", [(10, 0, 0, 0), (0, 0, 0, 10), (0, 10, 0, 0), (9, 1, 0, 0), (0, 0, 1, 0)])
def test_answers_that_are_constant_have_an_interval(counts):
    low, high = difference_interval(PairedCounts(*counts))
    assert -1 <= low <= (counts[2] - counts[1]) / sum(counts) <= high <= 1 and low < high


def test_answers_that_do_not_depend_on_each_other_have_the_interval_of_two_samples():
    """Without correlation it is Newcombe's interval of unpaired shares, made of both Wilson intervals."""
    counts = PairedCounts(24, 24, 16, 16)  # 48 and 40 of 80
    (low_1, high_1), (low_2, high_2) = wilson_interval(48, 80), wilson_interval(40, 80)
    low, high = difference_interval(counts)
    assert low == pytest.approx(-0.1 - np.hypot(0.5 - low_2, high_1 - 0.6))
    assert high == pytest.approx(-0.1 + np.hypot(high_2 - 0.5, 0.6 - low_1))


@pytest.mark.slow
@pytest.mark.parametrize("shares", [(0.8, 0.05, 0.1, 0.05), (0.5, 0.1, 0.1, 0.3), (0.93, 0.02, 0.04, 0.01)])
def test_the_interval_holds_the_difference_as_often_as_it_says(shares):
    drawn = np.random.default_rng(0).multinomial(150, shares, 4_000)
    limits = np.array([difference_interval(PairedCounts(*map(int, counts))) for counts in drawn])
    difference = shares[2] - shares[1]
    assert 0.94 < np.mean((limits[:, 0] <= difference) & (difference <= limits[:, 1])) < 0.985
