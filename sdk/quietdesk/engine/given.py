"""Given texts in batches: how likely the model finds them, and what vectors it makes of them."""

import codecs
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from quietdesk.engine.backend import Backend
from quietdesk.engine.embeddings import Embeddings
from quietdesk.engine.reading import Reader, in_turn
from quietdesk.errors import UsageError
from quietdesk.types import GivenText, ScoredText

AT_ONCE = 16
"""Texts handed to the engine ahead of its work: enough to fill its steps with short ones."""
MEAN = "mean of the chat model's last layer over all tokens; no model for embeddings is used"


def score(engine: Backend, texts: Iterable[GivenText]) -> list[ScoredText]:
    """How likely the model finds texts; see `Assistant.logprobs`."""
    reader = _reader(engine)
    begin = _begin(engine)
    starts: list[tuple[list[int], int]] = []

    def tokens() -> Iterator[tuple[list[int], int]]:
        for number, text in enumerate(texts):
            pair = _cut(engine, text, number, begin)
            starts.append(pair)
            yield pair

    done = in_turn(tokens(), lambda pair: reader.read_logprobs(*pair), at_once=AT_ONCE)
    answer: list[ScoredText] = []
    for result in done:
        read, start = starts[len(answer)]
        starts[len(answer)] = ([], 0)  # Its tokens are in the answer; ten thousand texts add up.
        told = result.logprobs().tolist()
        own = tuple(read[start:])
        answer.append(ScoredText(tokens=own, pieces=_pieces(reader, own), logprobs=tuple(told)))
    return answer


def embed(engine: Backend, texts: Iterable[str]) -> Embeddings:
    """Texts as vectors; see `Assistant.embed`."""
    reader = _reader(engine)

    def tokens() -> Iterator[list[int]]:
        for number, text in enumerate(texts):
            cut = engine.tokenize(text, special=False, begin=True) if text else []
            if not cut:
                raise UsageError(f"Text number {number}, counted from 0, is empty.")
            yield cut

    vectors = []
    for result in in_turn(tokens(), reader.read_hidden, at_once=AT_ONCE):
        mean = result.mean()
        length = float(np.linalg.norm(mean))
        vectors.append((mean / length if length else mean).astype(np.float32))
    stacked = np.stack(vectors) if vectors else np.empty((0, 0), np.float32)
    return Embeddings(stacked, engine.model.name, MEAN)


def _reader(engine: Backend) -> Reader:
    if isinstance(engine, Reader):
        return engine
    raise UsageError(
        f"The model {engine.model.name!r} runs elsewhere, where texts cannot be read without an "
        "answer. Open a GGUF file in this process for log-probabilities and embeddings."
    )


def _begin(engine: Backend) -> list[int]:
    info = engine.model
    mark = info.bos_token or info.eos_token
    return engine.tokenize(mark, special=True, begin=False) if mark else []


def _cut(
    engine: Backend, given: GivenText, number: int, begin: Sequence[int]
) -> tuple[list[int], int]:
    """The tokens that are read, and the position of the first one that is asked about."""
    context, text = ("", given) if isinstance(given, str) else given
    if not text:
        raise UsageError(f"Text number {number}, counted from 0, is empty.")
    if isinstance(context, str):
        before = engine.tokenize(context, special=False, begin=True) if context else []
    else:
        before = list(context)
    before = before or list(begin)
    if not before:
        raise UsageError(
            f"Text number {number}, counted from 0, has no context, and the model has no begin "
            "token to stand for one. Give a context."
        )
    return [*before, *engine.tokenize(text, special=False, begin=False)], len(before)


def _pieces(engine: Reader, tokens: Sequence[int]) -> tuple[str, ...]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = len(tokens) - 1
    return tuple(decoder.decode(engine.piece(token), i == last) for i, token in enumerate(tokens))
