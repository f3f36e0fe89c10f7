"""Gate: does a run stay within the margins of its baseline, and can one tell.

A margin says by how much a value may get worse. The run passes where the whole interval of the
worsening lies below the margin, fails where all of it lies above, and in between there are too few
conversations to tell: that is an answer of its own, and no pass.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Any
from xml.etree import ElementTree

from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scoring.base import Better
from quietdesk.scoring.compare import Change, Comparison, or_null
from quietdesk.scoring.statistics import FEWEST_CLUSTERS, LEVEL, Z, holm


class Outcome(StrEnum):
    """What a gate says."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "too few conversations to tell"


EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.UNDECIDED: 3}
"""2 is wrong use, as everywhere on the command line."""


@dataclass(frozen=True, slots=True)
class Check:
    """One margin, and what became of it."""

    change: Change
    margin: float
    """By how much the value may get worse."""
    worsening: float
    """By how much it got worse; negative where it got better."""
    low: float
    """Lower end of the worsening's 95 per cent interval."""
    high: float
    p_fail: float
    """How often chance alone gives as much beyond the margin, one-sided, after Holm."""
    outcome: Outcome
    needed: int | None
    """About how many conversations would decide it, if the worsening stays; None where decided."""

    @property
    def name(self) -> str:
        """The value, and the slice where it is one."""
        new = self.change.new
        where = f" [{new.slice_field}={new.slice_value or 'unknown'}]" if new.slice_field else ""
        return f"{new.name}{where}"

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        got = (
            f"{self.name} went from {self.change.old.value:.4g} to {self.change.new.value:.4g}: "
            f"worse by {self.worsening:.4g} (95 % interval {self.low:.4g} to {self.high:.4g}), "
            f"margin {self.margin:.4g}"
        )
        if self.outcome is Outcome.PASS:
            return f"{got}. Within the margin."
        if self.outcome is Outcome.FAIL:
            return f"{got}. Beyond the margin."
        more = f" About {self.needed:,} conversations would tell." if self.needed else ""
        return f"{got}. Too few conversations to tell.{more}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of a gate."""

    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        """Fail if any check fails; else undecided if any is; else pass."""
        outcomes = {check.outcome for check in self.checks}
        for outcome in (Outcome.FAIL, Outcome.UNDECIDED):
            if outcome in outcomes:
                return outcome
        return Outcome.PASS

    def to_json(self) -> dict[str, Any]:
        """All checks as JSON."""
        return {
            "format": "quietdesk gate 1",
            "outcome": str(self.outcome),
            "exit_code": self.exit_code,
            "checks": [
                {
                    **check.change.to_json(),
                    "margin": check.margin,
                    "worsening": or_null(check.worsening),
                    "worsening_low": or_null(check.low),
                    "worsening_high": or_null(check.high),
                    "p_fail": or_null(check.p_fail),
                    "outcome": str(check.outcome),
                    "needed": check.needed,
                }
                for check in self.checks
            ],
        }

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 too few conversations to tell."""
        return EXIT_CODES[self.outcome]


def parse_margins(texts: Sequence[str]) -> dict[str, float]:
    """Margins from `METRIC=DELTA`.

    Raises:
        UsageError: not of this form, twice the same, or a delta that is no number from 0.
    """
    margins: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            delta = float(number)
        except ValueError:
            delta = math.nan
        if not name or not delta >= 0 or math.isinf(delta):
            raise UsageError(
                f"The margin {text!r} is not METRIC=DELTA with a number from 0: chrf=1.5 lets chrf "
                "get worse by 1.5, handed_off=0.02 lets a share get worse by 2 per cent."
            )
        if name in margins:
            raise UsageError(f"There are two margins for {name!r}. Give one.")
        margins[name] = delta
    if not margins:
        raise UsageError("There is no margin. Give at least one: --margin METRIC=DELTA.")
    return margins


def gate(comparison: Comparison, margins: Mapping[str, float], *, slices: bool = False) -> Verdict:
    """Check a run against its baseline.

    Args:
        comparison: The run (new) and its baseline (old).
        margins: Value to how much worse it may get.
        slices: Whether every slice must keep within the margins too.

    Raises:
        UnknownNameError: a margin for a value that the runs do not have.
        UsageError: a margin for a value that is neither better nor worse.
    """
    known = [change.name for change in comparison.whole]
    for name in margins:
        if name not in known:
            raise UnknownNameError("value in both runs", name, known)
    wanted = [
        change
        for change in (comparison.changes if slices else comparison.whole)
        if change.name in margins
    ]
    for change in wanted:
        if change.better is Better.NEITHER:
            raise UsageError(
                f"{change.name!r} is neither better nor worse, so there can be no margin for it."
            )
    adjusted = holm([_p_beyond(change, margins[change.name]) for change in wanted])
    return Verdict(
        tuple(
            _check(change, margins[change.name], p)
            for change, p in zip(wanted, adjusted, strict=True)
        )
    )


def _worsening(change: Change) -> tuple[float, float, float]:
    """The worsening and the ends of its interval."""
    if change.better is Better.LOWER:
        return change.difference, change.interval.low, change.interval.high
    # 0 is added since it makes -0 a 0.
    return 0.0 - change.difference, 0.0 - change.interval.high, 0.0 - change.interval.low


def _p_beyond(change: Change, margin: float) -> float:
    worse, low, high = _worsening(change)
    if change.n_clusters < FEWEST_CLUSTERS or math.isnan(low):
        return math.nan
    if high == low:
        return 0.0 if worse > margin else 1.0
    return NormalDist().cdf(-(worse - margin) / ((high - low) / 2 / Z))


def _check(change: Change, margin: float, p_fail: float) -> Check:
    worse, low, high = _worsening(change)
    outcome, needed = Outcome.UNDECIDED, None
    if not math.isnan(p_fail):
        if high <= margin:
            outcome = Outcome.PASS
        elif p_fail < (1 - LEVEL) / 2:
            outcome = Outcome.FAIL
        elif worse != margin:
            n = min(change.new.n, change.old.n)
            needed = math.ceil(n * ((high - low) / 2 / abs(margin - worse)) ** 2)
    return Check(change, margin, worse, low, high, p_fail, outcome, needed)


def to_junit(verdict: Verdict) -> str:
    """The checks as JUnit XML: a fail is a failure, an undecided one an error."""
    suite = ElementTree.Element(
        "testsuite",
        name="quietdesk gate",
        tests=str(len(verdict.checks)),
        failures=str(sum(check.outcome is Outcome.FAIL for check in verdict.checks)),
        errors=str(sum(check.outcome is Outcome.UNDECIDED for check in verdict.checks)),
        skipped="0",
    )
    for check in verdict.checks:
        case = ElementTree.SubElement(
            suite, "testcase", classname="quietdesk.gate", name=check.name
        )
        if check.outcome is Outcome.PASS:
            ElementTree.SubElement(case, "system-out").text = check.sentence
        else:
            kind = "failure" if check.outcome is Outcome.FAIL else "error"
            ElementTree.SubElement(case, kind, message=check.sentence, type=str(check.outcome))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def to_markdown(verdict: Verdict) -> str:
    """The checks as a Markdown table, to post under a change."""
    marks = {Outcome.PASS: "✅ pass", Outcome.FAIL: "❌ fail", Outcome.UNDECIDED: "❔ too few"}
    lines = [
        f"### Gate: {verdict.outcome}",
        "",
        "| | value | baseline | run | worse by | 95 % interval | margin |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for check in verdict.checks:
        name = check.name.replace("|", "\\|")
        lines.append(
            f"| {marks[check.outcome]} | {name} | {check.change.old.value:.4g} | "
            f"{check.change.new.value:.4g} | {check.worsening:.4g} | "
            f"{check.low:.4g} to {check.high:.4g} | {check.margin:.4g} |"
        )
    undecided = [check for check in verdict.checks if check.outcome is Outcome.UNDECIDED]
    if undecided:
        lines += ["", *(f"- {check.sentence}" for check in undecided)]
    return "\n".join(lines) + "\n"
