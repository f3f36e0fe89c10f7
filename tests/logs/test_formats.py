"""Every format is recognised by its content, and read as its product's documentation has it."""

import bz2
import gzip
import lzma
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from quietdesk.errors import LogFormatError, UnknownNameError
from quietdesk.logs.detect import detect
from quietdesk.logs.format import Options
from quietdesk.logs.reading import read
from quietdesk.logs.source import Source
from quietdesk.types import Author, Transcript

FORMATS = {
    "native.jsonl": "native",
    "openai.jsonl": "openai",
    "sharegpt.json": "sharegpt",
    "langfuse.jsonl": "langfuse",
    "langsmith.jsonl": "langsmith",
    "rasa.json": "rasa",
    "rasa_broker.jsonl": "rasa",
    "zendesk.json": "zendesk",
    "zendesk_chat.jsonl": "zendesk",
    "intercom.json": "intercom",
    "chatwoot.json": "chatwoot",
    "chatwoot_webhook.jsonl": "chatwoot",
    "messages.csv": "csv",
    "pairs.tsv": "csv",
    "transcript.txt": "text",
}

SAID = {
    "native.jsonl": {
        "n-1": [
            "customer: Do you ship to Norway?",
            "bot: Yes, within five days.",
            "human: Anna here: the frame goes by freight.",
        ],
        "n-2": [
            "system: You answer for Acme Bikes.",
            "customer: 价格是多少? 🙂",
            "bot: ",
            "tool: 899",
            "bot: 899 元。",
        ],
    },
    "openai.jsonl": {
        "openai.jsonl:1": [
            "system: You answer for Acme Bikes.",
            "customer: My chain slips.",
            "bot: Which gear does it slip in?",
            "customer: The third.",
            "bot: ",
            'tool: {"name":"Sykkelfix"}',
            "bot: Sykkelfix in Oslo can adjust it.",
            "human: I booked you in for Tuesday.",
        ],
        "chatcmpl-9": ["customer: Opening hours?", "bot: Nine to six."],
        "req-3": ["customer: Refund?", "bot: Within thirty days."],
    },
    "sharegpt.json": {
        "s-1": [
            "system: You answer for Acme Bikes.",
            "customer: Is the B-12 in stock?",
            "bot: ",
            'tool: {"left": 3}',
            "bot: Three are left.",
        ],
        "sharegpt.json:2": ["customer: Thanks", "bot: You are welcome."],
    },
    "langfuse.jsonl": {
        "lf-1": [
            "system: You answer for Acme Bikes.",
            "customer: Where is order 17?",
            "bot: It left on Monday.",
            "customer: When will it arrive?",
            "bot: On Thursday.",
        ],
        "t-3": ["customer: Do you sell bells?", "bot: Yes, in brass."],
    },
    "langsmith.jsonl": {
        "ls-1": [
            "customer: My lock is stuck.",
            "bot: Use graphite, not oil.",
            "customer: It worked!",
            "bot: Good to hear.",
        ],
        "r-4": ["customer: Hello?", "bot: Hello."],
    },
    "rasa.json": {
        "c-11#1": ["customer: where is my order", "bot: It left on Monday."],
        "c-11#2": ["customer: a person please", "human: Anna here.", "customer: thanks"],
    },
    "rasa_broker.jsonl": {
        "a": ["customer: hi", "bot: Hello."],
        "b": ["customer: bye", "bot: Good bye."],
    },
    "zendesk.json": {
        "35436": [
            "customer: A spoke broke.",
            "bot: Which wheel is it?",
            "human: We send you a new wheel.",
            "customer: I am her husband: thank you.",
        ],
    },
    "zendesk_chat.jsonl": {
        "2603.10502.TjYvz7nEtoHMI": [
            "customer: Anyone there?",
            "bot: Someone is with you shortly.",
            "human: Hello Kim.",
        ],
        "2603.10503.Q": ["customer: Please call me."],
    },
    "intercom.json": {
        "1295": [
            "customer: Does the helmet fit a child?\n\nHe is 6 & tall.",
            "bot: It fits from 50 cm. Size chart (https://acme.example/size)",
            "human: Measure twice!",
        ],
    },
    "chatwoot.json": {
        "7": [
            "customer: My tyre is flat.",
            "bot: How old is it?",
            "human: We have that size.",
            "bot: Please rate the conversation",
        ],
    },
    "chatwoot_webhook.jsonl": {"8": ["customer: Hi", "human: Hello Kim!"]},
    "messages.csv": {
        "k-1": [
            "customer: Hello; is the shop open?\r\nI come by train.",
            'bot: Yes, "all day".',
        ],
        "k-2": ["customer: Bonjour", "human: Bonjour, ici Anna."],
    },
    "pairs.tsv": {
        "pairs.tsv:2": ['customer: Do you repair "fixies"?', "bot: Yes."],
        "pairs.tsv:3": ["customer: Hvor er dere?", "bot: I Oslo."],
    },
    "transcript.txt": {
        "1": [
            "customer: Hello,\nis the shop open?",
            "bot: Yes, until six.\nOrder number: please have it ready.",
            "human: I can help, too.",
        ],
        "transcript.txt:10": ["customer: One more thing.", "bot: Yes?"],
    },
}


def said(transcript: Transcript) -> list[str]:
    return [f"{message.author}: {message.text}" for message in transcript.messages]


def only(path: Path, name: str) -> Transcript:
    return next(transcript for transcript in read([path]) if transcript.id == name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_log_is_read_as_its_format_describes_it(logs_folder: Path, name: str) -> None:
    reading = read([logs_folder / name])
    assert {t.id: said(t) for t in reading} == SAID[name]
    assert reading.n_rejected == 0
    assert set(reading.formats.values()) == {FORMATS[name]}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_known_by_its_content_and_not_its_name(
    logs_folder: Path, tmp_path: Path, name: str
) -> None:
    path = shutil.copy(logs_folder / name, tmp_path / "export.dat")
    assert detect(Source(path)).format == FORMATS[name]


@pytest.mark.parametrize("name", ["native.jsonl", "sharegpt.json", "messages.csv"])
@pytest.mark.parametrize("how", ["gzip", "zstd", "bz2", "xz", "utf-8-sig", "utf-16", "utf-32"])
def test_compression_and_encoding_make_no_difference(
    logs_folder: Path, tmp_path: Path, name: str, how: str
) -> None:
    content = (logs_folder / name).read_bytes()
    if how.startswith("utf"):
        changed = content.decode().encode(how)
    elif how == "xz":
        changed = lzma.compress(content[:100]) + lzma.compress(content[100:])
    elif how == "bz2":
        changed = bz2.compress(content)
    elif how == "gzip":
        changed = gzip.compress(content[:100]) + gzip.compress(content[100:])
    else:
        changed = pa.compress(content, codec=how, asbytes=True)
    path = tmp_path / name
    path.write_bytes(changed)
    assert {t.id: said(t) for t in read([path])} == SAID[name]


def test_what_a_native_line_says_is_all_there(logs_folder: Path) -> None:
    transcript = only(logs_folder / "native.jsonl", "n-1")
    first, second, third = transcript.messages
    assert first.labels == first.predictions == {"intent": ("shipping",)}
    assert second.ratings == (4.0, 5.0)
    assert second.references == ("Yes, in three to five days.",)
    assert (second.passages[0].source, second.passages[0].line) == ("shipping.md", 4)
    assert third.created_at == datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
    assert transcript.metadata == {"channel": "web", "language": "en"}
    assert transcript.customer == "c-7" and transcript.ratings == (5.0,)


def test_openai_keeps_calls_references_and_what_has_no_place(logs_folder: Path) -> None:
    first = only(logs_folder / "openai.jsonl", "openai.jsonl:1")
    assert first.messages[4].tool_calls[0].name == "find_workshop"
    kept = first.metadata["openai"]
    assert kept["tools"][0]["function"]["name"] == "find_workshop"
    assert kept["messages"]["2"] == {"weight": 0}
    assert kept["messages"]["3"]["content"][0]["type"] == "image_url"
    assert kept["messages"]["5"] == {"tool_call_id": "call_1"}
    second = only(logs_folder / "openai.jsonl", "chatcmpl-9")
    assert second.messages[1].references == ("We are open from nine to six.",)
    assert second.customer == "c-9"
    assert second.metadata["channel"] == "app" and second.metadata["model"] == "gpt-4.1-mini"
    assert second.metadata["openai"]["choices"] == [{"finish_reason": "stop"}]


def test_langfuse_gives_passages_ratings_labels_and_latency(logs_folder: Path) -> None:
    transcript = only(logs_folder / "langfuse.jsonl", "lf-1")
    assert transcript.customer == "c-3"
    assert transcript.metadata["tags"] == ["web"] and transcript.metadata["language"] == "en"
    _, _, first, asked, second = transcript.messages
    assert first.passages[0].text == "Order 17 left on Monday."
    assert first.passages[0].source == "orders.md"
    assert second.ratings == (1.0,) and second.labels == {"tone": ("friendly",)}
    assert second.created_at is not None and asked.created_at is not None
    assert (second.created_at - asked.created_at).total_seconds() == 2.5


def test_langsmith_gives_passages_and_feedback(logs_folder: Path) -> None:
    transcript = only(logs_folder / "langsmith.jsonl", "ls-1")
    assert transcript.customer == "c-5" and transcript.metadata["tags"] == ["beta"]
    assert transcript.messages[1].passages[0].text == "Graphite frees a stuck lock."
    assert transcript.messages[1].ratings == (0.0,)


def test_rasa_gives_intents_channel_and_keeps_other_events(logs_folder: Path) -> None:
    first = only(logs_folder / "rasa.json", "c-11#1")
    assert first.messages[0].predictions == {"intent": ("order_status",)}
    assert first.customer == "c-11" and first.metadata["channel"] == "rest"
    kept = first.metadata["rasa"]
    slot = next(event for event in kept["events"] if event["event"] == "slot")
    assert slot == {
        "at": 1,
        "event": "slot",
        "timestamp": 1772442001.1,
        "name": "order",
        "value": "17",
    }
    assert kept["messages"]["1"]["data"]["buttons"][0]["title"] == "Thanks"


def test_zendesk_keeps_internal_comments_out_of_the_conversation(logs_folder: Path) -> None:
    ticket = only(logs_folder / "zendesk.json", "35436")
    assert ticket.customer == "20978392"
    assert ticket.labels == {"satisfaction": ("good",)}
    assert ticket.metadata["tags"] == ["wheel", "warranty"]
    [note] = ticket.metadata["zendesk"]["notes"]
    assert note["text"] == "Still in warranty, I think." and note["at"] == 2


def test_intercom_gives_the_rating_and_keeps_notes(logs_folder: Path) -> None:
    conversation = only(logs_folder / "intercom.json", "1295")
    assert conversation.ratings == (4.0,) and conversation.customer == "c-21"
    kept = conversation.metadata["intercom"]
    assert [part["part_type"] for part in kept["parts"]] == ["assignment", "note"]
    assert kept["conversation_rating"]["remark"] == "fine"


def test_chatwoot_gives_the_survey_and_keeps_private_notes(logs_folder: Path) -> None:
    conversation = only(logs_folder / "chatwoot.json", "7")
    assert conversation.ratings == (5.0,) and conversation.customer == "31"
    others = conversation.metadata["chatwoot"]["others"]
    assert [other["content"] for other in others] == ["Assigned to Anna", "She buys often."]


def test_a_table_gives_ratings_references_labels_and_slices(logs_folder: Path) -> None:
    first = only(logs_folder / "messages.csv", "k-1")
    assert first.messages[1].ratings == (4.0,) and first.metadata == {"channel": "web"}
    pair = only(logs_folder / "pairs.tsv", "pairs.tsv:2")
    assert pair.messages[1].references == ("Yes, we do.",)
    assert pair.messages[1].labels == {"intent": ("repair",)}
    assert pair.metadata == {"language": "en"}


def test_columns_can_be_named(write: Callable[[str, str | bytes], Path]) -> None:
    path = write("x.csv", "Case,Wer,Was,Klasse\n1,user,Hallo,gruss\n1,agent,Moin,\n")
    with pytest.raises(LogFormatError, match=r"--column"):
        list(read([path]))
    options = Options(columns={"id": "Case", "author": "Wer", "text": "Was", "labels.g": "Klasse"})
    [transcript] = read([path], options=options)
    assert said(transcript) == ["customer: Hallo", "human: Moin"]
    assert transcript.messages[0].labels == {"g": ("gruss",)}


def test_speakers_can_be_named(write: Callable[[str, str | bytes], Path]) -> None:
    path = write("x.txt", "Anna: Hello\nKim: Hi\nAnna: How are you?\nKim: Fine\n")
    with pytest.raises(LogFormatError, match="--format"):
        list(read([path]))
    with pytest.raises(LogFormatError, match="--author 'anna'=customer"):
        list(read([path], format="text"))
    options = Options(authors={"anna": Author.HUMAN, "kim": Author.CUSTOMER})
    [transcript] = read([path], options=options)
    assert said(transcript)[:2] == ["human: Hello", "customer: Hi"]


def test_a_format_that_is_not_known_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'langfuse'"):
        read([], format="langfuze")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("[]", "no records"),
        ('{"a": 1}\n{"a": 2}\n', "with the fields a"),
        ("What is this?\n", "none of the formats"),
        (b"\x7fELF\x00\x00", "neither text nor Parquet"),
        ("a,b\n1,2\n", "looks like a table"),
    ],
)
def test_what_is_no_log_is_refused_with_the_reason(
    write: Callable[[str, str | bytes], Path], content: str | bytes, reason: str
) -> None:
    with pytest.raises(LogFormatError, match=reason):
        list(read([write("x", content)]))
