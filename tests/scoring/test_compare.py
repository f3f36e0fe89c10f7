import json
import math
from xml.etree import ElementTree

import pytest

from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scoring import score
from quietdesk.scoring.base import Better
from quietdesk.scoring.compare import Verdict, compare
from quietdesk.scoring.gate import Outcome, gate, parse_margins, to_junit, to_markdown
from quietdesk.scoring.reference import Chrf

METRICS = ("bleu", "chrf", "labels", "misunderstandings", "latency", "turns")


@pytest.fixture(scope="module")
def runs(make_talks):
    """Scores by name: two equal bots, a better one and a worse one on the same questions."""
    made = {
        "old": make_talks(150, seed=1, quality=0.7, customers=90),
        "same": make_talks(150, seed=2, quality=0.7, customers=90),
        "better": make_talks(150, seed=3, quality=0.95, customers=90),
        "worse": make_talks(150, seed=4, quality=0.4, customers=90),
        "few": make_talks(8, seed=1),
        "fewer": make_talks(8, seed=2),
    }
    return {name: score(talks, METRICS, slices=["channel"]) for name, talks in made.items()}


def change_of(comparison, name, slice_value=""):
    for change in comparison.changes:
        if change.name == name and change.new.slice_value == slice_value:
            return change
    raise AssertionError(name)


def test_the_same_inputs_are_compared_in_pairs(runs):
    found = compare(runs["same"], runs["old"])
    assert found.paired
    assert found.n_left_out == 0
    assert change_of(found, "chrf").test.startswith("paired")


def test_other_customers_are_another_sample(runs, make_talks):
    others = [
        t.model_copy(update={"id": f"x{t.id}", "customer": f"x{t.customer}"})
        for t in make_talks(150, seed=1, customers=90)
    ]
    found = compare(score(others, METRICS), runs["old"])
    assert not found.paired
    assert change_of(found, "chrf").test.startswith("two samples")
    assert change_of(found, "chrf").verdict is Verdict.SAME


def test_equal_ids_with_other_questions_are_no_pairs(runs, make_talks):
    others = [
        t.model_copy(
            update={"messages": (t.messages[0].model_copy(update={"text": "hm"}), *t.messages[1:])}
        )
        for t in make_talks(150, seed=1, customers=90)
    ]
    assert not compare(score(others, METRICS), runs["old"]).paired


def test_conversations_without_a_partner_are_left_out_and_counted(runs, make_talks):
    found = compare(score(make_talks(140, seed=1, quality=0.7, customers=90), METRICS), runs["old"])
    assert found.paired
    assert 10 <= found.n_left_out < 60


def test_a_run_does_not_differ_from_itself(runs):
    for change in compare(runs["old"], runs["old"]).changes:
        if change.verdict is not Verdict.TOO_FEW:
            assert (change.difference, change.p, change.verdict) == (0.0, 1.0, Verdict.SAME)


def test_a_better_bot_is_found_better_and_a_worse_one_worse(runs):
    up, down = compare(runs["better"], runs["old"]), compare(runs["worse"], runs["old"])
    for name, better in (
        ("chrf", Better.HIGHER),
        ("labels", Better.HIGHER),
        ("misunderstandings", Better.LOWER),
    ):
        assert change_of(up, name).verdict is Verdict.BETTER
        assert change_of(down, name).verdict is Verdict.WORSE
        sign = 1 if better is Better.HIGHER else -1
        assert (
            sign * change_of(up, name).interval.low > 0
            or sign * change_of(up, name).interval.high > 0
        )
        assert change_of(up, name).p_adjusted >= change_of(up, name).p
    assert change_of(up, "turns").verdict is Verdict.SAME


def test_the_order_of_runs_turns_the_sign(runs):
    ahead, back = compare(runs["better"], runs["old"]), compare(runs["old"], runs["better"])
    for name in ("chrf", "labels"):
        one, other = change_of(ahead, name), change_of(back, name)
        assert one.difference == -other.difference
        assert one.interval.low == pytest.approx(-other.interval.high)
        assert one.p == other.p
        assert one.effect == pytest.approx(-other.effect)


def test_too_few_conversations_is_an_answer(runs):
    for change in compare(runs["few"], runs["fewer"]).changes:
        assert change.verdict is Verdict.TOO_FEW


def test_slices_are_compared_too_and_weeks_are_not(runs, make_talks):
    found = compare(runs["better"], runs["old"])
    assert {c.new.slice_value for c in found.changes} == {"", "web", "app"}
    assert change_of(found, "chrf", "web").p_adjusted >= change_of(found, "chrf", "web").p
    weekly = score(make_talks(60, seed=1), METRICS, slices=["week"])
    assert {c.new.slice_field for c in compare(weekly, weekly).changes} == {""}


def test_holm_counts_the_main_values_alone(runs):
    found = compare(runs["same"], runs["old"])
    parts = [change for change in found.changes if not change.main]
    assert parts
    assert all(math.isnan(change.p_adjusted) for change in parts)


def test_runs_with_nothing_in_common_are_refused(make_talks):
    talks = make_talks(5)
    with pytest.raises(UsageError, match="no metric in common"):
        compare(score(talks, ["bleu"]), score(talks, ["chrf"]))
    found = compare(score(talks, ["bleu", "chrf"]), score(talks, ["chrf"]))
    assert found.notes == ("Measured in one run only, and left out: bleu.",)


def test_a_metric_measured_in_two_ways_is_refused(make_talks):
    talks, lower = make_talks(5), Chrf(lowercase=True)
    with pytest.raises(UsageError, match="'chrf' was measured in two ways"):
        compare(score(talks, [lower]), score(talks, ["chrf"]))


def test_a_comparison_is_json_without_nan(runs):
    text = json.dumps(compare(runs["few"], runs["old"]).to_json(), allow_nan=False)
    assert json.loads(text)["paired"] is False


def decide(runs, new, old, margins, **more):
    return gate(compare(runs[new], runs[old]), margins, **more)


def test_a_run_within_its_margins_passes(runs):
    verdict = decide(runs, "better", "old", {"chrf": 1.0, "misunderstandings": 0.01})
    assert (verdict.outcome, verdict.exit_code) == (Outcome.PASS, 0)


def test_a_run_beyond_a_margin_fails_whatever_else_passes(runs):
    verdict = decide(runs, "worse", "old", {"chrf": 1.0, "latency": 1000.0})
    assert [check.outcome for check in verdict.checks].count(Outcome.FAIL) == 1
    assert (verdict.outcome, verdict.exit_code) == (Outcome.FAIL, 1)


def test_a_margin_inside_the_interval_is_too_few_to_tell(runs):
    change = change_of(compare(runs["same"], runs["old"]), "chrf")
    middle = max(-change.difference, 0.0) + 0.01
    verdict = decide(runs, "same", "old", {"chrf": middle})
    (check,) = verdict.checks
    assert check.low < middle < check.high
    assert (verdict.outcome, verdict.exit_code) == (Outcome.UNDECIDED, 3)
    assert check.needed > change.new.n
    assert f"About {check.needed:,} conversations would tell." in check.sentence


def test_few_conversations_cannot_pass_even_a_wide_margin(runs):
    verdict = decide(runs, "few", "fewer", {"chrf": 100.0})
    assert (verdict.outcome, verdict.exit_code) == (Outcome.UNDECIDED, 3)


def test_a_lower_is_better_value_fails_when_it_rises(runs):
    assert decide(runs, "worse", "old", {"misunderstandings": 0.02}).exit_code == 1
    assert decide(runs, "old", "worse", {"misunderstandings": 0.0}).exit_code == 0


def test_slices_are_gated_where_asked(runs):
    whole = decide(runs, "better", "old", {"chrf": 1.0})
    each = decide(runs, "better", "old", {"chrf": 1.0}, slices=True)
    assert len(whole.checks) == 1
    assert sorted(check.name for check in each.checks) == [
        "chrf",
        "chrf [channel=app]",
        "chrf [channel=web]",
    ]


def test_margins_for_what_is_not_there_are_refused(runs):
    with pytest.raises(UnknownNameError, match="Did you mean 'chrf'"):
        decide(runs, "old", "same", {"chfr": 1.0})
    with pytest.raises(UsageError, match="neither better nor worse"):
        decide(runs, "old", "same", {"turns": 1.0})


def test_margins_are_read_from_the_command_line():
    assert parse_margins(["chrf=1.5", "a=b=0"]) == {"chrf": 1.5, "a=b": 0.0}
    for bad in ("chrf", "chrf=", "=1", "chrf=x", "chrf=-1", "chrf=nan", "chrf=inf"):
        with pytest.raises(UsageError, match="METRIC=DELTA"):
            parse_margins([bad])
    with pytest.raises(UsageError, match="two margins"):
        parse_margins(["chrf=1", "chrf=2"])
    with pytest.raises(UsageError, match="no margin"):
        parse_margins([])


def test_junit_counts_failures_and_undecided_checks_apart(runs):
    change = change_of(compare(runs["worse"], runs["old"]), "latency")
    inside = max(change.difference, 0.0) + 0.001
    verdict = decide(runs, "worse", "old", {"chrf": 1.0, "latency": inside, "labels": 1.0})
    root = ElementTree.fromstring(to_junit(verdict))
    (suite,) = root.findall("testsuite")
    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
        "skipped": "0",
    }
    by_name = {case.get("name"): case for case in suite}
    assert by_name["chrf"].find("failure").get("message").startswith("chrf went from")
    assert by_name["latency"].find("error").get("type") == "too few conversations to tell"
    assert by_name["labels"].find("failure") is None


def test_markdown_has_one_row_per_check(runs):
    text = to_markdown(decide(runs, "worse", "old", {"chrf": 1.0, "misunderstandings": 1.0}))
    assert text.startswith("### Gate: fail\n")
    rows = [line for line in text.splitlines() if line.startswith(("| ❌", "| ✅", "| ❔"))]
    assert len(rows) == 2
    assert {row.count("|") for row in rows} == {8}
