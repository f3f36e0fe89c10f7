"""Markdown is cut into the right blocks, the same ones however it arrives."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from quietdesk_tui.blocks import (
    CODE_LIMIT,
    PARAGRAPH_LIMIT,
    TABLE_LIMIT,
    Block,
    Document,
    Kind,
    clean,
    split_row,
)

LINES = st.sampled_from(
    [
        "", "", "words here", "more *words*", "# Title", "### Third", "- one", "- two", "  - inner",
        "1. first", "2. second", "   inside", "```", "```python", "x = 1", "    indented", "> said",
        "> - item", "| a | b |", "|---|---|", "| 1 | 2 |", "---", "***", "===", "~~~", "a | b",
        "**bold", "`code", "* star", "+ plus", "10) ten", "中文。", "\ttab", "  ", "[x](y)",
    ]
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=25).map("\n".join)


def shape(document: Document) -> list[tuple[object, ...]]:
    return [
        (block.kind, block.lines, block.indent, block.marker, block.gap, block.info, block.level)
        for block in document.blocks
    ]


def kinds(text: str) -> list[Kind]:
    return [block.kind for block in Document(text, whole=True).blocks]


@given(TEXTS, st.data())
def test_the_blocks_do_not_depend_on_how_the_text_arrives(text: str, data: st.DataObject) -> None:
    piecewise = Document()
    rest = text
    while rest:
        size = data.draw(st.integers(1, max(len(rest), 1)))
        piecewise.feed(rest[:size])
        rest = rest[size:]
    piecewise.finish()
    assert shape(piecewise) == shape(Document(text, whole=True))


@given(TEXTS)
def test_blocks_that_are_said_to_be_untouched_do_not_change(text: str) -> None:
    document = Document()
    for character in text:
        before = list(document.blocks)
        looks = shape(document)
        untouched = document.feed(character)
        assert document.blocks[:untouched] == before[:untouched]
        assert shape(document)[:untouched] == looks[:untouched]
        # All that a reader of the blocks has to look at again are the last few.
        assert len(document.blocks) - untouched <= 4


@given(TEXTS)
def test_no_word_is_lost(text: str) -> None:
    document = Document(text, whole=True)
    kept = " ".join(block.text + block.info for block in document.blocks)
    for word in ("words", "Title", "first", "said", "inner", "中文"):
        assert kept.count(word) == text.count(word)


def test_a_long_line_is_cut_the_same_way_however_it_arrives() -> None:
    text = "One sentence of a few words. " * 600 + "\n\nEnd"
    whole = Document(text, whole=True)
    piecewise = Document()
    for start in range(0, len(text), 7):
        piecewise.feed(text[start : start + 7])
    piecewise.finish()
    assert shape(piecewise) == shape(whole)
    words = " ".join(block.text for block in whole.blocks).split()
    assert words == text.split()
    assert max(len(block.text) for block in whole.blocks) <= 2 * PARAGRAPH_LIMIT


BLOCKS = st.lists(
    st.one_of(
        st.sampled_from(["alpha beta", "gamma *delta*\nepsilon", "中文。"]).map(lambda t: t),
        st.integers(1, 6).map(lambda level: "#" * level + " heading"),
        st.sampled_from(["```python\nx = 1\n\ny = 2\n```", "~~~\ncode\n~~~"]),
        st.sampled_from(["- a\n- b\n- c", "1. a\n2. b", "- a\n  - b\n  - c\n- d"]),
        st.just("| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"),
        st.sampled_from(["> quoted\n> words"]),
        st.just("***"),
    ),
    max_size=8,
)


@given(BLOCKS)
def test_blocks_are_those_of_commonmark(parts: list[str]) -> None:
    """markdown-it is the truth for documents whose blocks are set apart as it asks for."""
    text = "\n\n<!-- -->\n\n".join(parts)
    expected: list[tuple[str, str]] = []
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    in_quote = in_table = 0
    for number, token in enumerate(tokens):
        match token.type:
            case "blockquote_open":
                in_quote += 1
            case "blockquote_close":
                in_quote -= 1
                expected.append(("quote", "quoted\nwords"))
            case "table_open":
                in_table += 1
                expected.append(("table", ""))
            case "table_close":
                in_table -= 1
            case "fence":
                expected.append(("code", token.content.rstrip("\n")))
            case "hr":
                expected.append(("rule", ""))
            case "inline" if not in_quote and not in_table:
                kind = "heading" if tokens[number - 1].type == "heading_open" else "paragraph"
                expected.append((kind, token.content))
    found = [
        (block.kind.value, "" if block.kind is Kind.TABLE else block.text)
        for block in Document(text, whole=True).blocks
        if block.text != "<!-- -->"
    ]
    assert found == expected


def test_list_items_are_blocks_with_their_markers() -> None:
    document = Document("- a\n- b\n  1. c\n  2. d\n     - e\n- f", whole=True)
    assert [(block.text, block.marker.strip(), block.indent) for block in document.blocks] == [
        ("a", "•", 2),
        ("b", "•", 2),
        ("c", "1.", 6),
        ("d", "2.", 6),
        ("e", "▪", 8),
        ("f", "•", 2),
    ]


def test_numbers_go_on_as_in_commonmark() -> None:
    document = Document("3. a\n3. b\n3. c", whole=True)
    assert [block.marker.strip() for block in document.blocks] == ["3.", "4.", "5."]


def test_a_sloppily_indented_list_is_still_an_inner_list() -> None:
    document = Document("1. Outer\n  - inner\n2. Next", whole=True)
    assert [block.marker.strip() for block in document.blocks] == ["1.", "◦", "2."]


def test_code_inside_an_item_stands_in_it() -> None:
    item, code = Document("1. Run\n   ```sh\n   ls -l\n     x\n   ```", whole=True).blocks
    assert (item.kind, code.kind, code.lines) == (Kind.PARAGRAPH, Kind.CODE, ["ls -l", "  x"])
    assert code.indent == item.indent and code.info == "sh"


def test_an_open_fence_takes_everything() -> None:
    (code,) = Document("```\n# no heading\n- no item\n", whole=True).blocks
    assert code.lines == ["# no heading", "- no item"]


def test_a_line_of_dashes_never_turns_text_into_a_heading() -> None:
    assert kinds("Text\n---\nmore") == [Kind.PARAGRAPH, Kind.RULE, Kind.PARAGRAPH]


def test_a_number_in_the_middle_of_a_paragraph_is_no_list() -> None:
    assert kinds("It was the year\n1984. It was cold.") == [Kind.PARAGRAPH]


def test_bars_alone_make_no_table() -> None:
    assert kinds("a | b\nc | d") == [Kind.PARAGRAPH]


@pytest.mark.parametrize(
    ("kind", "line", "limit"),
    [
        (Kind.CODE, "x = {n}\n", 3 * CODE_LIMIT),
        (Kind.TABLE, "| {n} | b |\n", TABLE_LIMIT + 2),
        (Kind.PARAGRAPH, "- item {n}\n", 1),
        (Kind.QUOTE, "> line {n}\n>\n", 3 * CODE_LIMIT),
    ],
)
def test_no_block_grows_without_bound(kind: Kind, line: str, limit: int) -> None:
    heads = {Kind.CODE: "```python\n", Kind.TABLE: "| a | b |\n|---|---|\n"}
    text = heads.get(kind, "") + "".join(line.format(n=n) for n in range(1000))
    blocks = Document(text, whole=True).blocks
    assert {block.kind for block in blocks} == {kind}
    assert max(len(block.lines) for block in blocks) <= limit
    for before, block in pairwise(blocks):
        assert block.continues in {before, None}
    kept = sum(f"{n}" in block.text for n in (0, 999) for block in blocks)
    assert kept >= 2


def test_nothing_undecided_is_shown_while_it_streams() -> None:
    document = Document()
    document.feed("Text\n\n``")
    assert [block.text for block in document.blocks] == ["Text"]
    document.feed("`python\nx")
    assert [block.kind for block in document.blocks] == [Kind.PARAGRAPH, Kind.CODE]


def test_marks_at_the_end_are_shown_once_nothing_comes_after_them() -> None:
    document = Document()
    document.feed("a\n\n#")
    document.finish()
    assert [block.kind for block in document.blocks] == [Kind.PARAGRAPH, Kind.HEADING]


@settings(max_examples=50)
@given(st.text(max_size=200))
def test_any_text_at_all_makes_blocks_without_controls(text: str) -> None:
    blocks: list[Block] = Document(text, whole=True).blocks
    for block in blocks:
        assert "\x1b" not in block.text + block.info


def test_what_steers_a_terminal_is_taken_out() -> None:
    assert clean("a\x1b[31mb\x07c\u202ed\r\ne\x9bf\tg") == "a[31mbcd\nef\tg"


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("| a | b |", ["a", "b"]),
        ("a|b", ["a", "b"]),
        (r"| a \| c | b |", ["a | c", "b"]),
        ("| a | |", ["a", ""]),
        ("||", [""]),
    ],
)
def test_a_row_is_split_at_its_bars(row: str, cells: list[str]) -> None:
    assert split_row(row) == cells
