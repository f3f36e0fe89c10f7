"""Facts: what must not be lost when turns go: names, numbers to look things up by, promises.

Found by fixed rules, in English and for the commonest phrases in Chinese, German, French and
Spanish. The rules miss facts told in other ways: pin the message (`Message.pinned`) where that
matters.
"""

import re
from dataclasses import dataclass
from typing import Literal

from quietdesk.types import Author, Message

_LONGEST = 20_000
"""Letters of a message that are read; what is pasted behind is no conversation."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to remember."""

    kind: Literal["name", "number", "promise", "contact"]
    text: str

    def __str__(self) -> str:
        return self.text


_NUMBER = re.compile(
    r"(?i:\b((?:order|ticket|case|invoice|booking|reservation|tracking|account|customer|reference"
    r"|ref|serial|policy|contract|claim|confirmation|member(?:ship)?|flight"
    r"|bestell|auftrags|rechnungs|kunden|commande|facture|pedido|factura)[a-z]{0,10})"
    r"[ ]?(?:(?:number|no|nr|num|id|code|nummer|numéro|número|is|was|ist|est|es)\b\.?|[#:=.\s])"
    r"{0,6})([A-Za-z0-9][A-Za-z0-9/_-]{2,30})"
)
_HASH = re.compile(r"(?<![\w#])#(\d{3,20})\b")
_CODE = re.compile(r"\b([A-Z]{2,6}-?\d{3,20}(?:-[A-Z0-9]{1,10}){0,3})\b")
_NUMBER_ZH = re.compile(
    r"(订单|工单|运单|快递|发票|合同|会员)(?:编?号码?)?[是为：:\s]{0,3}([A-Za-z0-9][A-Za-z0-9-]{3,30})"
)
_NAME = re.compile(
    r"(?i:\b(?:my name is|my name's|i am called|mein name ist|ich hei(?:ß|ss)e|je m['’]appelle"
    r"|mon nom est|me llamo|mi nombre es)) +"
    r"((?:[^\W\d_][\w'’-]{0,30})(?: [^\W\d_][\w'’-]{0,30}){0,3})"
)
_NAME_HERE = re.compile(
    r"\b(?:[Tt]his is|[Ii]t's|[Ii]t is) ((?:[A-ZÀ-Ý][\w'’-]{1,30})(?: [A-ZÀ-Ý][\w'’-]{1,30}){0,3})"
    r"(?= (?:speaking|here|again|from|calling)\b)"
)
_NAME_ZH = re.compile(r"(?:我叫|我的名字是)([\u4e00-\u9fff]{2,4})")
_NAME_ENDS = frozenset(
    {
        *("and", "i", "my", "from", "the", "of", "with", "but", "here", "calling", "writing"),
        *("for", "at", "in", "on", "is", "to", "und", "ich", "et", "je", "y", "yo"),
    }
)
"""Words that are no part of a name any more."""
_MAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b")
_PHONE = re.compile(r"(?<![\w-])\+?\d[\d ()/.-]{6,20}\d(?![\w-])")
_PROMISE = re.compile(
    r"(?i:\b(?:i|we|you)(?:['’]ll| will| shall)\b|\b(?:i|we) (?:promise|guarantee)\b"
    r"|\b(?:i|we)(?:['’]ve| have) (?:arranged|issued|scheduled|approved|ordered|booked)\b"
    r"|\bwill be (?:refunded|sent|shipped|credited|replaced|delivered|waived)\b"
    r"|\b(?:wir|ich) werden?\b|\b(?:nous allons|je vais|nous vous)\b|\b(?:vamos a|le enviaremos)\b)"
    r"|我们会|我会|将会|保证|承诺"
)
_WEIGHT = re.compile(
    r"(?i:refund|ship|send|sent|deliver|replac|credit|call|contact|e-?mail|waive|discount|free"
    r"|compensat|cancel|exten|repair|fix|return|by |within|until|before|tomorrow|today|monday"
    r"|tuesday|wednesday|thursday|friday|saturday|sunday|erstatt|schick|rembours|envo|reembols"
    r"|\d)|退款|发货|补发|寄|赔|换|联系|内|前"
)
_SENTENCE = re.compile(
    r"[^.!?。！？\n]{1,400}(?:[.!?](?=\S)[^.!?。！？\n]{1,400}){0,8}[.!?。！？]{0,3}"
)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, roughly: a dot inside a word or a number ends none."""
    found = (match[0].strip() for match in _SENTENCE.finditer(text[:_LONGEST]))
    return [sentence for sentence in found if sentence]


def facts_of(message: Message) -> list[Fact]:
    """The facts that a message tells, each once, in the order of their kinds."""
    text = message.text[:_LONGEST]
    facts: list[Fact] = []
    if message.author is Author.CUSTOMER:
        facts += [Fact("name", f"customer's name: {name}") for name in _names(text)]
    if message.author in {Author.BOT, Author.HUMAN}:
        facts += [
            Fact("promise", f"promised: {sentence[:240]}")
            for sentence in sentences_of(text)
            if _PROMISE.search(sentence) and _WEIGHT.search(sentence)
        ]
    if message.author is not Author.SYSTEM:
        facts += [Fact("number", number) for number in _numbers(text)]
        facts += [Fact("contact", f"e-mail: {match[0]}") for match in _MAIL.finditer(text)]
        facts += [
            Fact("contact", f"phone: {match[0]}")
            for match in _PHONE.finditer(text)
            if sum(letter.isdigit() for letter in match[0]) >= 8
        ]
    return list(dict.fromkeys(facts))


def _names(text: str) -> list[str]:
    found = [match[1] for match in _NAME.finditer(text)]
    found += [match[1] for match in _NAME_HERE.finditer(text)]
    names = [match[1] for match in _NAME_ZH.finditer(text)]
    for words in (name.split() for name in found):
        ends = [place for place, word in enumerate(words) if word.casefold() in _NAME_ENDS]
        kept = words[: ends[0]] if ends else words
        if kept:
            names.append(" ".join(kept))
    return names


def _numbers(text: str) -> list[str]:
    found: list[tuple[str, str]] = []
    for pattern in (_NUMBER, _NUMBER_ZH):
        for match in pattern.finditer(text):
            number = match[2].rstrip("-/_")
            if sum(letter.isdigit() for letter in number) >= 2:
                found.append((match[1].casefold(), number))
    named = " ".join(number for _, number in found)
    found += [
        ("reference", match[1])
        for pattern in (_HASH, _CODE)
        for match in pattern.finditer(text)
        if match[1] not in named
    ]
    return [f"{_labelled(label)}: {number}" for label, number in found]


def _labelled(label: str) -> str:
    """`order number` of `order`; words that say it already, in German or Chinese, stay."""
    return f"{label} number" if label.isascii() and not label.endswith("nummer") else label
