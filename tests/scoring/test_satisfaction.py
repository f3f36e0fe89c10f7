import io
import json
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from quietdesk.columns import to_batch
from quietdesk.errors import UsageError
from quietdesk.scoring.base import Conversations
from quietdesk.scoring.compare import compare
from quietdesk.scoring.features import features, sign_grams, turn_features, word_grams
from quietdesk.scoring.fitting.folds import apply, evaluate, fit, fit_part
from quietdesk.scoring.fitting.forest import trees_of
from quietdesk.scoring.fitting.labels import classes_of, labelled
from quietdesk.scoring.fitting.recipe import Recipe
from quietdesk.scoring.fitting.turns import turn_data
from quietdesk.scoring.gate import Outcome, gate
from quietdesk.scoring.reading import reading
from quietdesk.scoring.satisfaction import (
    Dissatisfied,
    Estimator,
    Satisfaction,
    TurnSatisfaction,
    climb,
    metrics,
    neighbours,
    shipped,
    wholes,
)
from quietdesk.scoring.scores import load, score
from quietdesk.types import Transcript, TranscriptMessage

QUICK = Recipe(n_outer=3, n_inner=2, n_trees=15, x_alpha=200.0)
GLAD = ["Great, thank you!", "Perfect, that helps a lot.", "Thanks, I love it."]
PLAIN = ["I need a table for two.", "On Friday at seven.", "My name is Robert."]
ANGRY = ["This is ridiculous.", "No, that's not what I said!", "This is useless, I am angry."]
REPLY = {0: "I'm sorry, I don't understand.", 1: "Which day do you want?", 2: "It is booked."}


def rated(n, **more):
    """The same as `rated_talks`, as a batch."""
    return Conversations(to_batch(rated_talks(n, **more)))


def rated_talks(n, *, seed=0, whole=True, turns=True, scale=(1.0, 3.0, 5.0), side="customer"):
    """Conversations whose mood shows in the words; three raters who err now and then."""
    rng = random.Random(seed)

    def votes(mood):
        return tuple(
            scale[mood] if rng.random() < 0.8 else scale[rng.randrange(3)] for _ in range(3)
        )

    rows = []
    for i in range(n):
        base = rng.choice([0, 1, 1, 2])
        messages = []
        for _ in range(rng.randint(2, 5)):
            mood = base if rng.random() < 0.7 else 1
            said = [GLAD, PLAIN, ANGRY][{2: 0, 1: 1, 0: 2}[mood]]
            given = votes(mood) if turns else ()
            by_bot, by_customer = (given, ()) if side == "agent" else ((), given)
            messages.append(TranscriptMessage(author="bot", text=REPLY[mood], ratings=by_bot))
            messages.append(
                TranscriptMessage(author="customer", text=rng.choice(said), ratings=by_customer)
            )
        rows.append(
            Transcript(
                id=f"{seed}-{i}",
                customer=f"c{i // 2}",
                messages=tuple(messages),
                ratings=votes(base) if whole else (),
            )
        )
    return rows


@pytest.fixture(scope="module")
def fitted():
    return fit(labelled(rated(120)), QUICK)


def test_what_shows_in_the_words_is_found(fitted):
    assert fitted.turns.spearman.low > 0.6
    assert fitted.turns.auc.value > 0.9
    assert fitted.conversations.spearman.low > 0.5
    assert fitted.turns.calibration.value < 0.1
    assert fitted.turns.n_groups == 60


def test_labels_that_mean_nothing_give_no_agreement():
    batch = rated(120, seed=3)
    labels = labelled(batch)
    shuffled = np.random.default_rng(5).permutation(len(labels.turns.size))
    noise = replace(labels, turns=labels.turns.take(shuffled), whole=labels.whole)
    found = fit(noise, QUICK).turns
    assert found.spearman.low < 0.0 < found.spearman.high
    assert found.auc.low < 0.5 < found.auc.high


def test_an_estimator_that_was_saved_estimates_the_same(fitted, tmp_path):
    batch = rated(20, seed=1)
    fitted.estimator.save(tmp_path / "a.npz")
    read = Estimator.load(tmp_path / "a.npz")
    assert read.fingerprint == fitted.estimator.fingerprint
    one, two = fitted.estimator.estimate(batch), read.estimate(rated(20, seed=1))
    for a, b in zip(one.turns, two.turns, strict=True):
        assert a.tolist() == b.tolist()
    assert one.conversations.expected.tolist() == two.conversations.expected.tolist()
    fitted.estimator.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_fingerprint_changes_with_what_an_estimate_depends_on_and_not_with_what_is_told(fitted):
    header, arrays = fitted.estimator.header, fitted.estimator.arrays
    same = Estimator({**header, "licence": "our own"}, arrays)
    assert same.fingerprint == fitted.estimator.fingerprint
    other_scale = Estimator({**header, "scale": [0.0, 1.0, 2.0]}, arrays)
    other_number = Estimator(header, {**arrays, "turn.bias": arrays["turn.bias"] + 1e-9})
    prints = {fitted.estimator.fingerprint, other_scale.fingerprint, other_number.fingerprint}
    assert len(prints) == 3


def test_numpy_evaluates_what_the_folds_measured():
    labels = labelled(rated(80, seed=2))
    data = turn_data(labels, QUICK)
    rows, whole = np.flatnonzero(labels.turns.size > 0), np.flatnonzero(labels.whole.size > 0)
    every = np.ones(data.n, np.bool_)
    arrays = fit_part(labels, data, every, rows, whole, QUICK)
    measured = apply(arrays, labels, data, every, QUICK)
    told = fit(labels, replace(QUICK, n_outer=0)).estimator.estimate(labels.conversations)
    # Text weights of half precision are all that parts the two.
    assert np.abs(measured[0].score - told.turns.score).max() < 2e-3
    assert np.abs(measured[2].score - told.conversations.score).max() < 2e-3


def test_a_batch_and_its_parts_are_estimated_alike(fitted):
    whole = rated(30, seed=4)
    together = fitted.estimator.estimate(whole)
    for i in (0, 7, 29):
        alone = fitted.estimator.estimate(Conversations(whole.batch.slice(i, 1)))
        assert alone.conversations.expected[0] == pytest.approx(
            together.conversations.expected[i], abs=1e-6
        )


def test_levels_are_probabilities_and_the_expected_rating_lies_on_the_scale(fitted):
    levels = fitted.estimator.estimate(rated(30, seed=6)).turns
    assert levels.probabilities.min() >= 0.0
    assert levels.probabilities.sum(axis=1) == pytest.approx(1.0)
    assert ((levels.expected >= 1.0) & (levels.expected <= 5.0)).all()
    order = np.argsort(levels.score)
    assert (np.diff(levels.expected[order]) >= -1e-12).all()
    assert (np.diff(levels.dissatisfied[order]) <= 1e-12).all()
    assert (np.diff(levels.classes[order]) >= 0).all()


def test_the_turn_that_drove_a_bad_estimate_is_named(fitted, talk):
    bad = [("bot", REPLY[1]), ("customer", PLAIN[0])]
    for text in 2 * ANGRY:
        bad += [("bot", REPLY[0]), ("customer", text)]
    good = [("bot", REPLY[2]), ("customer", GLAD[0]), ("bot", REPLY[2]), ("customer", GLAD[1])]
    batch = talk(bad, good)
    found = Dissatisfied(fitted.estimator).measure(batch)
    assert found.values[0] > found.values[1]
    assert len(found.causes) == 1
    assert found.causes[0] in range(3, 15, 2)
    reasons = fitted.estimator.reasons(reading(batch), 5)
    assert reasons
    assert all(name in {feature.name for feature in features()} for name, _ in reasons)


def test_scores_of_an_own_estimator_keep_its_fingerprint_when_they_are_read_back(fitted, tmp_path):
    talks, later = rated_talks(40, seed=20), rated_talks(40, seed=21)
    own = metrics(fitted.estimator)
    paths = [tmp_path / "old.json", tmp_path / "new.json", tmp_path / "shipped.json"]
    runs = [score(talks, own), score(later, own), score(later, [metric.name for metric in own])]
    for path, run in zip(paths, runs, strict=True):
        path.write_text(json.dumps(run.to_json()), encoding="utf-8")
    old, new, by_shipped = (load(path) for path in paths)
    for name in ("satisfaction", "dissatisfied", "turn_satisfaction"):
        assert old[name].signature.endswith(f"estimator:{fitted.estimator.fingerprint}")
        assert old[name].signature == runs[0][name].signature
        assert by_shipped[name].signature.endswith(f"estimator:{shipped().fingerprint}")
    assert old.estimates == runs[0].estimates
    assert old.to_json() == runs[0].to_json()
    verdict = gate(compare(new, old), {"satisfaction": 5.0})
    assert verdict.outcome is Outcome.PASS
    assert compare(new, runs[0]).to_json() == compare(runs[1], runs[0]).to_json()
    with pytest.raises(UsageError, match="'satisfaction' was measured in two ways"):
        compare(by_shipped, old)
    with pytest.raises(UsageError, match="'satisfaction' was measured in two ways"):
        compare(new, by_shipped)


def test_what_was_read_back_cannot_measure_without_its_estimator(fitted, tmp_path):
    path = tmp_path / "run.json"
    run = score(rated_talks(10, seed=22), metrics(fitted.estimator))
    path.write_text(json.dumps(run.to_json()), encoding="utf-8")
    again = load(path).metrics["satisfaction"]
    with pytest.raises(UsageError, match=f"{fitted.estimator.fingerprint}, which is not in them"):
        again.measure(rated(3))
    given = load(path, metrics(fitted.estimator)).metrics["satisfaction"]
    assert given.measure(rated(3)).measured.all()


def test_another_language_is_not_measured(fitted, talk):
    batch = talk([("customer", "Hola, no puedo entrar en mi cuenta"), ("bot", "Lo siento mucho")])
    assert Satisfaction(fitted.estimator).measure(batch).measured.tolist() == [False]
    assert TurnSatisfaction(fitted.estimator).measure(batch).measured.tolist() == [False]


def test_an_empty_batch_has_no_estimates(fitted, talk):
    for batch in (talk(), talk([]), talk([("bot", "hello there")])):
        assert not fitted.estimator.estimate(batch).measured.any()


def test_an_estimator_for_running_conversations_does_not_look_ahead():
    estimator = fit(labelled(rated(80, seed=7)), replace(QUICK, ahead=False, n_outer=0)).estimator
    batch = rated(10, seed=8)
    full = estimator.estimate(batch)
    for row in (0, 3, 6):
        begin = int(batch.offsets[row])
        first = Transcript(
            id="x",
            messages=tuple(
                TranscriptMessage(author=author, text=text)
                for author, text in zip(
                    batch.rows["author"].to_pylist()[begin : begin + 2],
                    batch.rows["text"].to_pylist()[begin : begin + 2],
                    strict=True,
                )
            ),
        )
        cut = estimator.estimate(Conversations(to_batch([first])))
        place = full.rows.tolist().index(begin + 1)
        assert cut.turns.score[0] == pytest.approx(full.turns.score[place], abs=1e-9)


def test_conversation_ratings_alone_are_enough():
    found = fit(labelled(rated(120, seed=9, turns=False)), QUICK)
    assert found.turns is None
    assert found.conversations.spearman.low > 0.3
    told = found.estimator.estimate(rated(10, seed=10))
    assert told.turns is None
    assert len(told.pulls) == len(told.rows)


def test_ratings_of_replies_make_an_estimator_of_replies():
    found = fit(labelled(rated(100, seed=11, whole=False, side="agent")), QUICK)
    assert found.estimator.header["side"] == "agent"
    assert found.conversations is None
    assert found.turns.spearman.low > 0.5
    turns, whole = evaluate(found.estimator, labelled(rated(40, seed=12)))
    assert whole is None
    assert turns.spearman.low > 0.3


def test_yes_and_no_labels_are_ratings():
    rows = [
        Transcript(
            id=str(i),
            messages=(
                TranscriptMessage(author="customer", text=PLAIN[i % 3]),
                TranscriptMessage(author="bot", text=REPLY[2 if i % 2 else 0]),
                TranscriptMessage(author="customer", text=(GLAD if i % 2 else ANGRY)[i % 3]),
            ),
            labels={"resolved": ("yes" if i % 2 else "no",)},
        )
        for i in range(100)
    ]
    labels = labelled(Conversations(to_batch(rows)), "resolved")
    assert labels.scale.tolist() == [0.0, 1.0]
    assert fit(labels, QUICK).conversations.auc.value > 0.95


@pytest.mark.parametrize(
    ("mean", "scale", "classes"),
    [
        ([1, 2.5, 2.6, 3, 3.4, 3.5, 5], [1, 2, 3, 4, 5], [0, 0, 1, 1, 1, 2, 2]),
        ([0, 0.4, 0.5, 0.6, 1], [0, 1], [0, 0, 1, 2, 2]),
        ([1, 1.5, 2, 2.5, 3], [1, 2, 3], [0, 0, 1, 2, 2]),
    ],
)
def test_classes_are_half_a_level_off_the_middle(mean, scale, classes):
    assert classes_of(np.array(mean, float), np.array(scale, float)).tolist() == classes


def bad_batch(**fields):
    said = TranscriptMessage(author="customer", text="hello", **fields)
    return Conversations(to_batch([Transcript(id=str(i), messages=(said,)) for i in range(100)]))


@pytest.mark.parametrize(
    ("batch", "label", "problem"),
    [
        (bad_batch(), None, "No message and no conversation"),
        (bad_batch(ratings=(3.0,)), None, "Every rating is 3"),
        (bad_batch(ratings=(-1.0, 2.0)), None, "negative"),
        (bad_batch(labels={"mood": ("so so",)}), "mood", "so so"),
        (bad_batch(), "mood", "'mood'"),
    ],
)
def test_bad_labels_are_named(batch, label, problem):
    with pytest.raises(UsageError, match=problem):
        labelled(batch, label)


def test_ratings_of_both_sides_are_refused():
    rows = [
        Transcript(
            id=str(i),
            messages=(
                TranscriptMessage(author="customer", text="hello", ratings=(3.0,)),
                TranscriptMessage(author="bot", text="hi", ratings=(2.0,)),
            ),
        )
        for i in range(50)
    ]
    with pytest.raises(UsageError, match="50 customer messages and on 50 agent"):
        labelled(Conversations(to_batch(rows)))


def test_too_few_labels_are_refused():
    with pytest.raises(UsageError, match="too few"):
        fit(labelled(rated(8)), QUICK)


@pytest.mark.parametrize(
    "damage", ["text", "zip", "format", "trees", "root", "shape", "missing", "nan", "pickle"]
)
def test_a_damaged_file_is_no_estimator(fitted, tmp_path, damage):
    path = tmp_path / "x.npz"
    if damage == "text":
        path.write_text("hello")
    elif damage == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("hello", "hello")
    elif damage == "format":
        header = {**fitted.estimator.header, "format": 99}
        Estimator(header, fitted.estimator.arrays).save(path)
    elif damage == "trees":
        left = fitted.estimator.arrays["turn.trees.left"].copy()
        left[0] = 10**6
        arrays = {**fitted.estimator.arrays, "turn.trees.left": left}
        Estimator(fitted.estimator.header, arrays).save(path)
    elif damage == "root":
        arrays = {**fitted.estimator.arrays, "turn.trees.root": np.full(15, -1)}
        Estimator(fitted.estimator.header, arrays).save(path)
    elif damage == "shape":
        arrays = {**fitted.estimator.arrays, "turn.words.idf": np.ones(7)}
        Estimator(fitted.estimator.header, arrays).save(path)
    elif damage == "missing":
        arrays = {**fitted.estimator.arrays}
        del arrays["whole.levels.cuts"]
        Estimator(fitted.estimator.header, arrays).save(path)
    elif damage == "nan":
        arrays = {**fitted.estimator.arrays, "turn.blend": np.array([np.nan])}
        Estimator(fitted.estimator.header, arrays).save(path)
    else:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.array([{}], object), allow_pickle=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", json.dumps(dict(fitted.estimator.header)))
            archive.writestr("turn.blend.npy", buffer.getvalue())
    with pytest.raises(UsageError, match="no estimator"):
        Estimator.load(path)


def test_a_file_of_the_format_before_is_refused_with_what_to_do(fitted, tmp_path):
    path = tmp_path / "old.npz"
    Estimator({**fitted.estimator.header, "format": 1}, fitted.estimator.arrays).save(path)
    with pytest.raises(UsageError, match=r"format is 1 .* reads 2.* `quietdesk fit` makes one"):
        Estimator.load(path)


def test_trees_in_numpy_are_the_forest_they_came_from():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    x[:, 2] = rng.integers(0, 3, 400)
    forest = [
        DecisionTreeRegressor(max_features=0.5, random_state=seed).fit(x, x[:, 0] * x[:, 1])
        for seed in range(5)
    ]
    said = np.mean([tree.predict(x) for tree in forest], axis=0)
    assert climb(trees_of(forest), x) == pytest.approx(said, abs=1e-6)


def test_neighbours_are_what_a_loop_finds():
    rng = np.random.default_rng(1)
    looks, of = rng.normal(size=(7, 4)), np.array([0, 0, 0, 2, 3, 3, 3])
    found = neighbours(looks, of, ahead=True)
    score = looks.mean(axis=1)
    for i in range(7):
        mine = np.flatnonzero(of == of[i])
        past = mine[mine <= i][::-1]
        weights = 0.6 ** np.arange(len(past))
        assert found[i, 5] == pytest.approx(score[max(i - 1, mine[0])])
        assert found[i, 6] == pytest.approx((score[past] * weights).sum() / weights.sum())
        assert found[i, 7] == pytest.approx(score[past].mean())
        assert found[i, 10] == pytest.approx(score[mine].mean())
        assert found[i, 11] == pytest.approx(score[mine].min())
    assert neighbours(looks, of, ahead=False).shape == (7, 8)


def test_features_do_not_depend_on_the_batch(talk):
    said = [("customer", "where is it?"), ("bot", "I'm sorry, no idea."), ("customer", "great")]
    many = reading(talk(said, [("bot", "hello")], said))
    one = reading(talk(said))
    rows = np.array([4, 5, 6])
    assert turn_features(many, rows).tolist() == turn_features(one, np.arange(3)).tolist()
    assert turn_features(one, np.arange(3)).shape == (3, len(features()))
    for grams in (word_grams, sign_grams):
        left, right = grams(many, rows), grams(one, np.arange(3))
        assert left.buckets.tolist() == right.buckets.tolist()
        assert left.owner.tolist() == right.owner.tolist()


def test_the_shipped_estimator_says_what_it_is_and_prefers_thanks_to_anger(talk):
    estimator = shipped()
    assert set(estimator.header["fitted_on"]) == {"star", "taskmaster", "dstc9"}
    batch = talk(
        [("customer", PLAIN[0]), ("bot", REPLY[2]), ("customer", GLAD[0])],
        [("customer", PLAIN[0]), ("bot", REPLY[0]), ("customer", ANGRY[2])],
    )
    found = estimator.estimate(batch)
    assert found.conversations.expected[0] > found.conversations.expected[1]
    assert found.turns.dissatisfied[1] < found.turns.dissatisfied[3]


def test_a_conversation_is_summed_up_as_a_loop_does():
    rng = np.random.default_rng(3)
    size = np.array([1, 2, 5, 9, 3])
    score, of = rng.normal(size=size.sum()), np.repeat([0, 2, 3, 4, 6], size)
    x = rng.normal(size=(len(score), 4)).astype(np.float32)
    means, table, _ = wholes(score, x, of, 8, {})
    assert not table[[1, 5, 7]].any()
    for row in (0, 2, 3, 4, 6):
        mine = score[of == row]
        low = np.sort(mine)[: max(1, len(mine) // 4)]
        expected = [mine.mean(), mine.min(), mine.max(), mine[-1], mine[-3:].mean()]
        expected += [mine[:3].mean(), low.mean(), mine.std(), mine[-3:].min()]
        assert table[row] == pytest.approx([*expected, np.log1p(len(mine))])
        assert means[row, :4] == pytest.approx(x[of == row].mean(axis=0), abs=1e-6)
        assert means[row, 4:].tolist() == x[of == row][-1].tolist()
