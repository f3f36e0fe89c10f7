import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score

from quietdesk.scoring.agreement import (
    agreement,
    area_under_curve,
    average_recall,
    calibration_error,
    kappa,
    one_rater,
    with_interval,
)

pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=60)


@settings(deadline=None)
@given(pairs)
def test_figures_are_scikit_learns(cases):
    truth, guess = (np.array(column) for column in zip(*cases, strict=True))
    if len(set(truth.tolist()) | set(guess.tolist())) > 1:
        assert kappa(truth, guess, 3) == pytest.approx(
            cohen_kappa_score(truth, guess, labels=[0, 1, 2]), abs=1e-12
        )
    if set(guess.tolist()) <= set(truth.tolist()) and len(set(truth.tolist())) > 1:
        assert average_recall(truth, guess, 3) == pytest.approx(
            balanced_accuracy_score(truth, guess)
        )
    bad = truth == 0
    if 0 < bad.sum() < len(bad):
        expected = roc_auc_score(bad, guess)
        assert area_under_curve(guess.astype(float), bad) == pytest.approx(expected)
    else:
        assert np.isnan(area_under_curve(guess.astype(float), bad))


def test_a_hand_worked_calibration_error():
    said = np.array([0.1] * 10 + [0.9] * 10)
    came = np.array([True] * 2 + [False] * 8 + [True] * 9 + [False])
    # Ten bins of two: |.2 - 2|, then .2 four times, then .2 of 1.8 and 2 four times and .8 once.
    assert calibration_error(said, came) == pytest.approx((1.8 + 4 * 0.2 + 4 * 0.2 + 0.8) / 20)
    assert calibration_error(came.astype(float), came) == 0.0
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, np.bool_)))


def test_one_rater_is_set_against_the_mean_of_the_others():
    votes, offsets = np.array([1.0, 2, 3, 5, 4, 3, 5]), np.array([0, 3, 5, 6, 7])
    singles = [1, 2, 3, 5, 4]
    others = [2.5, 2, 1.5, 4, 5]
    assert one_rater(votes, offsets) == pytest.approx(stats.spearmanr(singles, others)[0])
    assert np.isnan(one_rater(np.array([3.0, 4.0]), np.array([0, 1, 2])))


def test_an_interval_of_groups_is_wider_than_one_of_cases():
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(size=40), 25)
    mean = lambda rows: float(values[rows].mean())  # noqa: E731
    grouped = with_interval(mean, np.repeat(np.arange(40), 25))
    single = with_interval(mean, np.arange(1000))
    assert grouped.value == single.value
    assert grouped.high - grouped.low > 3 * (single.high - single.low)
    assert np.isnan(with_interval(mean, np.zeros(1000)).low)


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = np.random.default_rng(2).normal(size=2000)
    found = with_interval(lambda rows: float(values[rows].mean()), np.arange(2000))
    assert found.high - found.low == pytest.approx(3.92 / np.sqrt(2000), rel=0.2)


def test_perfect_estimates_agree_perfectly():
    votes = np.array([1.0, 1, 3, 3, 5, 5] * 5)
    offsets = np.arange(0, 31, 2)
    mean = votes.reshape(-1, 2).mean(axis=1)
    classes = np.array([0, 1, 2] * 5)
    told = {
        "expected": mean,
        "dissatisfied": (classes == 0).astype(float),
        "classes": classes,
    }
    found = agreement(told, votes, offsets, classes, np.arange(15))
    assert found.spearman.value == pytest.approx(1.0)
    assert found.auc.value == found.kappa.value == found.uar.value == 1.0
    assert found.calibration.value == 0.0
    assert (found.n, found.n_groups, found.dissatisfied) == (15, 15, pytest.approx(1 / 3))
