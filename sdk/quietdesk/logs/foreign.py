"""What the JSON of other programs says: texts, lists and the rest, whatever stands in their place.

Nothing here trusts a shape: a value of another type is a `BadRecordError` that names the field.
"""

from collections.abc import Collection, Mapping
from html import escape
from html.parser import HTMLParser
from typing import Any

import msgspec

from quietdesk.logs.problem import BadRecordError, Kind
from quietdesk.logs.record import CallRecord, PassageRecord, Record

Object = dict[str, Any]


def an_object(value: Any, what: str) -> Object:
    """An object; none counts as an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRecordError(Kind.SHAPE, f"{what} is {_kind(value)}, not an object.")
    return value


def a_list(value: Any, what: str) -> list[Any]:
    """A list; none counts as an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRecordError(Kind.SHAPE, f"{what} is {_kind(value)}, not a list.")
    return value


def objects(value: Any, what: str) -> list[Object]:
    """A list of objects."""
    return [
        an_object(item, f"Item {i + 1} of {what}") for i, item in enumerate(a_list(value, what))
    ]


def a_text(value: Any, what: str) -> str:
    """A text; a number as it is written, none as an empty one."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return json_text(value)
    raise BadRecordError(Kind.SHAPE, f"{what} is {_kind(value)}, not a text.")


def name_of(*values: Any) -> str | None:
    """The first of these that can be an id or a name, as text; numbers are written out."""
    for value in values:
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return json_text(value)
    return None


def texts(value: Any) -> tuple[str, ...]:
    """The texts of a list, or one text by itself; anything else is written as JSON."""
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(item if isinstance(item, str) else json_text(item) for item in items)


def number(value: Any) -> float | None:
    """A number, also where it is written as text; None for anything else."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None


def json_text(value: Any) -> str:
    """Compact JSON."""
    return msgspec.json.encode(value).decode()


def rest(value: Mapping[str, Any], used: Collection[str]) -> Object:
    """What an object says beyond the fields used; what says nothing is left out."""
    return {k: v for k, v in value.items() if k not in used and v not in (None, "", [], {})}


def keep(record: Record, name: str, value: Mapping[str, Any]) -> None:
    """Keep what has no place in the native form, in the metadata under the format's name."""
    if value:
        record.metadata.setdefault(name, {}).update(value)


def kept(record: Record, name: str) -> Object:
    """What `keep` kept for a format; a copy."""
    value = record.metadata.get(name)
    return dict(value) if isinstance(value, dict) else {}


def kept_messages(extra: Object) -> dict[int, Object]:
    """Take what a format kept for single messages out of `extra`, by the message's place."""
    found = extra.pop("messages", None)
    if not isinstance(found, dict):
        return {}
    return {int(k): v for k, v in found.items() if k.isdigit() and isinstance(v, dict)}


def content_text(content: Any, what: str) -> tuple[str, list[Any]]:
    """The text of a message's content, and the parts of it that are no text.

    Content is a text, or a list of parts, as OpenAI, Anthropic and LangChain write it.
    """
    if not isinstance(content, list):
        return a_text(content, what), []
    said: list[str] = []
    others: list[Any] = []
    for part in content:
        if isinstance(part, str):
            said.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            said.append(part["text"])
        elif isinstance(part, dict) and isinstance(part.get("refusal"), str):
            said.append(part["refusal"])
        else:
            others.append(part)
    return "\n".join(said), others


def tool_calls(value: Any, what: str) -> tuple[CallRecord, ...]:
    """Tool calls as OpenAI writes them, or as LangChain does."""
    calls = []
    for call in objects(value, what):
        function = an_object(call.get("function"), f"function in {what}") or call
        arguments = function.get("arguments", function.get("args", "{}"))
        calls.append(
            CallRecord(
                id=a_text(call.get("id"), f"id in {what}"),
                name=a_text(function.get("name"), f"name in {what}"),
                arguments=arguments if isinstance(arguments, str) else json_text(arguments),
            )
        )
    return tuple(calls)


def passages(value: Any) -> tuple[PassageRecord, ...]:
    """What a retriever found: texts, or objects with a text, a source, a score."""
    found = []
    for i, item in enumerate(value if isinstance(value, list) else []):
        if isinstance(item, str):
            found.append(PassageRecord(id=str(i + 1), text=item))
            continue
        if not isinstance(item, dict):
            continue
        inner = _inner(item, "document") or item
        about = _inner(inner, "metadata")
        text = next((inner[key] for key in _PASSAGE_TEXTS if isinstance(inner.get(key), str)), None)
        if text is None:
            continue
        line = inner.get("line")
        found.append(
            PassageRecord(
                id=name_of(inner.get("id"), about.get("id"), item.get("id")) or str(i + 1),
                text=text,
                source=name_of(inner.get("source"), about.get("source"), inner.get("url")) or "",
                line=line if isinstance(line, int) and 0 <= line < 2**63 else None,
                score=number(item.get("score", inner.get("score"))),
            )
        )
    return tuple(found)


def _inner(value: Object, key: str) -> Object:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


_PASSAGE_TEXTS = ("text", "page_content", "pageContent", "content", "snippet", "body")


def plain(html: str) -> str:
    """The text of HTML: paragraphs and line breaks stay, links keep their address."""
    if "<" not in html and "&" not in html:
        return html
    parser = _Plain()
    parser.feed(html)
    parser.close()
    return parser.text()


def html(text: str) -> str:
    """The HTML that `plain` reads as this text; runs of spaces become one where it must be HTML."""
    if "<" not in text and "&" not in text:
        return text
    return escape(text, quote=False).replace("\n", "<br>")


class _Plain(HTMLParser):
    """Gathers the text of HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden = 0
        self._link = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "style"}:
            self._hidden += 1
        elif tag in {"br", "p", "div", "li", "tr", "h1", "h2", "h3", "h4", "blockquote"}:
            self._parts.append("\n")
        elif tag == "a":
            self._link = dict(attrs).get("href") or ""
        elif tag == "img":
            self._parts.append(dict(attrs).get("alt") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"}:
            self._hidden = max(0, self._hidden - 1)
        elif tag in {"p", "div", "h1", "h2", "h3", "h4", "blockquote"}:
            self._parts.append("\n")
        elif tag == "a" and self._link:
            if self._link not in "".join(self._parts[-3:]):
                self._parts.append(f" ({self._link})")
            self._link = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(data)

    def text(self) -> str:
        rows = "".join(self._parts).split("\n")
        flat = [" ".join(row.split()) for row in rows]
        return "\n".join(row for i, row in enumerate(flat) if row or (i and flat[i - 1])).strip()


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, bool) or value is None:
        return json_text(value)
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return f"the number {value!r}"
