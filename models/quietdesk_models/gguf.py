"""A quick, strict reader of GGUF headers: what a file says of itself, and whether it is whole.

It reads the metadata and the tensor table, never the weights, and refuses what llama.cpp would
refuse, before llama.cpp is touched and with better words. A hostile file costs bounded memory and
time: every count is checked against the bytes that are left in the file.

Source: the GGUF specification, versions 2 and 3 (docs/gguf.md of ggml), and ggml 0.25's checks.
"""

import hashlib
import os
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from quietdesk_models.errors import BadFileError

MAX_HEADER_BYTES = 256 * 2**20
"""The largest headers known are below 20 MiB (vocabularies of 262,144 tokens and their merges)."""
MAX_ITEMS = 4 * 2**20
"""Strings in one array, keys, or tensors; the largest arrays known hold 0.6 million."""
SHORT_ARRAY = 1024
"""Arrays up to this length are kept; of longer ones only type and length."""

_CHUNK = 2**20
_SAMPLES, _SAMPLE_BYTES = 64, 4096

_SCALARS = {
    0: ("u8", "<B"),
    1: ("i8", "<b"),
    2: ("u16", "<H"),
    3: ("i16", "<h"),
    4: ("u32", "<I"),
    5: ("i32", "<i"),
    6: ("f32", "<f"),
    7: ("bool", "<?"),
    10: ("u64", "<Q"),
    11: ("i64", "<q"),
    12: ("f64", "<d"),
}
_STRING, _ARRAY = 8, 9

TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
"""Number in the file: name, elements per block, bytes per block."""

FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
"""`general.file_type`: the mixture that a file was quantised to."""

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array of the metadata that was passed over, not kept."""

    element: str
    """`str`, or a number's type: `u32`, `f32`, ..."""
    length: int


Value = Scalar | tuple[Scalar, ...] | LongArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of the tensor table."""

    name: str
    shape: tuple[int, ...]
    """Fastest dimension first, as in the file."""
    type: str
    offset: int
    """From the start of the data section, in bytes."""
    size_bytes: int

    @property
    def n_elements(self) -> int:
        """How many numbers it holds."""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    """Where the weights start, in bytes."""
    file_bytes: int
    expected_bytes: int
    """What the tensor table asks for; a file shorter than this is cut short."""
    fingerprint: str
    """Hex sha256 over the header, the file's size and samples of the weights: fast, and another
    one after any requantising or training. Not a checksum of the whole file."""

    def text(self, key: str) -> str:
        """The string under key; empty where there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        """The whole number under the architecture's key, as `context_length`; 0 if there is none.

        Of a number per layer, the largest.
        """
        return max(self.numbers(key), default=0)

    def numbers(self, key: str) -> tuple[int, ...]:
        """The whole numbers under the architecture's key: one, one per layer, or none."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        values = value if isinstance(value, tuple) else (value,)
        return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))

    @property
    def architecture(self) -> str:
        """As `llama`, `gpt2`, `gemma3`."""
        return self.text("general.architecture")

    @property
    def name(self) -> str:
        """The name that its maker gave it; empty where there is none."""
        return self.text("general.name")

    @property
    def n_ctx_train(self) -> int:
        """Context length that it was trained with, in tokens; 0 if it does not say."""
        return self.number("context_length")

    @property
    def n_layer(self) -> int:
        """Layers."""
        return self.number("block_count")

    @cached_property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary; 0 if it does not say."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, LongArray):
            return tokens.length
        return len(tokens) if isinstance(tokens, tuple) else self.number("vocab_size")

    @property
    def vocabulary_kind(self) -> str:
        """How text is cut into tokens: `gpt2`, `llama`, `bert`; empty if it does not say."""
        return self.text("tokenizer.ggml.model")

    @cached_property
    def n_params(self) -> int:
        """Numbers in all tensors of this file."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def weights_bytes(self) -> int:
        """Size of all tensors of this file."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @cached_property
    def quantisation(self) -> str:
        """The mixture that the file declares, else the type that most of its numbers have."""
        declared = self.metadata.get("general.file_type")
        if isinstance(declared, int) and declared in FILE_TYPES:
            return FILE_TYPES[declared]
        count: Counter[str] = Counter()
        for tensor in self.tensors:
            count[tensor.type] += tensor.n_elements
        return count.most_common(1)[0][0] if count else ""

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the chat template; None where the file carries none."""
        return self.text("tokenizer.chat_template") or None

    @property
    def shard(self) -> tuple[int, int]:
        """Which part this is, from 0, and of how many; (0, 1) where the model is one file."""
        number, count = self.metadata.get("split.no"), self.metadata.get("split.count")
        if isinstance(number, int) and isinstance(count, int) and count > 1:
            return number, count
        return 0, 1


def read_header(path: str | Path) -> Header:
    """The header of one GGUF file: a model, a part of one, a vocabulary or an adapter.

    Raises:
        BadFileError: it cannot be read, is no GGUF, is malformed, or is shorter than it should be.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except FileNotFoundError:
        raise BadFileError(path, "there is no such file.") from None
    except IsADirectoryError:
        raise BadFileError(path, "it is a folder; name the .gguf file in it.") from None
    except OSError as error:
        raise BadFileError(path, f"it cannot be read: {error.strerror or error}.") from None


def read_model(path: str | Path) -> Header:
    """The header of a model that can be loaded: complete, all its parts there.

    Of a model in several files, name the first; its tensor table then holds all parts' tensors.

    Raises:
        BadFileError: as `read_header`; or it is no language model, or a part is missing.
    """
    header = read_header(path)
    kind = header.text("general.type")
    if kind == "adapter":
        raise BadFileError(path, "it is an adapter (LoRA), not a model; it needs its base model.")
    if kind in {"mmproj", "imatrix"} or header.architecture == "clip":
        raise BadFileError(path, f"it is no model but goes with one ({kind or 'clip'}).")
    number, count = header.shard
    if number != 0:
        raise BadFileError(path, f"it is part {number + 1} of {count}; name the first part.")
    if not header.architecture:
        raise BadFileError(path, "it does not say its architecture (general.architecture).")
    if not header.tensors:
        raise BadFileError(path, "it holds a vocabulary and no weights.")
    if count == 1:
        return header
    parts = [header, *(read_header(p) for p in shard_paths(Path(path), count)[1:])]
    return Header(
        path=header.path,
        version=header.version,
        metadata=header.metadata,
        tensors=tuple(tensor for part in parts for tensor in part.tensors),
        data_offset=header.data_offset,
        file_bytes=sum(part.file_bytes for part in parts),
        expected_bytes=sum(part.expected_bytes for part in parts),
        fingerprint=hashlib.sha256("".join(p.fingerprint for p in parts).encode()).hexdigest(),
    )


def shard_paths(first: Path, count: int) -> list[Path]:
    """The files of a model in `count` parts, by llama.cpp's naming: `x-00001-of-00003.gguf`.

    Raises:
        BadFileError: the first one is not named so.
    """
    match = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", first.name)
    if match is None or int(match[2]) != count:
        wanted = f"NAME-00001-of-{count:05}.gguf"
        raise BadFileError(first, f"it is part 1 of {count}, which must be named {wanted}.")
    return [first.with_name(f"{match[1]}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]


def _read(path: Path, file: BinaryIO) -> Header:
    reader = _Reader(path, file)
    magic = reader.take(4, "its first four bytes") if reader.size >= 4 else b""
    if magic != b"GGUF":
        raise BadFileError(path, _not_gguf(magic, reader.size))
    version = reader.u32()
    if version & 0xFFFF == 0:
        raise BadFileError(path, "it is in big-endian byte order, which is not supported here.")
    if version not in {2, 3}:
        raise BadFileError(path, f"it is GGUF version {version}; versions 2 and 3 are supported.")
    n_tensors, n_keys = reader.u64(), reader.u64()
    # The smallest rows: a name's length and one letter, then what each row has at least.
    reader.check_count(n_tensors, 8 + 1 + 4 + 4 + 8, "tensors")
    reader.check_count(n_keys, 8 + 1 + 4 + 1, "metadata keys")

    metadata: dict[str, Value] = {}
    for index in range(n_keys):
        key = reader.name(f"metadata key {index}", 2**16)
        if key in metadata:
            raise BadFileError(path, f"the metadata key {key!r} stands in it twice.")
        metadata[key] = reader.value(key)

    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise BadFileError(path, f"its alignment {alignment!r} is not a power of two.")

    tensors: list[TensorInfo] = []
    names: set[str] = set()
    end = 0
    for index in range(n_tensors):
        tensor = reader.tensor(index)
        if tensor.name in names:
            raise BadFileError(path, f"the tensor {tensor.name!r} stands in it twice.")
        names.add(tensor.name)
        if tensor.offset != end:
            reason = f"the tensor {tensor.name!r} is at {tensor.offset}, and {end} is its place."
            raise BadFileError(path, reason)
        end = _padded(end + tensor.size_bytes, alignment)
        tensors.append(tensor)

    table_end = reader.position
    data_offset = _padded(table_end, alignment) if tensors else table_end
    last = tensors[-1].offset + tensors[-1].size_bytes if tensors else 0
    expected = data_offset + last
    if reader.size < expected:
        raise BadFileError(
            path,
            f"it is cut short: {reader.size:,} bytes of {expected:,}. Download or copy it again.",
        )
    return Header(
        path=path,
        version=version,
        metadata=metadata,
        tensors=tuple(tensors),
        data_offset=data_offset,
        file_bytes=reader.size,
        expected_bytes=expected,
        fingerprint=reader.fingerprint(data_offset, last),
    )


def _not_gguf(magic: bytes, size: int) -> str:
    if size == 0:
        return "it is empty."
    if magic in {b"lmgg", b"fmgg", b"tjgg"}:
        return "it is in llama.cpp's old GGML format; get the model as GGUF."
    if magic[:1] in {b"<", b"{"}:
        return "it is no GGUF file but text, perhaps an error page saved by a download."
    if magic == b"vers":
        return "it is no GGUF file but a Git LFS pointer; fetch the real file with `git lfs pull`."
    return f"it is no GGUF file: it starts with {magic!r}, not with b'GGUF'."


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


class _Reader:
    """A cursor over the header; reads the file in pieces and keeps them for the fingerprint."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        self._file = file
        self._data = bytearray()

    def fingerprint(self, data_offset: int, data_bytes: int) -> str:
        digest = hashlib.sha256(memoryview(self._data)[: self.position])
        digest.update(struct.pack("<Q", self.size))
        if data_bytes <= 4 * _SAMPLES * _SAMPLE_BYTES:
            starts, length = [0], data_bytes
        else:
            last, length = data_bytes - _SAMPLE_BYTES, _SAMPLE_BYTES
            starts = [last * i // (_SAMPLES - 1) for i in range(_SAMPLES)]
        for start in starts:
            self._file.seek(data_offset + start)
            digest.update(self._file.read(length))
        return digest.hexdigest()

    def check_count(self, count: int, least_bytes: int, what: str) -> None:
        left = self.size - self.position
        if count > MAX_ITEMS or count * least_bytes > left:
            raise BadFileError(
                self.path,
                f"it claims {count:,} {what}, for which {left:,} bytes have no room; "
                "it is damaged or cut short.",
            )

    def need(self, count: int, what: str) -> None:
        """Have `count` more bytes from the cursor on in memory."""
        end = self.position + count
        if end <= len(self._data):
            return
        if end > self.size:
            raise BadFileError(
                self.path,
                f"it is cut short: it ends after {self.size:,} bytes, in the middle of {what}.",
            )
        if end > MAX_HEADER_BYTES:
            raise BadFileError(
                self.path, f"its header is larger than {MAX_HEADER_BYTES >> 20} MiB, at {what}."
            )
        self._data += self._file.read(max(end - len(self._data), _CHUNK))
        if end > len(self._data):
            raise BadFileError(self.path, f"it became shorter while it was read, at {what}.")

    def take(self, count: int, what: str) -> bytes:
        self.need(count, what)
        start, self.position = self.position, self.position + count
        return bytes(self._data[start : self.position])

    def unpack(self, form: str, what: str) -> int:
        number: int = struct.unpack(form, self.take(struct.calcsize(form), what))[0]
        return number

    def u32(self) -> int:
        return self.unpack("<I", "a count")

    def u64(self) -> int:
        return self.unpack("<Q", "a count")

    def name(self, what: str, limit: int) -> str:
        length = self.unpack("<Q", what)
        if not 0 < length < limit:
            raise BadFileError(self.path, f"{what} has a name of {length:,} bytes.")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            raise BadFileError(self.path, f"{what} has a name that is no UTF-8 text.") from None

    def string(self, what: str) -> str:
        length = self.unpack("<Q", what)
        return self.take(length, what).decode(errors="replace")

    def value(self, key: str) -> Value:
        what = f"the value of {key!r}"
        kind = self.unpack("<I", what)
        if kind == _ARRAY:
            return self.array(what)
        return self.scalar(kind, what)

    def scalar(self, kind: int, what: str) -> Scalar:
        if kind == _STRING:
            return self.string(what)
        if kind not in _SCALARS:
            raise BadFileError(self.path, f"{what} has the unknown type {kind}.")
        return self.unpack(_SCALARS[kind][1], what)

    def array(self, what: str) -> Value:
        kind, length = self.unpack("<I", what), self.unpack("<Q", what)
        if kind == _STRING:
            self.check_count(length, 8, f"strings in {what}")
            if length > SHORT_ARRAY:
                self._skip_strings(length, what)
                return LongArray("str", length)
        elif kind in _SCALARS:
            width = struct.calcsize(_SCALARS[kind][1])
            if length > SHORT_ARRAY:
                self.need(length * width, what)
                self.position += length * width
                return LongArray(_SCALARS[kind][0], length)
        else:
            raise BadFileError(self.path, f"{what} is an array of the unknown type {kind}.")
        return tuple(self.scalar(kind, what) for _ in range(length))

    def _skip_strings(self, count: int, what: str) -> None:
        # The one loop that runs a million times: kept free of method calls.
        data, unpack = self._data, struct.Struct("<Q").unpack_from
        position, held = self.position, len(self._data)
        for _ in range(count):
            if position + 8 > held:
                self.position = position
                self.need(8, what)
                held = len(data)
            position += 8 + unpack(data, position)[0]
            if position > held:
                self.position = held
                self.need(position - held, what)
                held = len(data)
        self.position = position

    def tensor(self, index: int) -> TensorInfo:
        what = f"tensor {index}"
        name = self.name(what, 64)
        n_dims = self.unpack("<I", what)
        if n_dims > 4:
            raise BadFileError(
                self.path, f"the tensor {name!r} has {n_dims} dimensions, not 1 to 4."
            )
        shape = tuple(self.unpack("<Q", what) for _ in range(n_dims))
        kind = self.unpack("<I", what)
        if kind not in TENSOR_TYPES:
            raise BadFileError(self.path, f"the tensor {name!r} has the unknown type {kind}.")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        elements = 1
        for size in shape:
            elements *= size
        if max(elements, *shape, 0) >= 2**63 or (shape[0] if shape else 1) % block:
            raise BadFileError(
                self.path, f"the tensor {name!r} of type {type_name} has the bad shape {shape}."
            )
        size_bytes = elements // block * block_bytes
        return TensorInfo(name, shape, type_name, self.unpack("<Q", what), size_bytes)
