"""Sampler: llama.cpp's sampler chain of one request, and the grammars that bind it.

A grammar binds from the beginning, or from where the reply begins a call. llama.cpp's grammars know
nothing of characters that several tokens make, nor of control tokens that nobody sees; both are
looked at here.
"""

import codecs
import ctypes
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from quietdesk.engine.calls import Watch, call_grammar
from quietdesk.engine.llama.log import Log
from quietdesk.engine.sampling import Sampling
from quietdesk.errors import DecodeError

CANDIDATE_MARGIN = 16.0
"""Logits further below the best than this hold e^-16 of its probability each; see `_candidates`."""


class Sampler:
    """A llama.cpp sampler chain of one request."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Seq[int],
        vocab: Any,
        n_vocab: int,
        piece: Callable[[int], bytes],
        dry: Any,
        silent: NDArray[np.int32],
        marks: Mapping[int, bytes],
    ) -> None:
        self._sampling = sampling
        self._piece = piece
        self._marks = marks
        self._begun = b""
        """Bytes of a character that has not ended yet, where there is a grammar."""
        self._vocab, self._n_vocab = vocab, n_vocab
        self._silent = np.setdiff1d(silent, list(marks))
        """Control tokens: grammars take them for their texts, which nobody gets to see."""
        self._grammar: Any = None
        """What binds from here on."""
        self._watch: Watch | None = None
        """Watches for a call's beginning, until it has come."""
        self._end: int | None = None
        """The end token, once a grammar has come to its end: it allows nothing after it."""
        self._chain: Any = None
        if sampling.is_greedy:
            return
        self._chain = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        try:
            for part in _parts(sampling, n_vocab, dry):
                llama_cpp.llama_sampler_chain_add(self._chain, part)
        except BaseException:
            self.close()
            raise
        if sampling.changes_scores:
            # Grammars must not see the prompt, penalties must: accept it before the grammar is on.
            look_back = max(sampling.penalty_last_n, sampling.dry_penalty_last_n)
            for token in prompt[max(0, len(prompt) - look_back) :]:
                llama_cpp.llama_sampler_accept(self._chain, token)
        grammar = sampling.grammar
        if sampling.calls is not None and sampling.calls.forced:
            grammar = call_grammar(sampling.calls)
        elif sampling.calls is not None:
            self._watch = Watch(sampling.calls.form)
        if grammar:
            self._bind(grammar)
        # Mirostat cuts off by itself, and is never given a top-k.
        self._narrow = bool(sampling.top_k and not sampling.changes_scores)
        self._plain = sampling.temperature == 0.0 and not sampling.changes_scores

    def _bind(self, grammar: str) -> None:
        self._grammar = llama_cpp.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")
        if not self._grammar:
            self.close()
            raise DecodeError(f"The grammar does not compile: {Log.reason()}")

    def choose(self, scores: NDArray[np.float32], likeliest: int) -> int:
        """The next token."""
        if self._chain is None:
            return likeliest
        if self._end is not None:
            return self._end
        bound = self._grammar is not None
        token = self._draw(scores, likeliest)
        while not (self._goes_on_as_text(token) if bound else self._may_come(token)):
            scores = scores.copy()
            if not bound and (exact := self._exact(token)):
                # It began a call and something else after it: the call begins without that.
                others = np.delete(np.arange(self._n_vocab), exact)
                scores[others] = -np.inf
            else:
                scores[token] = -np.inf
            token = self._draw(scores, likeliest)
        if bound:
            llama_cpp.llama_sampler_accept(self._grammar, token)
            if llama_cpp.llama_vocab_is_eog(self._vocab, token):
                self._end = token
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    # Where no call has begun yet.

    def _may_come(self, token: int) -> bool:
        """Whether a token may; from the one on that completes a call's trigger a grammar binds."""
        calls = self._sampling.calls
        if self._watch is None or calls is None:
            return True
        piece = self._marks.get(token) or self._piece(token)
        more = self._watch.look(piece)
        if more is None:
            self._watch.add(piece)
            return True
        if not calls.trigger:
            return False
        self._bind(call_grammar(calls, begun=True))
        if all(self._accepts(byte) for byte in more):
            self._watch = None
            return True
        llama_cpp.llama_sampler_free(self._grammar)
        self._grammar = None
        return False

    def _accepts(self, byte: int) -> bool:
        """Whether the grammar allows a byte next; then it has gone on by it."""
        token = self._token_of(bytes([byte]))
        if token is None or not self._allows(token):
            return False
        llama_cpp.llama_sampler_accept(self._grammar, token)
        return True

    def _token_of(self, piece: bytes) -> int | None:
        return next((n for n in range(self._n_vocab) if self._piece(n) == piece), None)

    def _exact(self, token: int) -> list[int]:
        """Tokens that complete the trigger and no more, where this one would complete it."""
        calls = self._sampling.calls
        if self._watch is None or calls is None or not calls.trigger:
            return []
        if self._watch.look(self._marks.get(token) or self._piece(token)) is None:
            return []
        wanted = self._watch.missing()
        return [n for n in range(self._n_vocab) if self._piece(n) in wanted]

    # Where a grammar binds.

    def _goes_on_as_text(self, token: int) -> bool:
        """Whether the bytes so far and the token's are the beginning of UTF-8.

        llama.cpp's grammars take what is written in more bytes than it needs for the character,
        so that a quote could end a string that, read as UTF-8, goes on.
        """
        begun = self._begun + self._piece(token)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(begun)
        except UnicodeDecodeError:
            return False
        rest = decoder.getstate()[0]
        if b"\xed\xa0" <= rest < b"\xee":
            return False  # Half of a pair of UTF-16; Python's decoder waits for its end.
        if rest in _MAY_BE_TOO_LONG and not self._can_end(token, rest):
            return False
        self._begun = rest
        return True

    def _can_end(self, token: int, rest: bytes) -> bool:
        """Whether after this token the grammar allows one that goes on with the character."""
        least = _MAY_BE_TOO_LONG[rest]
        after = [n for n in range(self._n_vocab) if least <= self._piece(n)[:1] <= b"\xbf"]
        if not after:
            return False
        data = np.zeros(len(after), _TOKEN_DATA)
        data["id"] = after
        array = _array_of(data)
        grammar = llama_cpp.llama_sampler_clone(self._grammar)
        try:
            llama_cpp.llama_sampler_accept(grammar, token)
            llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
        finally:
            llama_cpp.llama_sampler_free(grammar)
        return bool((data["logit"] > -np.inf).any())

    def _draw(self, scores: NDArray[np.float32], likeliest: int) -> int:
        if self._plain and not self._grammar:
            return int(scores.argmax())
        if self._grammar and self._sampling.temperature == 0.0:
            # The best of those that are allowed: mostly the best of all, and one is soon looked at.
            best = int(scores.argmax()) if self._plain else self._choose(scores, likeliest)
            if best not in self._silent and self._allows(best):
                return best
        return self._choose(scores, likeliest, bound=self._grammar is not None)

    def _choose(self, scores: NDArray[np.float32], likeliest: int, *, bound: bool = False) -> int:
        """What the chain chooses, among what the grammar allows where it is bound by it."""
        candidates = self._candidates(scores, likeliest)
        data = np.zeros(len(candidates), _TOKEN_DATA)
        data["id"] = candidates
        data["logit"] = scores[candidates]
        array = _array_of(data)
        pointer = ctypes.byref(array)
        if bound:
            data["logit"][self._silent] = -np.inf
            llama_cpp.llama_sampler_apply(self._grammar, pointer)
        llama_cpp.llama_sampler_apply(self._chain, pointer)
        chosen = array.data[array.selected]
        # llama.cpp ends the process when a grammar is told a token that it does not allow.
        if bound and chosen.logit == -np.inf:
            raise RuntimeError("the grammar allows no token here")
        return int(chosen.id)

    def _allows(self, token: int) -> bool:
        """Whether the grammar allows a token next."""
        data = np.zeros(1, _TOKEN_DATA)
        data["id"] = token
        array = _array_of(data)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(data["logit"][0] > -np.inf)

    def _candidates(self, scores: NDArray[np.float32], likeliest: int) -> NDArray[np.int32]:
        """Tokens that the chain has to look at: all of them, or where top-k cuts, enough for it.

        Whenever at least k tokens lie within the margin, the k best are among them, so that the
        chain's own top-k chooses the same ones as from the whole vocabulary.
        """
        if self._narrow and not self._grammar:
            near = np.flatnonzero(scores >= scores[likeliest] - CANDIDATE_MARGIN)
            if len(near) >= self._sampling.top_k:
                return near.astype(np.int32)
        return np.arange(self._n_vocab, dtype=np.int32)

    def close(self) -> None:
        """Free what llama.cpp holds for it."""
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None


_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_MAY_BE_TOO_LONG = {b"\xe0": b"\xa0", b"\xf0": b"\x90"}
"""First bytes of characters whose second byte may not be any, and the least that it may be."""


def _array_of(data: NDArray[Any]) -> Any:
    """llama.cpp's view of candidates, which have to outlive it."""
    return llama_cpp.llama_token_data_array(
        data=ctypes.cast(data.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data)),
        size=len(data),
        selected=-1,
        sorted=False,
    )


def _parts(sampling: Sampling, n_vocab: int, dry: Any) -> Iterable[Any]:
    """The chain's samplers, in llama.cpp's own order."""
    s = sampling
    if s.logit_bias:
        kind = llama_cpp.llama_logit_bias * len(s.logit_bias)
        pairs = kind(*(llama_cpp.llama_logit_bias(token, bias) for token, bias in s.logit_bias))
        yield llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(pairs), pairs)
    if s.repeat_penalty != 1.0 or s.frequency_penalty or s.presence_penalty:
        yield llama_cpp.llama_sampler_init_penalties(
            n_vocab, s.penalty_last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
        )
    if dry is not None:
        yield dry
    if s.temperature == 0.0:
        yield llama_cpp.llama_sampler_init_greedy()
        return
    if s.mirostat_tau > 0:
        yield llama_cpp.llama_sampler_init_temp(s.temperature)
        yield llama_cpp.llama_sampler_init_mirostat_v2(s.seed, s.mirostat_tau, s.mirostat_eta)
        return
    if s.top_k:
        yield llama_cpp.llama_sampler_init_top_k(s.top_k)
    if s.typical_p < 1.0:
        yield llama_cpp.llama_sampler_init_typical(s.typical_p, 1)
    if s.top_p < 1.0:
        yield llama_cpp.llama_sampler_init_top_p(s.top_p, 1)
    if s.min_p > 0.0:
        yield llama_cpp.llama_sampler_init_min_p(s.min_p, 1)
    yield llama_cpp.llama_sampler_init_temp(s.temperature)
    yield llama_cpp.llama_sampler_init_dist(s.seed)
