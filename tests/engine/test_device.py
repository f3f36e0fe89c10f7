"""The plan keeps to what there is, and tells why."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietdesk.engine.device import MAX_DEFAULT_CTX, MAX_DEFAULT_SEQ, Machine, machine, plan
from quietdesk_models.gguf import Header, read_header


@pytest.fixture(scope="module")
def header(tiny_models: dict[str, Path]) -> Header:
    return read_header(tiny_models["llama"])


def test_what_is_set_is_taken(header: Header) -> None:
    chosen = plan(header, machine(), n_ctx=100, n_seq=3, n_threads=5, kv_type="q8_0")
    assert (chosen.n_ctx, chosen.n_seq, chosen.n_threads) == (100, 3, 5)
    assert {c.reason for c in chosen.choices if c.name in ("n_ctx", "n_seq")} == {"as set"}


@given(memory=st.integers(0, 2**40), cores=st.integers(1, 256))
def test_the_defaults_fit_the_machine(header: Header, memory: int, cores: int) -> None:
    here = Machine("any", "any", cores, memory)
    chosen = plan(header, here)
    assert 1 <= chosen.n_seq <= MAX_DEFAULT_SEQ
    assert chosen.n_ctx == min(header.n_ctx_train, MAX_DEFAULT_CTX)
    assert chosen.n_threads == cores
    one = plan(header, here, n_seq=1).needed_bytes
    assert chosen.n_seq == 1 or chosen.needed_bytes - one <= memory / 8
    assert all(choice.reason for choice in chosen.choices)


def test_more_context_and_finer_numbers_need_more_memory(header: Header) -> None:
    here = machine()
    small = plan(header, here, n_ctx=256, n_seq=1).needed_bytes
    assert plan(header, here, n_ctx=4096, n_seq=1).needed_bytes > small
    assert plan(header, here, n_ctx=256, n_seq=8).needed_bytes > small
    assert plan(header, here, n_ctx=256, n_seq=1, kv_type="f32").needed_bytes > small


def test_the_machine_is_seen() -> None:
    here = machine()
    assert here.cores >= 1
    assert here.memory_bytes > 2**28
