"""One block of Markdown as lines of styled text, as wide as the screen has room for.

Styles are names (`.strong`); whoever draws the lines knows their colours, so that a change of theme
does not lay anything out again.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Token as Pygments
from pygments.util import ClassNotFound
from rich.cells import cell_len
from textual.content import Content, Span
from textual.style import Style

from quietdesk_tui.blocks import Block, Document, Kind, split_row
from quietdesk_tui.wrapping import break_offsets, shorten

STYLES = (
    "strong",
    "emphasis",
    "struck",
    "inline-code",
    "link",
    "address",
    "heading-1",
    "heading-2",
    "heading-3",
    "marker",
    "quote",
    "quote-bar",
    "rule",
    "table-header",
    "table-rule",
    "code",
    "code-label",
    "code-keyword",
    "code-string",
    "code-number",
    "code-comment",
    "code-name",
    "code-type",
    "code-operator",
)
"""Names of the styles that lines are drawn in; in a span they stand with a dot in front."""

MINIMUM = 8
"""Cells that text gets at least, however deep it is indented."""
_CELL_MINIMUM = 5


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One line as it stands on the screen; equal to itself only, so that it is a cheap key."""

    content: Content
    fill: str = ""
    """Style of the room on its right."""
    lead: int = 0
    """Characters in front that only decorate: they are not copied."""
    glue: str | None = None
    """What joins it to the line before when it is copied; None: they are two lines."""


EMPTY = Line(Content(""))

_inline_parser = cache(
    lambda: MarkdownIt("gfm-like", {"html": False, "breaks": True, "linkify": True})
)


def render(block: Block, width: int, *, streaming: bool = False) -> list[Line]:
    """The lines of a block, the empty one in front of it aside.

    Args:
        block: What to show.
        width: Cells that there are, at least 2.
        streaming: Whether the block is being written: marks that are not closed yet are hidden.
    """
    indent = min(block.indent, max(width - MINIMUM, 0))
    room = max(width - indent, 2)
    lines = _render_kind(block, room, streaming and block.open)
    if not indent:
        return lines
    first, rest = Content.styled(block.marker.rjust(indent)[-indent:], ".marker"), " " * indent
    return [
        Line(
            (first if number == 0 and block.marker else Content(rest)) + line.content,
            line.fill,
            indent + line.lead if number or not block.marker else line.lead,
            line.glue,
        )
        for number, line in enumerate(lines)
    ]


def _render_kind(block: Block, width: int, streaming: bool) -> list[Line]:
    match block.kind:
        case Kind.PARAGRAPH:
            if streaming and _may_become_a_table(block):
                return []
            return wrap(inline(settle(block.text) if streaming else block.text), width)
        case Kind.HEADING:
            style = f".heading-{min(block.level, 3)}"
            return wrap(inline(block.text).stylize_before(style), width)
        case Kind.CODE:
            return _code(block, width)
        case Kind.TABLE:
            return _table(block, width)
        case Kind.QUOTE:
            return _quote(block, width, streaming)
        case Kind.RULE:
            return [Line(Content.styled("─" * width, ".rule"))]


def wrap(content: Content, width: int) -> list[Line]:
    """Content, which may have line ends, in lines of at most `width` cells."""
    lines: list[Line] = []
    for paragraph in content.split("\n", allow_blank=True) or [content]:
        offsets = break_offsets(paragraph.plain, width)
        pieces = paragraph.divide(offsets) if offsets else [paragraph]
        glue: str | None = None
        for piece in pieces:
            bare = piece.rstrip() if len(pieces) > 1 else piece
            lines.append(Line(bare, glue=glue))
            glue = " " if len(bare.plain) < len(piece.plain) else ""
    return lines


def inline(text: str) -> Content:
    """A paragraph's text with its marks turned into styles."""
    tokens = _inline_parser().parseInline(text)
    return _styled(tokens[0].children or []) if tokens else Content("")


def _styled(tokens: Sequence[Token]) -> Content:
    parts: list[str] = []
    spans: list[Span] = []
    opened: list[tuple[str | Style, int]] = []
    links: list[tuple[str, int]] = []
    position = 0

    def say(words: str) -> None:
        nonlocal position
        parts.append(words)
        position += len(words)

    for token in tokens:
        kind = token.type
        if kind in {"softbreak", "hardbreak"}:
            say("\n")
        elif kind == "code_inline":
            start = position
            say(token.content)
            spans.append(Span(start, position, ".inline-code"))
        elif kind == "image":
            say(f"[{token.content or 'image'}]")
            _say_address(str(token.attrs.get("src", "")), "", say, spans, position)
        elif kind == "link_open":
            links.append((str(token.attrs.get("href", "")), position))
        elif kind == "link_close":
            address, start = links.pop()
            spans.append(Span(start, position, ".link"))
            if _is_safe(address):
                spans.append(Span(start, position, Style(link=address)))
            _say_address(address, "".join(parts)[start:], say, spans, position)
        elif kind.endswith("_open"):
            opened.append((_MARKS.get(kind, ""), position))
        elif kind.endswith("_close"):
            style, start = opened.pop()
            spans.append(Span(start, position, style))
        else:
            say(token.content)
    return Content("".join(parts), spans)


_MARKS = {"strong_open": ".strong", "em_open": ".emphasis", "s_open": ".struck"}


def _is_safe(address: str) -> bool:
    return address.startswith(("http://", "https://", "mailto:"))


def _say_address(
    address: str, shown: str, say: Callable[[str], None], spans: list[Span], start: int
) -> None:
    """Show where a link leads, unless its words say so: nobody follows what they cannot read."""
    bare = address.removeprefix("mailto:")
    if not bare or bare.rstrip("/") in {shown.rstrip("/"), f"http://{shown.rstrip('/')}"}:
        return
    words = f" ({bare})"
    say(words)
    spans.append(Span(start, start + len(words), ".address"))


_OPEN_LINK = re.compile(r"\[([^\]\n]*)\](?:\([^)\s]*)?$")


def settle(text: str) -> str:
    """Text that is being written, as it will most likely look: what is open is closed."""
    start = text.rfind("\n\n") + 1
    head, tail = text[:start], text[start:]
    if tail.count("`") % 2:
        return head + (tail[:-1] if tail.endswith("`") else tail + "`")
    if (link := _OPEN_LINK.search(tail)) and "(" in link.group():
        tail = tail[: link.start()] + link[1]
    bare = tail.rstrip("*_~")
    marks = tail[len(bare) :]
    closers = "".join(mark for mark in ("~~", "**", "__") if bare.count(mark) % 2)
    if closers:
        return head + bare.rstrip() + closers
    if marks and bare.count(marks[0]) % 2 == 0:
        return head + bare
    return head + tail


def _may_become_a_table(block: Block) -> bool:
    """Whether the next line decides between text and a table: bars are not shown until then."""
    lines = block.lines
    return lines[-1].startswith("|") and len(lines) <= 2 and lines[0].startswith("|")


_TOKENS: dict[object, str] = {
    Pygments.Comment: ".code-comment",
    Pygments.Keyword: ".code-keyword",
    Pygments.Operator.Word: ".code-keyword",
    Pygments.Operator: ".code-operator",
    Pygments.Punctuation: ".code-operator",
    Pygments.Literal.String: ".code-string",
    Pygments.Literal.Number: ".code-number",
    Pygments.Keyword.Constant: ".code-number",
    Pygments.Name.Function: ".code-name",
    Pygments.Name.Tag: ".code-keyword",
    Pygments.Name.Attribute: ".code-name",
    Pygments.Name.Decorator: ".code-name",
    Pygments.Name.Class: ".code-type",
    Pygments.Name.Builtin: ".code-type",
    Pygments.Keyword.Type: ".code-type",
    Pygments.Name.Variable: ".code-name",
    Pygments.Generic.Inserted: ".code-string",
    Pygments.Generic.Deleted: ".code-keyword",
    Pygments.Generic.Heading: ".code-type",
    Pygments.Generic.Subheading: ".code-type",
}


@cache
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False, stripall=False, ensurenl=False)
    except ClassNotFound:
        return None


LIKELY = (
    *("python", "javascript", "typescript", "json", "bash", "html", "css", "sql", "yaml", "java"),
    *("c", "cpp", "csharp", "go", "rust", "php", "ruby", "kotlin", "scala", "swift"),
)
"""Languages that a reply may well be in."""


def load_lexers() -> None:
    """Load what knows the likely languages: the first use takes up to 150 ms for each."""
    for language in LIKELY:
        highlight("", language)


def highlight(code: str, language: str) -> Content:
    """Code in the colours of its language; plain where the language is not known."""
    lexer = _lexer(language) if language else None
    if lexer is None:
        return Content.styled(code, ".code")
    spans = [Span(0, len(code), ".code")]
    position = 0
    for token, value in lexer.get_tokens(code):
        end = position + len(value)
        kind = token
        while kind is not None and kind not in _TOKENS:
            kind = kind.parent
        if kind is not None:
            spans.append(Span(position, end, _TOKENS[kind]))
        position = end
    return Content(code, spans)


def _code(block: Block, width: int) -> list[Line]:
    language = block.info.split()[0] if block.info else ""
    code = "\n".join(line.expandtabs(4) for line in block.lines)
    edge = Content.styled(" ", ".code")
    lines: list[Line] = []
    if block.continues is None:
        label = shorten(language, max(width - 2, 0))
        pad = Content(" " * max(width - cell_len(label) - 1, 0))
        head = (pad + Content.styled(label, ".code-label") + edge).stylize_before(".code")
        lines.append(Line(head, ".code", len(head.plain)))
    for row in highlight(code, language).split("\n", allow_blank=True):
        offsets = _fold_offsets(row.plain, max(width - 2, 2))
        for number, piece in enumerate(row.divide(offsets) if offsets else [row]):
            lines.append(Line(edge + piece, ".code", 1, "" if number else None))
    return lines


def _fold_offsets(text: str, width: int) -> list[int]:
    """Where code is cut: exactly where the line ends, as words mean nothing there."""
    if text.isascii():
        return list(range(width, len(text), width))
    return break_offsets("".join("\u00a0" if c == " " else c for c in text), width)


def _quote(block: Block, width: int, streaming: bool) -> list[Line]:
    inner = Document(block.text, whole=not streaming)
    bar = Content.styled("▎ ", ".quote-bar")
    return [
        Line(bar + line.content.stylize_before(".quote"), line.fill, 2 + line.lead, line.glue)
        for line in render_all(inner.blocks, max(width - 2, 2), streaming=streaming)
    ]


def render_all(blocks: Sequence[Block], width: int, *, streaming: bool = False) -> list[Line]:
    """The lines of blocks, with the empty lines between them."""
    lines: list[Line] = []
    for block in blocks:
        if block.gap:
            lines.append(EMPTY)
        lines.extend(render(block, width, streaming=streaming))
    return lines


def _table(block: Block, width: int) -> list[Line]:
    first = block
    while first.continues is not None:
        first = first.continues
    header = [inline(cell) for cell in split_row(block.lines[0])]
    aligns = [_align(cell) for cell in split_row(block.lines[1])]
    rows = [_cells(line, len(header)) for line in block.lines[2:]]
    basis = rows if first is block else [_cells(line, len(header)) for line in first.lines[2:]]
    widths = _column_widths([header, *basis], width)
    if widths is None:
        return _records(header, rows, width)
    lines: list[Line] = []
    if block.continues is None:
        lines += _row([cell.stylize_before(".table-header") for cell in header], widths, aligns)
        rule = "─┼─".join("─" * column for column in widths)
        lines.append(Line(Content.styled(rule, ".table-rule"), lead=len(rule)))
    for row in rows:
        lines += _row(row, widths, aligns)
    return lines


def _align(cell: str) -> str:
    if cell.endswith(":"):
        return "center" if cell.startswith(":") else "right"
    return "left"


def _cells(line: str, count: int) -> list[Content]:
    cells = [inline(cell) for cell in split_row(line)[:count]]
    return cells + [Content("")] * (count - len(cells))


def _column_widths(rows: Sequence[Sequence[Content]], width: int) -> list[int] | None:
    """Cells for each column: what it wants, the widest ones giving way; None if none fit."""
    wanted = [max(cell.cell_length for cell in column) for column in zip(*rows, strict=True)]
    wanted = [max(column, 1) for column in wanted]
    room = width - 3 * (len(wanted) - 1)
    if room < _CELL_MINIMUM * len(wanted) and sum(wanted) > room:
        return None
    excess = sum(wanted) - room
    while excess > 0:
        widest = max(wanted)
        tall = [number for number, column in enumerate(wanted) if column == widest]
        lower = max((column for column in wanted if column < widest), default=0)
        step = max(min(widest - lower, -(-excess // len(tall))), 1)
        for number in tall:
            if excess <= 0:
                break
            cut = min(step, excess)
            wanted[number] -= cut
            excess -= cut
    return wanted


def _row(cells: Sequence[Content], widths: Sequence[int], aligns: Sequence[str]) -> list[Line]:
    wrapped = [
        [line.content for line in wrap(cell, max(column, 2))]
        for cell, column in zip(cells, widths, strict=True)
    ]
    bar = Content.styled(" │ ", ".table-rule")
    lines: list[Line] = []
    for number in range(max(map(len, wrapped))):
        pieces = []
        for column, (parts, width) in enumerate(zip(wrapped, widths, strict=True)):
            part = parts[number] if number < len(parts) else Content("")
            space = max(width - part.cell_length, 0)
            align = aligns[column] if column < len(aligns) else "left"
            left = {"left": 0, "right": space, "center": space // 2}[align]
            pieces.append(part.pad(left, space - left))
        lines.append(Line(bar.join(pieces)))
    return lines


def _records(
    header: Sequence[Content], rows: Sequence[Sequence[Content]], width: int
) -> list[Line]:
    """A table with too many columns for the screen: each row as a list of its cells."""
    lines: list[Line] = []
    for number, row in enumerate(rows):
        if number:
            lines.append(EMPTY)
        for name, cell in zip(header, row, strict=True):
            lines += wrap(name.stylize_before(".table-header") + ": " + cell, width)
    return lines
