import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest
from sklearn.metrics import f1_score

from quietdesk.scoring.kernels import Segments, bleu_score, bleu_statistics
from quietdesk.scoring.labels import measures_of
from quietdesk.scoring.reference import words_of
from quietdesk.scoring.statistics import (
    Question,
    approximate_randomisation,
    average_ranks,
    bootstrap_p,
    cliffs_delta,
    clustered_wilson,
    cohen_d,
    cohen_h,
    count_clusters,
    holm,
    paired_bootstrap,
    percentile_interval,
    permutation_test,
    prediction_powered_mean,
    ratio_interval,
    resample,
    segment_bootstrap,
    smallest_detectable,
    spearman,
    t_quantile,
    two_sample_bootstrap,
    wilson,
)

# A simulation of 1,000 runs knows a share of .95 to a standard error of .0069. Where the true
# coverage is .95, one in 270 such simulations falls out of .93 to .97; the seeds are fixed, and a
# method that is off by three points or more fails nearly always.
N_RUNS = 1000
LOWEST, HIGHEST = 0.93, 0.97
# A test with a true error of .05 exceeds this in one of 1,000 simulations of 1,000 runs.
MOST_FALSE_ALARMS = 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / N_RUNS)


def ratio(sums):
    n = np.where(sums["n"] == 0, np.nan, sums["n"])
    return {"ratio": sums["x"] / n}


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe, Two-sided Confidence Intervals for the Single Proportion (1998), table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(hits, n, low, high):
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_students_t_has_its_published_quantiles():
    # Any table of Student's t, two-sided 5 per cent.
    for freedom, quantile in ((1, 12.706), (10, 2.228), (30, 2.042), (120, 1.980)):
        assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)


def test_one_trial_per_cluster_is_wilson_itself():
    hits = np.array([1, 0, 0, 1, 0])
    assert clustered_wilson(hits, np.ones(5, np.int64)) == wilson(2, 5)


def test_a_cluster_counted_twice_makes_no_interval_narrower():
    rng = np.random.default_rng(1)
    trials = rng.integers(2, 9, 200)
    hits = rng.binomial(trials, rng.beta(1, 2, 200))
    once, twice = clustered_wilson(hits, trials), clustered_wilson(2 * hits, 2 * trials)
    assert twice == pytest.approx(once, abs=0.003)
    assert wilson(hits.sum() * 2, trials.sum() * 2).low > twice.low


def test_a_share_of_none_rests_on_clusters_and_not_on_trials():
    alone = clustered_wilson(np.zeros(30, np.int64), np.full(30, 100))
    assert alone.low == 0
    assert alone.high == wilson(0, 30).high


def test_occupied_buckets_tell_how_many_clusters_there_are():
    rng = np.random.default_rng(2)
    for n in (50, 2000, 9000):
        occupied = len(np.unique(rng.integers(0, 4096, n)))
        assert count_clusters(occupied, 4096) == pytest.approx(n, rel=0.05)


@pytest.mark.parametrize("n_clusters", [50, 300])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_clustered_shares_are_covered_95_times_in_100(n_clusters, share):
    rng = np.random.default_rng([n_clusters, int(100 * share)])
    hit = 0
    for _ in range(N_RUNS):
        trials = rng.integers(1, 9, n_clusters)
        hits = rng.binomial(trials, rng.beta(3 * share, 3 * (1 - share), n_clusters))
        low, high = clustered_wilson(hits, trials)
        hit += low <= share <= high
    assert LOWEST <= hit / N_RUNS <= HIGHEST


@pytest.mark.parametrize(("n_clusters", "spread"), [(30, 0.3), (100, 0.6), (300, 1.0)])
def test_means_of_skewed_reals_are_covered_95_times_in_100(n_clusters, spread):
    rng = np.random.default_rng([n_clusters, int(100 * spread)])
    truth, hit = math.exp(spread**2 / 2), 0
    for _ in range(N_RUNS):
        n = rng.integers(1, 6, n_clusters)
        sums = np.rint(1e6 * n * rng.lognormal(0, spread, n_clusters)).astype(np.int64)
        low, high = ratio_interval(sums, n)
        hit += low / 1e6 <= truth <= high / 1e6
    assert LOWEST <= hit / N_RUNS <= HIGHEST


def bleu_of(sums):
    columns = [f"c{i}" for i in range(10)]
    return {"bleu": bleu_score(np.stack([sums[name] for name in columns], axis=1))}


@pytest.fixture(scope="module")
def bleu_clusters():
    """BLEU's integers of 4,000 customers with one to four replies each, alike within a customer."""
    rng = np.random.default_rng(5)
    words = [f"w{i}" for i in range(60)]
    said, meant, owner = [], [], []
    for customer in range(4000):
        care = rng.beta(4, 2)
        for _ in range(rng.integers(1, 5)):
            reference = [words[i] for i in rng.integers(0, 60, rng.integers(6, 16))]
            hypothesis = [w if rng.random() < care else words[rng.integers(60)] for w in reference]
            said.append(" ".join(hypothesis))
            meant.append(" ".join(reference))
            owner.append(customer)
    statistics = bleu_statistics(Segments.of(said, meant), words_of("none"))
    sums = np.zeros((4000, 10), np.int64)
    np.add.at(sums, owner, statistics)
    return sums


def test_bleu_of_clustered_replies_is_covered_95_times_in_100(bleu_clusters):
    truth = float(bleu_score(bleu_clusters.sum(axis=0)[None])[0])
    rng = np.random.default_rng(6)
    hit = 0
    for _ in range(N_RUNS):
        chosen = bleu_clusters[rng.integers(0, len(bleu_clusters), 120)]
        cells = {f"c{i}": chosen[:, i] for i in range(10)}
        low, high = percentile_interval(resample(cells, bleu_of)["bleu"], 120)
        hit += low <= truth <= high
    assert LOWEST <= hit / N_RUNS <= HIGHEST


def test_macro_f1_is_covered_95_times_in_100():
    rng = np.random.default_rng(8)
    classes = np.array([0.6, 0.3, 0.1])

    def draw(n):
        true = rng.choice(3, n, p=classes)
        predicted = np.where(rng.random(n) < 0.75, true, rng.choice(3, n))
        return true, predicted

    def macro(sums):
        table = np.stack([[sums[f"{kind}{c}"] for c in range(3)] for kind in ("t", "p", "b")])
        found = measures_of(*table, units=sums["n"], exact=sums["n"], single=sums["n"] > 0)
        return {"f1": found["f1_macro"]}

    truth = f1_score(*draw(400_000), average="macro")
    hit = 0
    for _ in range(N_RUNS):
        true, predicted = draw(200)
        cells = {"n": np.ones(200, np.int64)}
        for c in range(3):
            cells[f"t{c}"] = (true == c).astype(np.int64)
            cells[f"p{c}"] = (predicted == c).astype(np.int64)
            cells[f"b{c}"] = ((true == c) & (predicted == c)).astype(np.int64)
        low, high = percentile_interval(resample(cells, macro)["f1"], 200)
        hit += low <= truth <= high
    assert LOWEST <= hit / N_RUNS <= HIGHEST


def clusters(rng, n):
    trials = rng.integers(1, 6, n)
    return {"x": rng.binomial(trials, rng.beta(1, 3, n)), "n": trials}


@pytest.mark.parametrize("n_clusters", [25, 120])
def test_two_samples_of_one_population_differ_at_most_5_times_in_100(n_clusters):
    rng = np.random.default_rng(n_clusters)
    alarms = sum(
        two_sample_bootstrap(Question(clusters(rng, n_clusters), clusters(rng, n_clusters), ratio))[
            "ratio"
        ].p
        < 0.05
        for _ in range(N_RUNS)
    )
    assert alarms / N_RUNS <= MOST_FALSE_ALARMS


@pytest.mark.parametrize("n_clusters", [25, 120])
def test_two_equal_bots_on_the_same_inputs_differ_at_most_5_times_in_100(n_clusters):
    rng = np.random.default_rng(n_clusters + 1)
    by_swapping = by_bootstrap = 0
    for _ in range(N_RUNS):
        trials = rng.integers(1, 6, n_clusters)
        hard = rng.beta(1, 3, n_clusters)
        new, old = ({"x": rng.binomial(trials, hard), "n": trials} for _ in range(2))
        question = Question(new, old, ratio)
        by_swapping += approximate_randomisation([question], 500)[0]["ratio"] < 0.05
        by_bootstrap += paired_bootstrap(question)["ratio"].p < 0.05
    assert by_swapping / N_RUNS <= MOST_FALSE_ALARMS
    assert by_bootstrap / N_RUNS <= MOST_FALSE_ALARMS


def test_dealing_anew_raises_at_most_5_false_alarms_in_100():
    rng = np.random.default_rng(31)
    alarms = sum(
        permutation_test(Question(clusters(rng, 30), clusters(rng, 30), ratio), 300)["ratio"] < 0.05
        for _ in range(N_RUNS)
    )
    assert alarms / N_RUNS <= MOST_FALSE_ALARMS


def test_a_change_of_the_smallest_detectable_size_is_found_four_times_in_five():
    rng = np.random.default_rng(12)
    size, found = [], 0
    for _ in range(300):
        q = Question(clusters(rng, 200), clusters(rng, 200), ratio)
        size.append(smallest_detectable(two_sample_bootstrap(q)["ratio"].interval))
    change = float(np.mean(size))
    for _ in range(N_RUNS):
        trials = rng.integers(1, 6, 200)
        better = np.clip(rng.beta(1, 3, 200) + change, 0, 1)
        new = {"x": rng.binomial(trials, better), "n": trials}
        found += two_sample_bootstrap(Question(new, clusters(rng, 200), ratio))["ratio"].p < 0.05
    # Adding a constant to a share also changes its spread, a little; hence the wide bounds.
    assert 0.72 <= found / N_RUNS <= 0.88


def test_permutation_agrees_with_every_deal_counted():
    new, old = [3, 5, 9, 7], [1, 2, 6]
    pool = new + old
    observed = abs(np.mean(new) - np.mean(old))
    deals = [
        abs(
            np.mean([pool[i] for i in chosen])
            - np.mean([pool[i] for i in range(7) if i not in chosen])
        )
        for chosen in combinations(range(7), 4)
    ]
    exact = np.mean([gap >= observed - 1e-12 for gap in deals])
    question = Question(
        {"x": np.array(new), "n": np.ones(4, np.int64)},
        {"x": np.array(old), "n": np.ones(3, np.int64)},
        ratio,
    )
    # Ten thousand deals know a share to .005.
    assert permutation_test(question)["ratio"] == pytest.approx(exact, abs=0.02)


def test_randomisation_agrees_with_every_swap_counted():
    new, old = np.array([4, 7, 2, 9, 6]), np.array([3, 4, 2, 5, 8])
    gaps = []
    for swap in range(32):
        sides = np.array([swap >> i & 1 for i in range(5)], bool)
        gaps.append(abs(np.where(sides, old, new).mean() - np.where(sides, new, old).mean()))
    exact = np.mean([gap >= abs(new.mean() - old.mean()) - 1e-12 for gap in gaps])
    n = np.ones(5, np.int64)
    found = approximate_randomisation([Question({"x": new, "n": n}, {"x": old, "n": n}, ratio)])
    assert found[0]["ratio"] == pytest.approx(exact, abs=0.02)


def test_equal_runs_do_not_differ():
    cells = clusters(np.random.default_rng(4), 50)
    question = Question(cells, dict(cells), ratio)
    assert approximate_randomisation([question], 200)[0]["ratio"] == 1.0
    found = paired_bootstrap(question)["ratio"]
    assert (found.value, *found.interval, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_p_is_below_a_twentieth_only_where_the_interval_leaves_out_0():
    rng = np.random.default_rng(17)
    for _ in range(400):
        replicates = rng.normal(rng.normal(0, 2), 1, 1000)
        low, high = percentile_interval(replicates, 40)
        p = bootstrap_p(replicates, 40)
        assert (p < 0.05) == (not low <= 0 <= high) or p == pytest.approx(0.05, abs=0.004)


def test_a_difference_far_beyond_chance_has_a_p_that_survives_many_questions():
    replicates = np.random.default_rng(1).normal(10, 1, 1000)
    assert bootstrap_p(replicates, 500) < 1e-12


@pytest.fixture(scope="module")
def systems(odd_pairs):
    """Two systems' replies to the same references; the second has some words less."""
    pairs = odd_pairs(300, 21)
    references = [reference[0] for _, reference in pairs]
    first = [said for said, _ in pairs]
    second = [" ".join(said.split()[:-1]) if i % 3 else said for i, said in enumerate(first)]
    return references, first, second


@pytest.mark.parametrize(("name", "metric"), [("BLEU", BLEU()), ("chrF", CHRF())])
def test_the_segment_bootstrap_is_sacrebleus_to_the_last_bit(systems, name, metric):
    references, said, _ = systems
    theirs = metric.corpus_score(said, [references], n_bootstrap=200)
    statistics = np.array(metric._extract_corpus_statistics(said, [references]))
    mine = segment_bootstrap(
        statistics, lambda row: metric._compute_score_from_stats(row).score, 200
    )
    assert mine == (theirs._mean, theirs._ci)
    assert theirs.name.startswith(name)


def test_randomisation_finds_what_sacrebleus_finds(systems):
    references, first, second = systems
    metric = BLEU()
    rows = [np.array(metric._extract_corpus_statistics(s, [references])) for s in (first, second)]
    new, old = ({f"c{i}": row[:, i] for i in range(10)} for row in rows)
    named = [("first", first), ("second", second)]
    test = PairedTest(named, {"BLEU": BLEU()}, [references], test_type="ar", n_samples=2000)
    theirs = test()[1]["BLEU"][1].p_value
    mine = approximate_randomisation([Question(new, old, bleu_of)], 2000)[0]["bleu"]
    # Both are shares of 2,000 random trials.
    assert mine == pytest.approx(theirs, abs=0.03)


def test_holm_gives_the_textbook_adjustment():
    # Worked in many places: ordered .005, .01, .03, .04 by factors 4, 3, 2, 1, then made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12))
def test_holm_keeps_order_and_never_lowers_a_p(p_values):
    adjusted = holm(p_values)
    known = sorted((p, a) for p, a in zip(p_values, adjusted, strict=True) if not math.isnan(p))
    assert all(p <= a <= 1 for p, a in known)
    assert all(x[1] <= y[1] for x, y in pairwise(known))
    assert [math.isnan(a) for a in adjusted] == [math.isnan(p) for p in p_values]


def test_cohens_h_has_its_published_transforms():
    # Cohen, Statistical Power Analysis (1988), table 6.2.2.
    for share, transform in ((0.05, 0.451), (0.25, 1.047), (0.40, 1.369), (0.50, 1.571)):
        assert cohen_h(share, 0.0) == pytest.approx(transform, abs=5e-4)
    assert cohen_h(0.4, 0.5) == pytest.approx(1.369 - 1.571, abs=1e-3)


def test_cohens_d_of_a_small_example_worked_by_hand():
    # Means 4 and 2; squared deviations 8 and 2 with 4 degrees of freedom: pooled variance 2.5.
    assert cohen_d([2, 4, 6], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2.5))
    assert math.isnan(cohen_d([1, 1], [1, 1]))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
)
def test_cliffs_delta_is_the_share_of_pairs_won_less_those_lost(new, old):
    won = sum(a > b for a in new for b in old) - sum(a < b for a in new for b in old)
    bins = [np.bincount(values, minlength=6) for values in (new, old)]
    assert cliffs_delta(*bins) == pytest.approx(won / (len(new) * len(old)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=30))
def test_spearman_with_ties_is_scipys(pairs):
    a, b = (np.array(side, np.float64) for side in zip(*pairs, strict=True))
    assert average_ranks(a).tolist() == scipy.stats.rankdata(a).tolist()
    if np.ptp(a) and np.ptp(b):
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    else:
        assert math.isnan(spearman(a, b))


def test_prediction_powered_means_are_unbiased_and_narrower():
    rng = np.random.default_rng(9)
    hit, narrower, errors = 0, 0, []
    for _ in range(N_RUNS):
        everything = rng.binomial(1, 0.3, 2100).astype(np.float64)
        # A judge that is right four times in five, so its own mean is off by .08.
        judged = np.where(rng.random(2100) < 0.8, everything, 1 - everything)
        found = prediction_powered_mean(everything[:100], judged[:100], judged[100:])
        hit += found.interval.low <= 0.3 <= found.interval.high
        errors.append(found.value - 0.3)
        classic = 2 * 1.984 * everything[:100].std(ddof=1) / 10
        narrower += found.interval.high - found.interval.low < classic
    assert LOWEST <= hit / N_RUNS <= HIGHEST
    assert abs(np.mean(errors)) < 3 * np.std(errors) / math.sqrt(N_RUNS)
    assert narrower / N_RUNS > 0.95


def test_worthless_predictions_leave_the_labels_mean():
    labels = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    found = prediction_powered_mean(labels, np.ones(5), np.ones(50))
    assert (found.value, found.weight) == (0.6, 0.0)
    with pytest.raises(ValueError, match="5 labels and 4 predictions"):
        prediction_powered_mean(labels, np.ones(4), np.ones(50))
    with pytest.raises(ValueError, match="at least two"):
        prediction_powered_mean(labels[:1], np.ones(1), np.ones(50))
