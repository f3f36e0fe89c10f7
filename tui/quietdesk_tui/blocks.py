"""Cuts Markdown that grows at its end into small blocks, of which only the last ones still change.

A reply is shown while it is written. What it costs to take one more token must not grow with what
was said before, so everything is cut into blocks of bounded size: each list item, pieces of a long
code block, of a long table and of a very long paragraph are blocks of their own. The same text
gives the same blocks however it was fed.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

PARAGRAPH_LIMIT = 1200
"""Characters after which a paragraph is cut at the next end of a sentence."""
CODE_LIMIT = 48
"""Lines after which a code block is cut at the next line that is not indented."""
TABLE_LIMIT = 50
"""Rows after which a table is cut."""


class Kind(StrEnum):
    """What a block is."""

    PARAGRAPH = "paragraph"
    HEADING = "heading"
    CODE = "code"
    TABLE = "table"
    QUOTE = "quote"
    RULE = "rule"


@dataclass(slots=True, eq=False)
class Block:
    """A piece of Markdown without its outer marks."""

    kind: Kind
    lines: list[str] = field(default_factory=list)
    """A paragraph's, heading's or quote's text, code, or a table's rows with header and rule."""
    indent: int = 0
    """Cells that the list items around it take on its left."""
    marker: str = ""
    """Of a list item's first block: its bullet or number, as wide as the item's own indent."""
    gap: bool = False
    """Whether an empty line stands before it."""
    info: str = ""
    """Of code: the language."""
    level: int = 0
    """Of a heading: 1 to 6."""
    continues: "Block | None" = None
    """The block that this one is a further piece of."""
    open: bool = True
    """Whether more may come."""

    @property
    def text(self) -> str:
        """Its lines as one text."""
        return "\n".join(self.lines)


@dataclass(frozen=True, slots=True)
class _Item:
    """A list item that the current line may stand in."""

    marker_column: int
    content_column: int
    indent: int
    depth: int
    number: int | None


_FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*([^`]*)$")
_HEADING = re.compile(r"(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_RULE = re.compile(r"(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_MARKER = re.compile(r"([-*+]|(\d{1,9})[.)])(?:([ \t]+)|$)")
_UNDERLINE = re.compile(r"=+[ \t]*$")
_DELIMITER = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
_UNDECIDED = re.compile(r"[ \t]*(?:`+|~+|#{1,6}|[-*+_]+|\d{1,9}[.)]?|=+|>+|\|)[ \t]*$")
_SENTENCE_END = re.compile(r"[.!?]['\")\]]*\s+|[。！？][”’」』）]*")
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\u2028\u2029\ud800-\udfff]"
)
_BULLETS = "•◦▪"


def clean(text: str) -> str:
    """Text without the characters that would steer the terminal or turn the reading direction."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n"))


class Document:
    """Markdown as blocks, fed piece by piece.

    Attributes:
        blocks: So far, in order. All but the last ones that `feed` says it changed are final.
    """

    def __init__(self, text: str = "", *, whole: bool = False) -> None:
        """Start with a text.

        Args:
            text: What is known already.
            whole: Whether nothing comes after it.
        """
        self.blocks: list[Block] = []
        self._items: list[_Item] = []
        self._blank = False
        self._fence: tuple[str, int, int] | None = None
        self._inside_line = False
        self._rest = ""
        self._restore: _Snapshot | None = None
        if text:
            self.feed(text)
        if whole:
            self.finish()

    def feed(self, text: str) -> int:
        """Take the next piece.

        Returns:
            The number of blocks in front that this call did not touch.
        """
        self._roll_back()
        untouched = max(len(self.blocks) - 1, 0)
        *whole, self._rest = (self._rest + clean(text)).split("\n")
        for line in whole:
            self._line(self._take_parts(line))
            self._inside_line = False
        self._rest = self._take_parts(self._rest)
        if self._rest and not _UNDECIDED.match(self._rest):
            self._restore = _Snapshot.of(self)
            self._line(self._rest)
        return untouched

    def finish(self) -> int:
        """Nothing more comes: what was held back as undecided is shown as it stands."""
        self._roll_back()
        untouched = max(len(self.blocks) - 1, 0)
        if self._rest:
            self._line(self._rest)
        self._rest = ""
        if self.blocks:
            self.blocks[-1].open = False
        return untouched

    def _roll_back(self) -> None:
        if self._restore is not None:
            self._restore.apply(self)
            self._restore = None

    def _take_parts(self, line: str) -> str:
        """Settle the beginning of a line that is too long to be read again and again; the rest."""
        while len(line) > 2 * PARAGRAPH_LIMIT:
            place = _cut_place(line)
            self._line(line[:place])
            self._inside_line = True
            line = line[place:]
        return line

    def _add(self, block: Block) -> Block:
        if self.blocks:
            self.blocks[-1].open = False
        block.gap = bool(self.blocks) and block.continues is None and self._wants_gap(block)
        self.blocks.append(block)
        self._blank = False
        return block

    def _wants_gap(self, block: Block) -> bool:
        before = self.blocks[-1]
        if before.kind is Kind.HEADING and block.kind is not Kind.HEADING:
            return before.level <= 2
        apart = (Kind.HEADING, Kind.CODE, Kind.TABLE, Kind.QUOTE, Kind.RULE)
        return self._blank or block.kind in apart or before.kind in apart

    def _current(self, *kinds: Kind) -> Block | None:
        """The last block, if it can go on with the next line and is of one of these kinds."""
        if not self.blocks or self._blank:
            return None
        block = self.blocks[-1]
        goes_on = block.open and block.kind in kinds and block.indent == self._indent()
        return block if goes_on else None

    def _line(self, line: str) -> None:
        if self._fence is not None:
            self._code_line(line)
        elif self._inside_line:
            self._paragraph(line)
        elif not line.strip():
            self._blank = True
        else:
            self._text_line(line.expandtabs(4))

    def _code_line(self, line: str) -> None:
        assert self._fence is not None
        mark, length, column = self._fence
        bare = line.strip()
        if len(bare) >= length and bare == mark * len(bare) and not self._inside_line:
            self._fence = None
            self.blocks[-1].open = False
            return
        block = self.blocks[-1]
        held = len(block.lines)
        if held >= CODE_LIMIT and (line[:1].strip() or held >= 3 * CODE_LIMIT):
            block = self._add(
                Block(Kind.CODE, indent=block.indent, info=block.info, continues=block)
            )
        margin = 0 if self._inside_line else min(column, len(line) - len(line.lstrip(" ")))
        block.lines.append(line[margin:])

    def _text_line(self, line: str) -> None:
        column = len(line) - len(line.lstrip(" "))
        rest = line[column:].rstrip(" ")
        marks = bool(_MARKER.match(rest)) and not _RULE.match(rest)
        while self._items:
            item = self._items[-1]
            if column >= item.content_column or column >= item.marker_column + 2:
                break
            if marks and column >= item.marker_column - 1:
                # The next item of the same list: `_item` takes its place, and counts on.
                break
            if not marks and self._current(Kind.PARAGRAPH) and not _starts_block(rest):
                break
            self._items.pop()
        base = self._items[-1].content_column if self._items else 0
        if column >= base + 4 and not marks and not self._current(Kind.PARAGRAPH):
            self._indented_code(line[base + 4 :])
            return
        self._start(rest, column, "")

    def _indented_code(self, code: str) -> None:
        block = self.blocks[-1] if self.blocks else None
        if block is not None and block.open and block.kind is Kind.CODE:
            if self._blank:
                block.lines.append("")
            self._blank = False
            block.lines.append(code)
        else:
            self._add(Block(Kind.CODE, [code], indent=self._indent()))

    def _indent(self) -> int:
        return self._items[-1].indent if self._items else 0

    def _start(self, rest: str, column: int, marker: str) -> None:
        """Take a line's text, the list items around it known, a new item's marker given."""
        indent = self._indent()
        if not marker and self._underlines(rest):
            # `---` is a rule here, as models mean it, and never makes a heading of what is above.
            title = self.blocks[-1]
            title.kind, title.level, title.open = Kind.HEADING, 1, False
        elif _RULE.match(rest):
            self._add(Block(Kind.RULE, indent=indent, marker=marker)).open = False
        elif (match := _MARKER.match(rest)) and self._may_interrupt(match, marker):
            self._item(rest, column, match)
        elif match := _FENCE.match(rest):
            self._add(Block(Kind.CODE, indent=indent, marker=marker, info=match[2].strip().lower()))
            self._fence = (match[1][0], len(match[1]), column)
        elif match := _HEADING.match(rest):
            heading = Block(Kind.HEADING, [match[2] or ""], indent, marker, level=len(match[1]))
            self._add(heading).open = False
        elif rest.startswith(">"):
            self._quote(rest[1:].removeprefix(" "), indent, marker)
        elif not marker and "|" in rest and self._current(Kind.TABLE):
            self._row(rest)
        elif not marker and self._opens_table(rest):
            self._table(rest)
        elif not marker and (quote := self._current(Kind.QUOTE)):
            quote.lines.append(rest)
        else:
            self._paragraph(rest, marker)

    def _underlines(self, rest: str) -> bool:
        block = self._current(Kind.PARAGRAPH)
        return block is not None and len(block.lines) == 1 and bool(_UNDERLINE.match(rest))

    def _may_interrupt(self, match: re.Match[str], marker: str) -> bool:
        """Whether a marker begins an item here: only bullets and `1.` interrupt a paragraph."""
        if marker or self._items or not self._current(Kind.PARAGRAPH):
            return True
        return bool(match[3]) and match[2] in {None, "1"}

    def _item(self, rest: str, column: int, match: re.Match[str]) -> None:
        while self._items and column < self._items[-1].marker_column + 2:
            sibling = self._items.pop()
            if column >= sibling.marker_column - 1:
                number = sibling.number
                break
        else:
            number = None
        depth = len(self._items) + 1
        spaces = match[3] or " "
        width = len(match[1]) + (len(spaces) if len(spaces) <= 4 else 1)
        if match[2] is None:
            number, marker = None, f"{_BULLETS[min(depth, len(_BULLETS)) - 1]} "
        else:
            number = int(match[2]) if number is None else number + 1
            marker = f"{number}. ".rjust(4)
        indent = self._indent()
        self._items.append(_Item(column, column + width, indent + len(marker), depth, number))
        self._start(rest[match.end() :].lstrip(" "), column + width, marker)

    def _quote(self, text: str, indent: int, marker: str) -> None:
        block: Block | None = None if marker else self._current(Kind.QUOTE)
        if block is not None and len(block.lines) >= CODE_LIMIT and not text.strip():
            block = self._add(Block(Kind.QUOTE, indent=indent, continues=block))
        if block is None:
            block = self._add(Block(Kind.QUOTE, indent=indent, marker=marker))
        block.lines.append(text)

    def _opens_table(self, rest: str) -> bool:
        block = self._current(Kind.PARAGRAPH)
        if block is None or not _DELIMITER.match(rest) or "-" not in rest:
            return False
        header = block.lines[-1]
        return "|" in header and len(split_row(header)) == len(split_row(rest))

    def _table(self, rest: str) -> None:
        paragraph = self.blocks[-1]
        header = paragraph.lines.pop()
        if paragraph.lines:
            self._add(Block(Kind.TABLE, [header, rest], indent=paragraph.indent))
        else:
            paragraph.kind = Kind.TABLE
            paragraph.lines = [header, rest]
            paragraph.gap = paragraph.gap or len(self.blocks) > 1

    def _row(self, rest: str) -> None:
        table = self.blocks[-1]
        if len(table.lines) >= TABLE_LIMIT + 2:
            table = self._add(
                Block(Kind.TABLE, table.lines[:2], indent=table.indent, continues=table)
            )
        table.lines.append(rest)

    def _paragraph(self, text: str, marker: str = "") -> None:
        block = None if marker else self._current(Kind.PARAGRAPH)
        if block is None:
            block = self._add(Block(Kind.PARAGRAPH, indent=self._indent(), marker=marker))
        elif self._inside_line or sum(map(len, block.lines)) > PARAGRAPH_LIMIT:
            block = self._add(Block(Kind.PARAGRAPH, indent=block.indent, continues=block))
        if block.lines == [""]:
            block.lines.pop()
        block.lines.append(text)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What a document was before it took a line that is not finished yet."""

    count: int
    last: tuple[Kind, list[str], bool, int, bool] | None
    items: list[_Item]
    blank: bool
    fence: tuple[str, int, int] | None

    @classmethod
    def of(cls, document: Document) -> "_Snapshot":
        last = None
        if document.blocks:
            block = document.blocks[-1]
            last = (block.kind, list(block.lines), block.gap, block.level, block.open)
        return cls(
            len(document.blocks),
            last,
            list(document._items),
            document._blank,
            document._fence,
        )

    def apply(self, document: Document) -> None:
        del document.blocks[self.count :]
        if self.last is not None:
            block = document.blocks[-1]
            block.kind, block.lines, block.gap, block.level, block.open = self.last
        document._items = self.items
        document._blank = self.blank
        document._fence = self.fence


def _starts_block(rest: str) -> bool:
    return bool(
        rest.startswith(">") or _FENCE.match(rest) or _HEADING.match(rest) or _RULE.match(rest)
    )


def _cut_place(text: str) -> int:
    """Where a long line is cut: after a sentence, else after a word, else anywhere."""
    for match in _SENTENCE_END.finditer(text, PARAGRAPH_LIMIT, 2 * PARAGRAPH_LIMIT):
        return match.end()
    space = text.rfind(" ", PARAGRAPH_LIMIT, 2 * PARAGRAPH_LIMIT)
    return space + 1 if space > 0 else 2 * PARAGRAPH_LIMIT


def split_row(row: str) -> list[str]:
    r"""The cells of a table's row; `\|` is a bar in a cell."""
    cells = re.split(r"(?<!\\)\|", row.strip().removeprefix("|"))
    if row.rstrip().endswith("|") and not row.rstrip().endswith("\\|"):
        cells.pop()
    return [cell.strip().replace("\\|", "|") for cell in cells]
