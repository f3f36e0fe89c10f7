"""LlamaRunner: llama.cpp's low-level API behind the Runner seam.

Each sequence has a KV stream of its own (`kv_unified` off): from eight sequences on that is far
faster than one shared buffer, whose attention reads everybody's cells. llama.cpp then evaluates a
run of neighbouring sequence numbers in one pass, and starts another pass at every gap.
"""

import ctypes
import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from quietdesk.engine.batch import Batch, Segment
from quietdesk.engine.calls import control_tokens
from quietdesk.engine.device import DevicePlan
from quietdesk.engine.llama.log import Log
from quietdesk.engine.llama.sampler import Sampler
from quietdesk.engine.runner import SPARE_OUTPUTS, AbortedError, ModelInfo
from quietdesk.engine.sampling import Sampling
from quietdesk.engine.threads import ThreadGovernor
from quietdesk.engine.vocabulary import Vocabulary
from quietdesk.errors import DecodeError, EngineClosedError, ModelFileError, UsageError
from quietdesk_models.errors import BadFileError
from quietdesk_models.gguf import Header, read_model

SCORED_ROWS = 32
"""Rows of a step that only reads a text: on a CPU as fast as longer steps, and soon over."""
SCORED_ROWS_GPU = 256
SCORED_BYTES = 32 * 2**20
"""Memory for these scores, at most."""
NARROW_ROWS = 8
"""Rows whose probabilities are summed at once, so that temporary arrays fit a processor's cache."""
DRY_SAMPLERS = 8
"""Sets of DRY's parameters for which a sampler is kept to be copied."""

SAMPLES, SAMPLE_BYTES = 256, 1024
"""Pieces of a model's file that tell it from others of the same shape: a fine-tune that changes a
fifth of the weights in whole matrices is missed with a probability of .8 ** 256."""

_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0, "f32": 0}
_FLASH = {"auto": -1, "off": 0, "on": 1}


def read_header(path: Path) -> Header:
    """What the file says of itself.

    Raises:
        ModelFileError: it is missing, no GGUF, or cut short.
    """
    try:
        return read_model(path)
    except BadFileError as error:
        raise ModelFileError(str(path), error.reason) from None


def _sample(path: Path) -> str:
    """A digest of pieces of the file from all over it: two models of one shape differ there."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(size * number // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


class LlamaRunner:
    """A model in this process."""

    def __init__(
        self,
        path: Path,
        plan: DevicePlan,
        *,
        name: str = "",
        on_progress: Callable[[float], bool] | None = None,
    ) -> None:
        """Load a model.

        Args:
            path: A GGUF file.
            plan: How it is run here.
            name: What it is called; what the file says if empty.
            on_progress: Told the share that is loaded, 0 to 1; False stops the loading.

        Raises:
            ModelFileError: llama.cpp does not load it, or loading was stopped.
        """
        header = read_header(path)
        Log.capture()
        llama_cpp.llama_backend_init()
        self.n_seq, self.n_ctx, self.n_batch = plan.n_seq, plan.n_ctx, plan.n_batch
        # While a GPU computes, the thread that waits for it looks as if others held its core.
        self._governor = None if plan.gpu_split else ThreadGovernor(plan.n_threads)
        self.evaluated_s = 0.0
        self._using_vocab = threading.Lock()
        self._ctx: Any = None
        self._model: Any = None
        self._model = self._load_model(path, plan, on_progress)
        try:
            self._ctx = self._open_context(path, plan)
            self._vocab = llama_cpp.llama_model_get_vocab(self._model)
            self._memory = llama_cpp.llama_get_memory(self._ctx)
            self._set_up()
            self._warm_up()
            self._vocabulary_kind = header.vocabulary_kind
            self.info = self._read_info(path, header, name, plan)
            self.state_key = (
                f"weights {header.fingerprint} {_sample(path)}; {header.quantisation}; "
                f"{plan.n_seq} x {plan.n_ctx} tokens of {plan.kv_type}; flash attention "
                f"{plan.flash_attention}; llama-cpp-python {llama_cpp.__version__}"
            )
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _load_model(
        path: Path, plan: DevicePlan, on_progress: Callable[[float], bool] | None
    ) -> Any:
        params = llama_cpp.llama_model_default_params()
        if plan.n_gpu_layers >= 0:
            params.n_gpu_layers = plan.n_gpu_layers
        if len(plan.gpu_split) > 1:
            kind = ctypes.c_float * llama_cpp.llama_max_devices()
            split = kind(*(float(count) for count in plan.gpu_split))
            params.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
        stopped: list[BaseException] = []

        def progress(share: float, _data: object) -> bool:
            # An exception cannot pass through C; among them is Ctrl-C, which arrives here.
            try:
                return on_progress is None or on_progress(share)
            except BaseException as error:
                stopped.append(error)
                return False

        params.progress_callback = llama_cpp.llama_progress_callback(progress)
        Log.lines.clear()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if stopped:
            if model:
                llama_cpp.llama_model_free(model)
            raise stopped[0]
        if not model:
            raise ModelFileError(str(path), Log.reason())
        return model

    def _open_context(self, path: Path, plan: DevicePlan) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = plan.n_ctx * plan.n_seq
        params.n_seq_max = plan.n_seq
        params.n_batch = max(plan.n_batch, plan.n_seq)
        params.n_ubatch = min(max(plan.n_ubatch, plan.n_seq), params.n_batch)
        n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        on_gpu = plan.n_gpu_layers and llama_cpp.llama_supports_gpu_offload()
        rows = min(SCORED_ROWS_GPU if on_gpu else SCORED_ROWS, params.n_batch)
        self.n_outputs = min(rows, max(1, SCORED_BYTES // (4 * n_vocab)))
        self._max_outputs = max(plan.n_seq + SPARE_OUTPUTS, self.n_outputs)
        params.n_outputs_max = min(self._max_outputs, params.n_batch)
        params.n_threads = params.n_threads_batch = plan.n_threads
        params.type_k = params.type_v = _KV_TYPES[plan.kv_type]
        params.flash_attn_type = _FLASH[plan.flash_attention]
        params.kv_unified = False
        # Hidden states are asked for by token, and pooled here: a text may take several steps.
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        # A sliding window that forgets cannot go back to an earlier turn; keep it all.
        params.swa_full = True
        params.no_perf = True
        self._stop_flag = ctypes.create_string_buffer(2)
        # llama.cpp asks between any two operations whether to stop, a thousand times a step: a
        # Python function would cost more than the step. strlen of a flag answers in C: 0 or 1.
        self._strlen = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
        params.abort_callback = self._strlen
        params.abort_callback_data = ctypes.addressof(self._stop_flag)
        Log.lines.clear()
        ctx = llama_cpp.llama_init_from_model(self._model, params)
        if not ctx:
            raise ModelFileError(str(path), f"no context could be opened: {Log.reason()}")
        return ctx

    def _set_up(self) -> None:
        """Arrays that every batch is written into, and what is asked of the vocabulary often."""
        n = max(self.n_batch, self.n_seq)
        self._tokens = np.zeros(n, np.int32)
        self._pos = np.zeros(n, np.int32)
        self._n_seq_id = np.ones(n, np.int32)
        self._seq_ids = np.zeros(n, np.int32)
        self._seq_id_at = (
            np.arange(n, dtype=np.uint64) * np.uint64(4) + np.uint64(self._seq_ids.ctypes.data)
        ).astype(np.uint64)
        self._wanted = np.zeros(n, np.int8)

        def at(array: NDArray[Any], kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data, kind)

        fields: dict[str, Any] = {field[0]: field[1] for field in llama_cpp.llama_batch._fields_}
        self._batch = llama_cpp.llama_batch(
            n_tokens=0,
            token=at(self._tokens, fields["token"]),
            embd=None,
            pos=at(self._pos, fields["pos"]),
            n_seq_id=at(self._n_seq_id, fields["n_seq_id"]),
            seq_id=at(self._seq_id_at, fields["seq_id"]),
            logits=at(self._wanted, fields["logits"]),
        )
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._samplers: dict[int, Sampler] = {}
        self._dry_samplers: dict[tuple[Any, ...], Any] = {}
        self._next_sampler = 0
        self._window = llama_cpp.llama_model_n_swa(self._model)
        self.can_trim = not (
            llama_cpp.llama_model_is_recurrent(self._model)
            or llama_cpp.llama_model_is_hybrid(self._model)
        )

    def _warm_up(self) -> None:
        """Evaluate one token, so that the first request does not wait for pages of the file."""
        first = max(0, llama_cpp.llama_vocab_bos(self._vocab))
        self._batch.n_tokens = self._write(Segment(0, 0, (first,), sample=False), 0)
        llama_cpp.llama_decode(self._ctx, self._batch)
        llama_cpp.llama_memory_clear(self._memory, False)

    def _read_info(self, path: Path, header: Header, name: str, plan: DevicePlan) -> ModelInfo:
        vocab = self._vocab
        control = (
            llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
            | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
            | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        )
        special = []
        longest = 1
        silent = []
        for token in range(self._n_vocab):
            # A byte-level vocabulary writes each byte as one character, so this is never too low.
            text = llama_cpp.llama_vocab_get_text(vocab, token) or b""
            longest = max(longest, len(text))
            if text and (attr := llama_cpp.llama_vocab_get_attr(vocab, token) & control):
                special.append(text.decode("utf-8", "replace"))
                if not attr & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED and not self.is_end(token):
                    silent.append(token)
        self._silent = np.array(silent, np.int32)
        template = llama_cpp.llama_model_chat_template(self._model, None)
        return ModelInfo(
            name=name or header.name or path.stem,
            architecture=header.architecture,
            path=str(path),
            size_bytes=header.file_bytes,
            n_params=llama_cpp.llama_model_n_params(self._model),
            n_ctx_train=llama_cpp.llama_model_n_ctx_train(self._model),
            n_vocab=self._n_vocab,
            quantisation=header.quantisation,
            chat_template=template.decode("utf-8", "replace") if template else None,
            bos_token=self._token_text(llama_cpp.llama_vocab_bos(vocab)),
            eos_token=self._token_text(llama_cpp.llama_vocab_eos(vocab)),
            adds_bos=bool(llama_cpp.llama_vocab_get_add_bos(vocab)),
            special_tokens=tuple(special),
            max_piece_bytes=longest,
            fingerprint=header.fingerprint,
            engine=f"llama-cpp-python {llama_cpp.__version__}, llama.cpp {_version()}",
            options=(
                ("quantisation", header.quantisation),
                ("n_ctx", plan.n_ctx),
                ("n_seq", plan.n_seq),
                ("n_batch", plan.n_batch),
                ("n_threads", plan.n_threads),
                ("n_gpu_layers", plan.n_gpu_layers),
                ("kv_type", plan.kv_type),
                ("flash_attention", plan.flash_attention),
                ("processor", _processor()),
            ),
        )

    def _token_text(self, token: int) -> str:
        if token < 0:
            return ""
        text = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace") if text else ""

    # Vocabulary: from any thread.

    def tokenize(self, text: str, *, special: bool, begin: bool) -> list[int]:
        """Token ids of text; see `Runner.tokenize`.

        Raises:
            EngineClosedError: the model was freed.
        """
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        with self._using_vocab:
            if not self._model:
                raise EngineClosedError
            n = llama_cpp.llama_tokenize(self._vocab, data, len(data), buffer, room, begin, special)
        if n < 0:
            raise DecodeError(f"llama.cpp cannot tokenize a text of {len(data)} bytes.")
        return buffer[:n]

    def piece(self, token: int) -> bytes:
        """The bytes of a token; see `Runner.piece`."""
        known = self._pieces.get(token)
        if known is None:
            buffer = ctypes.create_string_buffer(256)
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, 256, 0, False)
            if n < 0:
                buffer = ctypes.create_string_buffer(-n)
                n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, -n, 0, False)
            known = self._pieces[token] = buffer.raw[:n]
        return known

    def is_end(self, token: int) -> bool:
        """Whether the token ends the model's turn."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))
        return known

    def vocabulary(self) -> Vocabulary:
        """Every token, to compare it with another model's."""
        texts = [
            llama_cpp.llama_vocab_get_text(self._vocab, token) or b""
            for token in range(self._n_vocab)
        ]
        return Vocabulary(self._vocabulary_kind, self._n_vocab, texts)

    def check_grammar(self, grammar: str) -> None:
        """See `Runner.check_grammar`."""
        with self._using_vocab:
            if not self._model:
                raise EngineClosedError
            compiled = llama_cpp.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")
        if not compiled:
            raise UsageError(
                "The grammar is no GBNF with a rule named 'root'; llama.cpp has written on "
                "standard error what it could not read."
            )
        llama_cpp.llama_sampler_free(compiled)

    # Samplers.

    def open_sampler(self, sampling: Sampling, prompt: Seq[int]) -> int:
        """A fresh sampler's number; see `Runner.open_sampler`."""
        sampling = sampling.within(self.n_ctx)
        dry = self._dry(sampling) if sampling.dry_multiplier else None
        self._next_sampler += 1
        marks = {}
        if sampling.calls is not None:
            marks = control_tokens(sampling.calls.form, self.tokenize, self.piece)
        self._samplers[self._next_sampler] = Sampler(
            sampling, prompt, self._vocab, self._n_vocab, self.piece, dry, self._silent, marks
        )
        return self._next_sampler

    def _dry(self, s: Sampling) -> Any:
        """A DRY sampler that has seen nothing.

        Looking through the vocabulary for the sequence breakers takes some 20 ms, for which every
        conversation would wait; a copy of one that has looked takes some microseconds.
        """
        own = s.dry_multiplier, s.dry_base, s.dry_allowed_length, s.dry_penalty_last_n
        key = *own, s.dry_sequence_breakers
        if key not in self._dry_samplers:
            if len(self._dry_samplers) >= DRY_SAMPLERS:
                oldest = next(iter(self._dry_samplers))
                llama_cpp.llama_sampler_free(self._dry_samplers.pop(oldest))
            breakers = [text.encode() for text in s.dry_sequence_breakers]
            array = (ctypes.c_char_p * len(breakers))(*breakers)
            self._dry_samplers[key] = llama_cpp.llama_sampler_init_dry(
                self._vocab, *own, array, len(breakers)
            )
        return llama_cpp.llama_sampler_clone(self._dry_samplers[key])

    def close_sampler(self, sampler: int) -> None:
        """Free a sampler."""
        self._samplers.pop(sampler).close()

    # Evaluation: from the engine's thread.

    def decode(self, batch: Batch) -> list[list[int]]:
        """Evaluate and sample; see `Runner.decode`."""
        order = self._evaluate(batch)
        return self._sample(batch.segments, order)

    def score(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Log-probabilities of the segments' targets; see `Runner.score`."""
        order = self._evaluate(batch)
        segments = batch.segments
        answer: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(segments)
        asked = [token for i in order for token in segments[i].targets]
        told = log_softmax_at(self._scores(len(asked)), np.array(asked, np.int64))
        at = 0
        for i in order:
            n = len(segments[i].targets)
            answer[i] = told[at : at + n]
            at += n
        return answer

    def hidden(self, batch: Batch) -> list[NDArray[np.float32]]:
        """The last layer's states; see `Runner.hidden`."""
        segments = batch.segments
        llama_cpp.llama_set_embeddings(self._ctx, True)
        try:
            order = self._evaluate(batch)
            pointer = llama_cpp.llama_get_embeddings(self._ctx)
        finally:
            llama_cpp.llama_set_embeddings(self._ctx, False)
        width = llama_cpp.llama_model_n_embd_out(self._model)
        states = np.ctypeslib.as_array(pointer, (batch.n_rows, width))
        answer: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(segments)
        at = 0
        for i in order:
            n = len(segments[i].tokens)
            answer[i] = states[at : at + n].copy()
            at += n
        return answer

    def _evaluate(self, batch: Batch) -> list[int]:
        """Evaluate every row; the order in which the segments' rows lie."""
        segments = batch.segments
        # Ascending sequence numbers: what lies side by side is evaluated in one pass.
        order = sorted(range(len(segments)), key=lambda i: segments[i].seq_id)
        at = 0
        for i in order:
            at = self._write(segments[i], at)
        self._batch.n_tokens = at
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            code = llama_cpp.llama_decode(self._ctx, self._batch)
        finally:
            self._govern(time.perf_counter() - wall, time.thread_time() - cpu)
            stopped, self._stop_flag[0] = self._stop_flag[0] != b"\0", b"\0"
        if code == 2 or (code and stopped):
            raise AbortedError
        if code:
            meaning = {1: "no room in the KV cache", -1: "an invalid batch"}
            raise DecodeError(f"llama_decode returned {code}: {meaning.get(code, Log.reason())}.")
        return order

    def _govern(self, wall_s: float, cpu_s: float) -> None:
        self.evaluated_s += wall_s
        if self._governor is None:
            return
        before = self._governor.n_threads
        n = self._governor.add(wall_s, cpu_s)
        if n != before:
            llama_cpp.llama_set_n_threads(self._ctx, n, n)

    def _write(self, segment: Segment, at: int) -> int:
        n = len(segment.tokens)
        end = at + n
        self._tokens[at:end] = segment.tokens
        self._pos[at:end] = np.arange(segment.start, segment.start + n, dtype=np.int32)
        self._seq_ids[at:end] = segment.seq_id
        self._wanted[at:end] = 0
        if segment.sample:
            self._wanted[end - 1 - segment.n_draft : end] = 1
        if segment.targets:
            self._wanted[end - len(segment.targets) : end] = 1
        return end

    def _sample(self, segments: Seq[Segment], order: Iterable[int]) -> list[list[int]]:
        answer: list[list[int]] = [[] for _ in segments]
        asking = [i for i in order if segments[i].sample]
        n_rows = sum(1 + segments[i].n_draft for i in asking)
        if not n_rows:
            return answer
        scores = self._scores(n_rows)
        likeliest = scores.argmax(axis=1).tolist()
        row = 0
        for i in asking:
            segment = segments[i]
            sampler = self._samplers[segment.sampler]
            guesses = segment.tokens[len(segment.tokens) - segment.n_draft :]
            for guess in (*guesses, None):
                token = sampler.choose(scores[row], likeliest[row])
                answer[i].append(token)
                row += 1
                if guess != token:
                    break
            row += segment.n_draft + 1 - len(answer[i])
        return answer

    def _scores(self, n_rows: int) -> NDArray[np.float32]:
        """The scores of the last evaluation, shape (n_rows, n_vocab): valid until the next one."""
        if not n_rows:
            return np.empty((0, self._n_vocab), np.float32)
        pointer = llama_cpp.llama_get_logits(self._ctx)
        address = ctypes.addressof(pointer.contents)
        flat = (ctypes.c_float * (n_rows * self._n_vocab)).from_address(address)
        return np.frombuffer(flat, np.float32).reshape(n_rows, self._n_vocab)

    def remove(self, seq_id: int, start: int) -> bool:
        """Forget positions from start on; see `Runner.remove`."""
        if start and self._window:
            # A state holds a sliding window as it was when it was saved, and no more: after
            # loading it, an earlier position would miss what has left the window since.
            oldest = llama_cpp.llama_memory_seq_pos_min(self._memory, seq_id)
            if oldest > max(0, start - self._window + 1):
                return False
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, seq_id, start, -1))

    def save(self, seq_id: int) -> bytes:
        """The sequence's state."""
        size = llama_cpp.llama_state_seq_get_size(self._ctx, seq_id)
        state = bytearray(size)
        buffer = (ctypes.c_uint8 * size).from_buffer(state)
        written = llama_cpp.llama_state_seq_get_data(self._ctx, buffer, size, seq_id)
        del buffer
        return bytes(memoryview(state)[:written])

    def load(self, seq_id: int, state: bytes) -> bool:
        """Replace the sequence's content; see `Runner.load`."""
        llama_cpp.llama_memory_seq_rm(self._memory, seq_id, 0, -1)
        source = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        done = llama_cpp.llama_state_seq_set_data(self._ctx, source, len(state), seq_id)
        return bool(done)

    def abort(self) -> None:
        """Stop the decode under way, or the next one if none is; from any thread."""
        self._stop_flag[0] = b"\1"

    def close(self) -> None:
        """Free everything."""
        for sampler in getattr(self, "_samplers", {}).values():
            sampler.close()
        self._samplers = {}
        for dry in getattr(self, "_dry_samplers", {}).values():
            llama_cpp.llama_sampler_free(dry)
        self._dry_samplers = {}
        if self._ctx:
            llama_cpp.llama_free(self._ctx)
            self._ctx = None
        with self._using_vocab:
            if self._model:
                llama_cpp.llama_model_free(self._model)
            self._model = None


def log_softmax_at(scores: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float32]:
    """The logarithm of the probability that each row's scores give to its target, in nats.

    Args:
        scores: Shape (n, n_vocab).
        targets: Shape (n,), a token's id each.
    """
    answer = np.empty(len(targets), np.float32)
    for at in range(0, len(targets), NARROW_ROWS):
        rows = scores[at : at + NARROW_ROWS]
        own = rows[np.arange(len(rows)), targets[at : at + NARROW_ROWS]]
        highest = rows.max(axis=1, keepdims=True)
        total = np.exp(rows - highest).sum(axis=1, dtype=np.float64)
        answer[at : at + NARROW_ROWS] = own - highest[:, 0] - np.log(total)
    return answer


def _version() -> str:
    """The library's own version; older ones do not tell it."""
    tell = getattr(llama_cpp, "llama_version", None)
    return tell().decode("utf-8", "replace") if tell else "of unknown version"


def _processor() -> str:
    """What llama.cpp was built for and finds here; another processor computes other last bits."""
    told = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    parts = (part.strip().rpartition(":")[2].strip() for part in told.split("|"))
    return " ".join(part.removesuffix(" = 1") for part in parts if part.endswith(" = 1"))
