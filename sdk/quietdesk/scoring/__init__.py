"""Scoring: how good logged conversations were, with intervals.

What is needed for it is an optional extra: `pip install 'quietdesk[score]'`.
"""

from quietdesk.scoring.base import (
    BaseMetric,
    Better,
    Category,
    Conversations,
    Estimate,
    Mean,
    Measurement,
    Metric,
    Rate,
    Ratio,
    Scale,
    Signature,
    Unit,
    Units,
)
from quietdesk.scoring.reference import Score, corpus_score, sentence_score
from quietdesk.scoring.scores import Scores, load, score

__all__ = [
    "BaseMetric",
    "Better",
    "Category",
    "Conversations",
    "Estimate",
    "Mean",
    "Measurement",
    "Metric",
    "Rate",
    "Ratio",
    "Scale",
    "Score",
    "Scores",
    "Signature",
    "Unit",
    "Units",
    "corpus_score",
    "load",
    "score",
    "sentence_score",
]
