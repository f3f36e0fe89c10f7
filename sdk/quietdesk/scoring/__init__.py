"""Scoring: how good logged conversations were, with intervals."""
