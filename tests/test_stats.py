import itertools
import math

import numpy as np
import pytest

from dgbench.collect import stats


def test_spreads_by_hand():
    assert stats.spread_of([0.5, 0.6, 0.7]) == pytest.approx(math.sqrt(0.02 / 3) / math.sqrt(3))
    assert stats.spread_of([0.5, 0.6, 0.7], "sample") == pytest.approx(0.1 / math.sqrt(3))
    assert stats.spread_of([0.5, 0.6, 0.7], "deviation") == pytest.approx(0.1)
    assert stats.spread_of([0.5]) is None


def test_paired_counts_sign_flips():
    differences = [1.0, 2.0, 0.5, -0.25, 1.5, 0.75]
    observed = abs(sum(differences))
    flips = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    result = stats.paired(differences)
    assert result.p == pytest.approx(sum(flip >= observed - 1e-12 for flip in flips) / 64)
    assert (result.mean, result.n) == (pytest.approx(5.5 / 6), 6)
    assert result.low < result.mean < result.high
    assert stats.paired(differences) == result  # seeded


def test_the_interval_holds_95_percent_of_the_resampled_means():
    differences = [1.0, 2.0, 0.5, -0.25, 1.5, 0.75, 3.0, -1.0]
    drawn = np.random.default_rng(5).choice(differences, (200_000, 8)).mean(1)
    result = stats.paired(differences)
    assert (result.low, result.high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.05)


def test_paired_of_little():
    assert math.isnan(stats.paired([]).p)
    assert math.isnan(stats.paired([1.0]).p)
    assert stats.paired([0.0, 0.0, 0.0]).p == 1.0
    few = stats.paired([1.0, 1.0, 1.0])
    assert math.isnan(few.low) and math.isnan(few.high) and few.p == 0.25
    equal = stats.paired([1.0] * 6)
    assert (equal.low, equal.high, equal.p) == (1.0, 1.0, 2 / 64)


def test_holm():
    assert stats.holm([0.01, 0.04, math.nan, 0.03]) == pytest.approx(
        [0.03, 0.06, math.nan, 0.06], nan_ok=True
    )
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]


def test_average_ranks_and_demsars_critical_difference():
    # Demsar 2006, section 3.2.2: 4 methods, 14 data sets: 2.569 * sqrt(4 * 5 / (6 * 14)) = 1.25
    rng = np.random.default_rng(0)
    table = {
        name: list(shift + rng.normal(size=14)) for name, shift in zip("abcd", (0, 1, 5, 9), strict=True)
    }
    ranks = stats.average_ranks(table)
    assert ranks.critical_difference == pytest.approx(1.25, abs=0.005)
    assert sorted(ranks.ranks, key=ranks.ranks.__getitem__)[:2] == ["d", "c"]
    assert ranks.p < 0.001


def test_ranks_of_ties():
    ranks = stats.average_ranks({"a": [0.5, 0.5], "b": [0.5, 0.4], "c": [0.1, 0.4]})
    assert ranks.ranks == {"a": 1.25, "b": 2.0, "c": 2.75}
    assert math.isnan(stats.average_ranks({"a": [0.5, 0.5], "b": [0.4, 0.4]}).p)  # Friedman needs three


def test_cliques_are_the_widest():
    ranks = stats.Ranks({"a": 1.0, "b": 1.5, "c": 2.2, "d": 4.0}, 10, 1.3, 0.01)
    assert ranks.cliques() == [("a", "c")]
    chain = stats.Ranks({"a": 1.0, "b": 2.0, "c": 3.0}, 10, 1.0, 0.01)
    assert chain.cliques() == [("a", "b"), ("b", "c")]


def test_against_published_is_welch():
    from scipy.stats import ttest_ind

    ours, theirs = [81.0, 82.0, 82.5], [84.0, 85.5, 85.0]
    expected = ttest_ind(ours, theirs, equal_var=False).pvalue
    for spread in stats.SPREADS:
        error = stats.spread_of(theirs, spread)
        assert stats.against_published(ours, np.mean(theirs), error, 3, spread) == pytest.approx(expected)


def test_against_published_without_a_spread_takes_it_as_exact():
    from scipy.stats import ttest_1samp

    ours = [81.0, 82.0, 82.5]
    assert stats.against_published(ours, 84.0, None, None, "unknown") == pytest.approx(
        ttest_1samp(ours, 84).pvalue
    )
    assert stats.against_published([81.0], 84.0, None, None, "unknown") is None
    assert stats.against_published([81.0, 81.0], 84.0, None, None, "unknown") is None


def test_one_trial_against_a_published_spread():
    near = stats.against_published([85.0], 84.5, 0.3, 3, "domainbed")
    far = stats.against_published([95.0], 84.5, 0.3, 3, "domainbed")
    assert near > 0.05 > far


def test_one_trial_is_one_more_draw_from_the_published_distribution():
    """As a two-sample t-test with equal variances and one value on our side."""
    from scipy.stats import ttest_ind

    theirs, ours = [84.0, 85.5, 85.0], 87.5
    error = stats.spread_of(theirs, "deviation")
    expected = ttest_ind([ours], theirs).pvalue
    assert stats.against_published([ours], np.mean(theirs), error, 3, "deviation") == pytest.approx(expected)


def test_an_error_of_an_unknown_kind_is_not_used():
    from scipy.stats import ttest_1samp

    ours = [81.0, 82.0, 82.5]
    expected = ttest_1samp(ours, 84.0).pvalue
    assert stats.against_published(ours, 84.0, 0.3, 3, "unknown") == pytest.approx(expected)
    assert stats.against_published([81.0], 84.0, 0.3, 3, "unknown") is None
