"""Blocks become lines that fit, with the right styles, and with nothing hidden from the reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.content import Content

from quietdesk_tui.blocks import Document
from quietdesk_tui.markdown import STYLES, Line, inline, render_all, settle

SOURCES = st.lists(
    st.sampled_from(
        [
            "# A heading that is long enough to wrap",
            "Words with **strong**, *soft* and `code` marks, and ~~no more~~.",
            "- an item of some length that has to wrap somewhere",
            "  1. inner\n     ```py\n     print('a rather long line of code', 1, 2, 3)\n     ```",
            "> a quotation with words\n> - and an item",
            "| a | b | c |\n|---|:-:|--:|\n| 1 | a long cell with words | 3 |\n| 中文 | 😊 | x |",
            "---",
            "中文段落，没有空格，但是很长很长，所以必须换行。",
            "https://example.com/a/very/long/address/that/cannot/be/broken/at/a/space",
            "👨\u200d👩\u200d👧 emoji ❤️ and more",
        ]
    ),
    min_size=1,
    max_size=5,
).map("\n\n".join)


def lines(text: str, width: int = 60) -> list[Line]:
    return render_all(Document(text, whole=True).blocks, width)


def shown(text: str, width: int = 60) -> list[str]:
    return [line.content.plain.rstrip() for line in lines(text, width)]


def styled(content: Content, style: str) -> list[str]:
    return [content.plain[span.start : span.end] for span in content.spans if span.style == style]


@given(SOURCES, st.integers(12, 100))
def test_no_line_is_wider_than_the_screen(text: str, width: int) -> None:
    for line in lines(text, width):
        assert cell_len(line.content.plain) <= width


@given(st.text(max_size=120), st.integers(2, 60))
def test_any_text_can_be_shown_at_any_width(text: str, width: int) -> None:
    for line in lines(text, width):
        assert 0 <= line.lead <= len(line.content.plain)


@given(SOURCES)
def test_every_style_has_a_name_that_the_style_sheet_knows(text: str) -> None:
    for line in lines(text):
        names = {span.style for span in line.content.spans if isinstance(span.style, str)}
        assert {name.removeprefix(".") for name in names} <= set(STYLES)


def test_marks_become_styles() -> None:
    content = inline("a **b** *c* `d` ~~e~~")
    assert content.plain == "a b c d e"
    assert [
        styled(content, name) for name in (".strong", ".emphasis", ".inline-code", ".struck")
    ] == [["b"], ["c"], ["d"], ["e"]]


def test_a_line_end_in_a_paragraph_is_kept() -> None:
    assert shown("Dear Ms Lee,\nthank you.") == ["Dear Ms Lee,", "thank you."]


def test_a_link_shows_where_it_leads() -> None:
    assert shown("[terms](https://example.com/t)") == ["terms (https://example.com/t)"]


def test_an_address_that_is_its_own_words_is_shown_once() -> None:
    assert shown("See https://example.com/t now") == ["See https://example.com/t now"]
    assert shown("<https://example.com/t>") == ["https://example.com/t"]


def test_only_addresses_of_the_web_can_be_clicked() -> None:
    def links(text: str) -> list[str | None]:
        return [getattr(span.style, "link", None) for span in inline(text).spans]

    assert "https://example.com" in links("[a](https://example.com)")
    assert not any(links("[a](file:///etc/passwd)"))


def test_a_link_that_hides_another_one_is_seen_through() -> None:
    text = "[https://bank.example](https://evil.example)"
    assert shown(text) == ["https://bank.example (https://evil.example)"]


def test_markup_of_other_kinds_is_plain_text() -> None:
    assert shown("[bold]x[/bold] <b>y</b>") == ["[bold]x[/bold] <b>y</b>"]


def test_list_items_hang_on_their_markers() -> None:
    assert shown("- one two three four\n  - five\n1. six", 12) == [
        "• one two",
        "  three four",
        "  ◦ five",
        " 1. six",
    ]


def test_code_keeps_its_spaces_and_names_its_language() -> None:
    label, first, second = shown("```python\nif x:\n    y = 1\n```", 30)
    assert label.endswith("python") and (first, second) == (" if x:", "     y = 1")


def test_code_is_coloured_by_its_language() -> None:
    code = lines("```python\ndef f(): return 'x'  # y\n```")[1].content
    assert styled(code, ".code-keyword") == ["def", "return"]
    assert styled(code, ".code-comment") == ["# y"]


def test_an_unknown_language_is_plain_code() -> None:
    code = lines("```quux\ndef f()\n```")[1].content
    assert {span.style for span in code.spans} == {".code"}


def test_a_table_is_aligned_as_its_rule_says() -> None:
    assert shown("| Name | N | P |\n|---|:-:|--:|\n| a | b | 1.50 |\n| ccccc | ddd | 2 |") == [
        "Name  │  N  │    P",
        "──────┼─────┼─────",
        "a     │  b  │ 1.50",
        "ccccc │ ddd │    2",
    ]


def test_a_wide_table_wraps_in_its_cells() -> None:
    text = "| a | b |\n|---|---|\n| " + "word " * 12 + "| " + "other " * 12 + "|"
    for line in shown(text, 40)[2:]:
        assert "│" in line and cell_len(line) <= 40


def test_a_table_with_too_many_columns_becomes_a_list_of_its_cells() -> None:
    names = [f"column{n}" for n in range(8)]
    row = "|".join(f"value{n}" for n in range(8))
    text = "|" + "|".join(names) + "|\n" + "|---" * 8 + "|\n|" + row + "|"
    assert shown(text, 30)[:2] == ["column0: value0", "column1: value1"]


def test_a_long_table_keeps_its_columns_from_piece_to_piece() -> None:
    rows = "".join(f"| {n} | name {n} |\n" for n in range(180))
    text = f"| number | name |\n|---|---|\n{rows}"
    bars = {line.index("│") for line in shown(text) if "│" in line}
    assert len(bars) == 1
    assert sum("number" in line for line in shown(text)) == 1


def test_a_quotation_has_its_bar_on_every_line() -> None:
    assert all(line.startswith("▎ ") for line in shown("> a b c d e f g\n> h", 8))


def test_decoration_is_not_copied() -> None:
    for line in lines("- item\n\n> quoted\n\n| a |\n|---|\n| b |\n\n```py\nx\n```"):
        assert not set(line.content.plain[line.lead :]) & set("▎─")


@pytest.mark.parametrize(
    ("so_far", "settled"),
    [
        ("so **", "so "),
        ("so **bold", "so **bold**"),
        ("so **bold*", "so **bold**"),
        ("so **bold**", "so **bold**"),
        ("run `ls", "run `ls`"),
        ("run `", "run "),
        ("see [the page](https://exam", "see the page"),
        ("see [the page](https://example.com)", "see [the page](https://example.com)"),
        ("2 * 3", "2 * 3"),
        ("~~gone", "~~gone~~"),
        ("first **a**\n\nthen **b", "first **a**\n\nthen **b**"),
    ],
)
def test_open_marks_are_closed_while_it_streams(so_far: str, settled: str) -> None:
    assert settle(so_far) == settled


def test_no_bar_of_a_table_flickers_as_text() -> None:
    document = Document()
    document.feed("| a | b |\n|--")
    assert render_all(document.blocks, 40, streaming=True) == []
    document.feed("-|---|\n| 1 | 2")
    assert [line.content.plain for line in render_all(document.blocks, 40, streaming=True)] == [
        "a │ b",
        "──┼──",
        "1 │ 2",
    ]
