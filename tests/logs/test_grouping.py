"""What belongs to one conversation is brought together, in memory or not, and nothing is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.logs import grouping
from quietdesk.logs.grouping import Groups, Piece
from quietdesk.logs.problem import Kind
from quietdesk.logs.reading import read

pairs = st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=20)), max_size=60)


@given(pairs, st.sampled_from([1, 300, 2000, 1 << 30]))
@settings(deadline=None)
def test_every_piece_is_found_once_under_its_key_in_order(
    given_pairs: list[tuple[str, bytes]], memory: int
) -> None:
    expected: dict[str, list[Piece]] = {}
    with Groups(1 << 20, memory) as groups:
        for i, (key, content) in enumerate(given_pairs):
            piece = Piece(i, None, content)
            groups.add(key, piece)
            expected.setdefault(key, []).append(piece)
        found = list(groups)
    assert {group.key: group.pieces for group in found} == expected
    assert len(found) == len(expected)
    if memory == 1 << 30:
        assert [group.key for group in found] == list(expected)


def test_one_conversation_that_is_too_large_is_reported_and_the_others_are_given() -> None:
    with Groups(100, memory_bytes=50) as groups:
        for i in range(20):
            groups.add("large", Piece(i, None, b"x" * 10))
        groups.add("small", Piece(20, None, b"y"))
        found = {group.key: group for group in groups}
    assert found["small"].problem is None
    problem = found["large"].problem
    assert problem is not None and problem.kind is Kind.TOO_LONG
    assert "'large'" in problem.reason


def test_rows_of_many_conversations_mixed_are_read_beyond_the_memory(
    write: Callable[[str, str | bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"c{i},{'bot' if turn % 2 else 'user'},{turn}" for turn in range(6) for i in range(200)]
    path = write("x.csv", "conversation_id,author,text\n" + "\n".join(rows))
    whole = {t.id: t for t in read([path])}
    monkeypatch.setattr(grouping.Groups.__init__, "__defaults__", (5_000, 0))
    parted = {t.id: t for t in read([path])}
    assert parted == whole
    assert all([m.text for m in t.messages] == list("012345") for t in parted.values())
