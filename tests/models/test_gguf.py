"""The header reader against the gguf package, llama.cpp's own reader, and hostile files."""

import random
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietdesk_models.errors import BadFileError
from quietdesk_models.gguf import TENSOR_TYPES, LongArray, read_header, read_model, shard_paths

U32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dims = b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


ARCHITECTURE = entry("general.architecture", STRING, text("llama"))


def file_of(
    entries: list[bytes], tensors: list[bytes], data: bytes = b"", version: int = 3, align: int = 32
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % align) + data


SMALL = file_of(
    [ARCHITECTURE, entry("llama.context_length", U32, struct.pack("<I", 77))],
    [tensor("a", (4, 2)), tensor("b", (32,), kind=8, offset=32)],
    bytes(32) + bytes(34),
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def refused(place: Path, data: bytes) -> str:
    place.write_bytes(data)
    with pytest.raises(BadFileError) as caught:
        read_model(place)
    assert str(place) in str(caught.value)
    return caught.value.reason


def test_a_small_file_is_read(place: Path) -> None:
    place.write_bytes(SMALL)
    header = read_model(place)
    assert (header.architecture, header.n_ctx_train, header.n_params) == ("llama", 77, 40)
    assert header.expected_bytes == header.file_bytes == len(SMALL)
    assert header.chat_template is None


@pytest.mark.parametrize("name", ["starter", "llama", "draft", "gpt2", "gemma3", "mamba", "lfm2"])
def test_metadata_and_tensors_are_those_that_the_gguf_package_reads(
    tiny_models: dict[str, Path], starter_path: Path, name: str
) -> None:
    path = starter_path if name == "starter" else tiny_models[name]
    header, theirs = read_model(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert set(header.metadata) == set(fields)
    for key, value in header.metadata.items():
        expected = fields[key].contents()
        if isinstance(value, LongArray):
            assert value.length == len(expected)
        elif isinstance(value, tuple):
            assert list(value) == list(expected)
        else:
            assert value == expected
    assert [
        (t.name, t.shape, t.type, t.size_bytes, t.offset + header.data_offset)
        for t in header.tensors
    ] == [
        (t.name, tuple(map(int, t.shape)), t.tensor_type.name, t.n_bytes, t.data_offset)
        for t in theirs.tensors
    ]
    assert header.expected_bytes == path.stat().st_size


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    for kind, (name, block, block_bytes) in TENSOR_TYPES.items():
        # The package is behind in Q2_0 and pads Q8_1, which no file holds.
        if name not in {"Q2_0", "Q8_1"}:
            theirs = gguf.GGMLQuantizationType(kind)
            assert theirs.name == name
            assert gguf.GGML_QUANT_SIZES[theirs] == (block, block_bytes)


def test_facts_of_the_starter(starter_path: Path) -> None:
    header = read_model(starter_path)
    assert header.n_params == 134_515_008
    assert (header.n_vocab, header.n_layer, header.n_ctx_train) == (49_152, 30, 8_192)
    assert (header.quantisation, header.architecture) == ("Q4_1", "llama")
    assert header.chat_template is not None
    assert "<|im_start|>" in header.chat_template


def test_quantisation_is_guessed_from_the_weights_where_the_file_does_not_say(place: Path) -> None:
    place.write_bytes(SMALL)
    assert read_model(place).quantisation == "Q8_0"


def test_every_shorter_file_is_refused_as_cut_short(place: Path) -> None:
    for length in range(4, len(SMALL)):
        assert "cut short" in refused(place, SMALL[:length]) or length < 24, length
    reason = refused(place, SMALL[:-1])
    assert f"{len(SMALL) - 1:,} bytes of {len(SMALL):,}" in reason


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"lmgg" + bytes(100), "old GGML"),
        (b"PK\x03\x04" + bytes(100), "no GGUF"),
        (b"GG", "no GGUF"),
        (SMALL.replace(b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), "big-endian"),
        (file_of([ARCHITECTURE], [tensor("a", (1,))], bytes(4), version=1), "version 1"),
        (file_of([ARCHITECTURE], [tensor("a", (1,))], bytes(4), version=4), "version 4"),
        (file_of([ARCHITECTURE], []), "no weights"),
        (file_of([], [tensor("a", (1,))], bytes(4)), "architecture"),
        (file_of([ARCHITECTURE, ARCHITECTURE], [tensor("a", (1,))], bytes(4)), "twice"),
        (
            file_of([ARCHITECTURE], [tensor("a", (8,)), tensor("a", (8,), 0, 32)], bytes(64)),
            "twice",
        ),
        (file_of([ARCHITECTURE], [tensor("a", (8,), 0, 64)], bytes(128)), "its place"),
        (file_of([ARCHITECTURE], [tensor("a", (8,), 4)], bytes(128)), "unknown type 4"),
        (file_of([ARCHITECTURE], [tensor("a", (33,), 8)], bytes(128)), "bad shape"),
        (file_of([ARCHITECTURE], [tensor("a", (1, 1, 1, 1, 1))], bytes(128)), "dimensions"),
        (file_of([ARCHITECTURE], [tensor("a", (2**40, 2**40))], bytes(128)), "bad shape"),
        (file_of([ARCHITECTURE], [tensor("a", (2**63, 0))], bytes(128)), "bad shape"),
        (file_of([ARCHITECTURE], [tensor("a" * 64, (1,))], bytes(128)), "name of 64"),
        (
            file_of(
                [ARCHITECTURE, entry("general.alignment", U32, struct.pack("<I", 24))],
                [tensor("a", (1,))],
                bytes(128),
            ),
            "alignment 24",
        ),
        (
            file_of([ARCHITECTURE, entry("x", ARRAY, struct.pack("<IQ", ARRAY, 1))], []),
            "unknown type 9",
        ),
        (
            file_of(
                [entry("general.architecture", STRING, text("clip"))], [tensor("a", (1,))], b"1234"
            ),
            "goes with one",
        ),
        (
            file_of(
                [ARCHITECTURE, entry("general.type", STRING, text("adapter"))],
                [tensor("a", (1,))],
                b"1234",
            ),
            "adapter",
        ),
    ],
)
def test_what_is_wrong_is_said(place: Path, data: bytes, words: str) -> None:
    assert words in refused(place, data)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="no such file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(BadFileError, match="folder"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF" + struct.pack("<IQQ", 3, 2**63, 1) + bytes(100),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 2**64 - 1) + bytes(100),
        file_of([ARCHITECTURE, entry("x", STRING, struct.pack("<Q", 2**62))], []) + bytes(100),
        file_of([ARCHITECTURE, entry("x", ARRAY, struct.pack("<IQ", U32, 2**61))], []) + bytes(100),
        file_of([ARCHITECTURE, entry("x", ARRAY, struct.pack("<IQ", STRING, 2**60))], [])
        + bytes(9),
        file_of([ARCHITECTURE], [struct.pack("<Q", 2**60)]) + bytes(100),
    ],
)
def test_absurd_counts_cost_no_memory(place: Path, data: bytes) -> None:
    tracemalloc.start()
    refused(place, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One piece of reading (1 MiB) and small change; the claims are for exabytes.
    assert peak < 4 * 2**20


def test_a_header_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    # 2 GiB of zeros on the disk's books, none on the disk; one string claims to be all of them.
    place = tmp_path / "huge.gguf"
    with place.open("wb") as file:
        file.write(file_of([ARCHITECTURE, entry("x", STRING, struct.pack("<Q", 2**30))], []))
        file.truncate(2**31)
    with pytest.raises(BadFileError, match="header is larger"):
        read_header(place)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_header_is_read_or_refused_and_nothing_else(
    place: Path, data: st.DataObject
) -> None:
    damaged = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(SMALL) - 1))
        damaged[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    place.write_bytes(damaged)
    try:
        header = read_header(place)
    except BadFileError:
        return
    assert header.file_bytes >= header.expected_bytes


JUDGE = """
import ctypes, pathlib, sys
import llama_cpp

class Params(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]

folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
library = next(p for p in sorted(folder.iterdir()) if p.name.startswith("libggml-base."))
ggml = ctypes.CDLL(str(library))
ggml.gguf_init_from_file.restype = ctypes.c_void_p
ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, Params]
ggml.gguf_free.argtypes = [ctypes.c_void_p]
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    context = ggml.gguf_init_from_file(str(path).encode(), Params(True, None))
    print(path.name, int(bool(context)), flush=True)
    if context:
        ggml.gguf_free(context)
"""


def test_whatever_llama_cpp_refuses_is_refused_here_too(tmp_path: Path) -> None:
    rng = random.Random(5)
    for number in range(400):
        damaged = bytearray(SMALL)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(4, len(damaged))] = rng.choice([0, 1, 2, 8, 9, 33, 127, 255])
        (tmp_path / f"{number:03}").write_bytes(damaged)
    run = subprocess.run(
        [sys.executable, "-c", JUDGE, str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    accepted = dict(line.split() for line in run.stdout.splitlines())
    assert len(accepted) == 400
    assert set(accepted.values()) == {"0", "1"}
    for path in sorted(tmp_path.iterdir()):
        try:
            read_header(path)
        except BadFileError:
            continue
        assert accepted[path.name] == "1", path.read_bytes()


def test_the_fingerprint_changes_with_any_of_metadata_weights_and_size(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    original = tiny_models["llama"].read_bytes()
    header = read_model(tiny_models["llama"])
    seen = {header.fingerprint, read_model(tiny_models["draft"]).fingerprint}
    for at in (original.index(b"tiny llama"), header.data_offset, len(original) - 9):
        changed = bytearray(original)
        changed[at] ^= 1
        place = tmp_path / f"{at}.gguf"
        place.write_bytes(changed)
        seen.add(read_model(place).fingerprint)
    longer = tmp_path / "longer.gguf"
    longer.write_bytes(original + b"\0")
    seen.add(read_model(longer).fingerprint)
    assert len(seen) == 6
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(original)
    assert read_model(copy).fingerprint == header.fingerprint


def test_a_model_in_parts_is_read_from_its_first_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", split_max_tensors=2)
    for name in "abc":
        writer.add_tensor(name, rng.normal(size=(4, 8)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first, second = sorted(tmp_path.iterdir())
    assert shard_paths(first, 2) == [first, second]
    header = read_model(first)
    assert sorted(t.name for t in header.tensors) == ["a", "b", "c"]
    assert header.file_bytes == first.stat().st_size + second.stat().st_size
    with pytest.raises(BadFileError, match="part 2 of 2"):
        read_model(second)
    second.unlink()
    with pytest.raises(BadFileError, match="no such file"):
        read_model(first)
