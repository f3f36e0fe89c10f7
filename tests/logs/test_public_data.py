"""Logs that nobody here wrote are read whole; skipped where the public sets are not at hand."""

import gzip
import json
import tarfile
from pathlib import Path

from quietdesk import columns
from quietdesk.logs.format import Options
from quietdesk.logs.reading import read
from quietdesk.types import Author


def test_agent_trajectories_are_read_as_plain_transcripts(
    shared_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "all.txt"
    shown = []
    for log in sorted((shared_data / "tau_trajectories").rglob("*.jsonl.gz")):
        with gzip.open(log, "rt") as file:
            shown += [json.loads(line)["messages_display"] for line in file]
    path.write_text("\n---\n".join(shown))
    reading = read([path])
    found = list(reading)
    assert reading.formats == {str(path): "text"}
    assert len(found) == len(shown) and reading.n_rejected == 0
    words = {"user": Author.CUSTOMER, "assistant": Author.BOT, "tool": Author.TOOL}
    for transcript, text in zip(found, shown, strict=True):
        begun = [row.partition(":")[0] for row in text.split("\n")]
        said = [message.author for message in transcript.messages]
        assert said == [words[word] for word in begun if word in words]
        assert len("".join(m.text for m in transcript.messages)) < len(text)


def test_service_dialogues_are_read_as_chat_messages(shared_data: Path, tmp_path: Path) -> None:
    who = {"User": "user", "Wizard": "assistant", "KnowledgeBase": "tool"}
    path = tmp_path / "star.jsonl.gz"
    n_messages = 0
    with (
        tarfile.open(shared_data / "star" / "dev" / "dialogues.tar.gz") as archive,
        gzip.open(path, "wt") as file,
    ):
        for count, member in enumerate(archive):
            opened = archive.extractfile(member)
            if opened is None or not member.name.endswith(".json"):
                continue
            dialogue = json.load(opened)
            said = [
                {"role": who[event["Agent"]], "content": event["Text"]}
                for event in dialogue["Events"]
                if event.get("Agent") in who and isinstance(event.get("Text"), str)
            ]
            n_messages += len(said)
            json.dump({"id": str(dialogue["DialogueID"]), "messages": said}, file)
            file.write("\n")
            if count > 500:
                break
    reading = read([path])
    batches = list(reading.batches())
    assert reading.n_rejected == 0
    assert sum(len(columns.message_rows(batch).rows) for batch in batches) == n_messages


def test_questions_with_intents_are_read_as_a_table(shared_data: Path) -> None:
    options = Options(columns={"question": "text", "labels.intent": "category"})
    reading = read([shared_data / "banking77" / "dev" / "train.csv"], options=options)
    found = list(reading)
    assert len(found) == 10_003 and reading.n_rejected == 0
    assert len({t.messages[0].labels["intent"] for t in found}) == 77


def test_customer_turns_without_quotes_are_read_as_a_table(shared_data: Path) -> None:
    path = shared_data / "multidogo" / "dev" / "airline" / "dev.tsv.gz"
    with gzip.open(path, "rt") as file:
        header, *rows = file.read().rstrip("\n").split("\n")
    names = header.split("\t")
    text = next(name for name in names if "utterance" in name.lower())
    reading = read([path], options=Options(columns={"question": text}))
    said = [t.messages[0].text for t in reading]
    assert said == [row.split("\t")[names.index(text)] for row in rows]
