"""Estimate: about how many tokens a text takes where nobody can count them; rather too many."""

import math
import re

_RUNS = re.compile(r"[A-Za-z]+|[0-9]|[ \t]+|[\x00-\x7f]|[^\x00-\x7f]+")
LETTERS = 4
"""Letters of a token: English has 4.5 to 5 with its space, names and codes fewer."""
BYTES = 4 / 3
"""Bytes of a token outside ASCII: the worst is a token for each, which small vocabularies have."""


def estimate_tokens(text: str) -> int:
    """Tokens of a text, estimated by its letters; above what common vocabularies need."""
    total = 0
    for run in _RUNS.findall(text):
        if run[0].isascii():
            blank = run.isspace() and run[0] in " \t"
            # A single space belongs to the word after it.
            total += math.ceil((len(run) - 1) / LETTERS) if blank else math.ceil(len(run) / LETTERS)
        else:
            total += math.ceil(len(run.encode("utf-8", "surrogatepass")) / BYTES)
    return total
