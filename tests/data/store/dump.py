"""Dump a small database of the current schema as SQL, for tests of later migrations.

Once per new revision, before it is committed:

    python tests/data/store/dump.py [postgresql://...]

writes `sqlite_REVISION.sql` or `postgresql_REVISION.sql` beside this file. The content is the same
for every revision, and `content.json` says what it is.
"""

import json
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from quietdesk.store import schema
from quietdesk.store.sql import open_store
from quietdesk.types import (
    Author,
    ContextItem,
    ContextOutcome,
    ContextReport,
    ConversationInfo,
    FinishReason,
    KeptScore,
    Message,
    ToolCall,
    Usage,
)

HERE = Path(__file__).parent
START = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)


def conversations() -> list[tuple[ConversationInfo, list[Message]]]:
    """What every dump holds."""
    found = []
    for number in range(4):
        moment = START + timedelta(hours=number)
        info = ConversationInfo(
            id=f"c-{number}",
            title=f"Order {4711 + number}",
            customer=f"k-{number % 2}",
            system="You answer for Acme Bikes.",
            created_at=moment,
            updated_at=moment + timedelta(minutes=5),
            metadata={"tags": ["web", f"t{number}"], "status": "open", "n": number},
        )
        said = Message(
            id=f"q-{number}",
            author=Author.CUSTOMER,
            text="Wo ist mein Päckchen? 我要退货",
            created_at=moment,
        )
        reply = Message(
            id=f"r-{number}",
            author=Author.BOT,
            text="On its way 🚲, it's \x00 here.",
            created_at=moment,
            parent_id=said.id,
            finish_reason=FinishReason.STOP,
            tool_calls=(ToolCall(id="t", name="find", arguments='{"order": 4711}'),),
            usage=Usage(prompt_tokens=20, cached_tokens=5, completion_tokens=7, decode_s=0.5),
            context=ContextReport(
                n_ctx=2048,
                prompt_tokens=20,
                reply_reserve=512,
                policy="rolling-window",
                template="model",
                items=(
                    ContextItem(
                        id=said.id, kind="message", outcome=ContextOutcome.PINNED, tokens=9
                    ),
                ),
            ),
            model="smollm2-135m",
        )
        other = reply.model_copy(
            update={"id": f"s-{number}", "text": "Another version.", "context": None}
        )
        human = Message(
            id=f"h-{number}",
            author=Author.HUMAN,
            text="A person here.",
            created_at=moment,
            parent_id=reply.id,
            pinned=True,
        )
        found.append((info, [said, reply, other, human][: 4 if number % 2 else 3]))
    return found


def scores() -> dict[str, list[KeptScore]]:
    """What every dump since 0003 holds beside its conversations."""
    return {
        "c-0": [
            KeptScore(metric="turns", value=1.5, at=START, fingerprint="f"),
            KeptScore(metric="apologies", message_id="r-0", cause=True, at=START),
        ]
    }


def main() -> None:
    """Write one dump, and the content if it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        database = sys.argv[1] if len(sys.argv) > 1 else str(Path(folder) / "q.db")
        store = open_store(database)
        store.import_conversations(conversations())
        store.keep_scores(scores())
        store.delete("c-2")
        content = [store.export_customer(customer) for customer in ("k-0", "k-1")]
        store.close()
        expected = HERE / "content.json"
        if not expected.exists():
            expected.write_text(json.dumps(content, indent=1) + "\n")
        if len(sys.argv) > 1:
            done = subprocess.run(
                ["pg_dump", "--no-owner", "--no-privileges", "--inserts", database],
                capture_output=True,
                text=True,
                check=True,
            )
            lines = [line for line in done.stdout.splitlines() if line and line[0] not in "-\\"]
            (HERE / f"postgresql_{schema.HEAD}.sql").write_text("\n".join(lines) + "\n")
        else:
            (HERE / f"sqlite_{schema.HEAD}.sql").write_text(sqlite_dump(database))


def sqlite_dump(database: str) -> str:
    """SQL that makes the same database; the search index through its virtual table."""
    with closing(sqlite3.connect(database)) as connection:
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        lines = [f"PRAGMA application_id = {mark};", "BEGIN;"]
        made = connection.execute(
            "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL "
            "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'search\\_%' ESCAPE '\\' "
            "ORDER BY rowid"
        ).fetchall()
        lines += [f"{sql};" for _, _, sql in made]
        for name, kind, _ in made:
            if kind != "table":
                continue
            hidden = "rowid, " if name == "search" else ""
            rows = connection.execute(f'SELECT {hidden}* FROM "{name}" ORDER BY rowid')
            columns = ", ".join(f'"{column[0]}"' for column in rows.description)
            for row in rows.fetchall():
                values = ", ".join(
                    connection.execute("SELECT quote(?)", (value,)).fetchone()[0] for value in row
                )
                lines.append(f'INSERT INTO "{name}" ({columns}) VALUES ({values});')
        return "\n".join([*lines, "COMMIT;"]) + "\n"


if __name__ == "__main__":
    main()
