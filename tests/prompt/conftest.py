"""Real tokenisers for the prompt room: llama.cpp's own, over small vocabularies made here."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest

from quietdesk.prompt.template import ChatTemplate
from quietdesk.prompt.window import Window

TEMPLATES = Path(__file__).parents[1] / "data" / "templates"
FAMILIES = tuple(json.loads((TEMPLATES / "index.json").read_text(encoding="utf-8")))

SYLLABLES = (
    " the", " you", " your", " order", " is", " and", " to", " we", " will", " refund", "user",
    "assistant", "system", "model", "\n\n", "ing", " number", " 1", "  ",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A template and a tokeniser that belong together, as a model file holds them."""

    family: str
    source: str | None
    bos: str
    eos: str
    marks: tuple[str, ...]
    adds_bos: bool
    llama: llama_cpp.Llama
    max_piece_bytes: int

    def tokenize(self, text: str, *, special: bool, begin: bool) -> list[int]:
        return self.llama.tokenize(text.encode(), add_bos=begin, special=special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        return self.llama.detokenize(list(tokens), special=True).decode("utf-8", "replace")

    def control_ids(self) -> set[int]:
        return {self.tokenize(mark, special=True, begin=False)[-1] for mark in self.marks}

    def template(self) -> ChatTemplate:
        return ChatTemplate(
            self.source, bos_token=self.bos, eos_token=self.eos, special_tokens=self.marks
        )

    def window(self, **options: Any) -> Window:
        options.setdefault("n_ctx", 4096)
        return Window(
            self.template(),
            self.tokenize,
            special_tokens=self.marks,
            max_piece_bytes=self.max_piece_bytes,
            **options,
        )

    def whole(self, text: str) -> list[int]:
        """The prompt's text tokenised in one go, with the begin token once."""
        begin = not (self.bos and text.startswith(self.bos))
        return self.tokenize(text, special=True, begin=begin)


def byte_letters() -> list[str]:
    """The letter that a byte-level vocabulary has for each byte, as in GPT-2's encoder."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    extra = 256
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(extra)
            extra += 1
    return [letters[byte] for byte in range(256)]


def write_byte_level(writer: gguf.GGUFWriter, marks: Sequence[str], pre: str) -> int:
    letters = byte_letters()
    tokens = list(letters)
    merges: list[str] = []
    for syllable in SYLLABLES:
        word = "".join(letters[byte] for byte in syllable.encode())
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, *marks])
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([normal] * len(tokens) + [control] * len(marks))
    writer.add_token_merges(merges)
    return len(tokens)


def write_sentencepiece(writer: gguf.GGUFWriter, marks: Sequence[str], spaced: bool) -> int:
    kinds = gguf.TokenType
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    types = [kinds.BYTE] * 256
    scores = [0.0] * 256
    letters = {letter for word in SYLLABLES for letter in word} | set(map(chr, range(33, 127)))
    letters -= {"\n", " "}
    pieces = ["▁", *sorted(letters)]
    for syllable in SYLLABLES:
        word = syllable.replace(" ", "▁")
        pieces += [word[:end] for end in range(2, len(word) + 1) if "\n" not in word]
    for rank, piece in enumerate(dict.fromkeys(pieces)):
        tokens.append(piece)
        types.append(kinds.NORMAL)
        scores.append(-float(rank))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*tokens, *marks])
    writer.add_token_types(
        types + [kinds.UNKNOWN if mark == "<unk>" else kinds.CONTROL for mark in marks]
    )
    writer.add_token_scores(scores + [0.0] * len(marks))
    writer.add_add_space_prefix(spaced)
    return len(tokens)


def write_vocabulary(path: Path, family: str) -> None:
    """A GGUF file with a vocabulary and nothing else."""
    entry = json.loads((TEMPLATES / "index.json").read_text(encoding="utf-8"))[family]
    marks = entry["marks"]
    writer = gguf.GGUFWriter(path, "llama")
    if entry["vocabulary"] == "sentencepiece":
        first = write_sentencepiece(writer, marks, spaced=entry["spaced"])
        writer.add_unk_token_id(first + marks.index("<unk>"))
    else:
        first = write_byte_level(writer, marks, entry["vocabulary"])
    if entry["bos"]:
        writer.add_bos_token_id(first + marks.index(entry["bos"]))
    writer.add_eos_token_id(first + marks.index(entry["eos"]))
    writer.add_add_bos_token(entry["adds_bos"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def open_vocabulary(path: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """A family's template with a vocabulary that has its control tokens."""
    folder = tmp_path_factory.mktemp("vocabularies")
    opened: dict[str, Model] = {}
    index = json.loads((TEMPLATES / "index.json").read_text(encoding="utf-8"))

    def open_model(family: str) -> Model:
        if family not in opened:
            entry = index[family]
            path = folder / f"{family}.gguf"
            write_vocabulary(path, family)
            file = TEMPLATES / f"{family}.jinja"
            opened[family] = Model(
                family=family,
                source=file.read_text(encoding="utf-8") if file.exists() else None,
                bos=entry["bos"],
                eos=entry["eos"],
                marks=tuple(entry["marks"]),
                adds_bos=entry["adds_bos"],
                llama=open_vocabulary(path),
                max_piece_bytes=24,
            )
        return opened[family]

    return open_model


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, model_of: Callable[[str], Model]) -> Model:
    """Each family in turn."""
    return model_of(request.param)


@pytest.fixture
def window(model: Model) -> Window:
    """A window for the family's model."""
    return model.window()


@pytest.fixture(scope="session")
def starter(starter_path: Path) -> Model:
    """The bundled model's own vocabulary and template."""
    llama = open_vocabulary(starter_path)
    source = llama.metadata["tokenizer.chat_template"]
    marks = tuple(re.findall(r"<\|[a-z_]+\|>", source))
    vocab = llama._model.vocab
    size = llama_cpp.llama_vocab_n_tokens(vocab)
    texts = [llama_cpp.llama_vocab_get_text(vocab, token) for token in range(size)]
    control = [
        text.decode()
        for token, text in enumerate(texts)
        if llama_cpp.llama_vocab_get_attr(vocab, token) & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    ]
    assert set(marks) <= set(control)
    return Model(
        family="smollm2",
        source=source,
        bos="<|im_start|>",
        eos="<|im_end|>",
        marks=tuple(control),
        adds_bos=False,
        llama=llama,
        max_piece_bytes=max(map(len, texts)),
    )
