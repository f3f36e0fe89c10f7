"""What may be wrong with an SQLite file or its folder, and what the store says then."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quietdesk.errors import StoreError, StoreVersionError, StoreWriteError, UsageError
from quietdesk.store.base import Store
from quietdesk.store.memory import MemoryStore
from quietdesk.store.sql import SqlStore, open_sql_store, open_store
from quietdesk.types import Author, ConversationInfo, FinishReason, Message

NOW = datetime.now(UTC)
Opening = Callable[[str], Store]


def filled(path: Path, n_conversations: int = 3) -> Path:
    store = open_sql_store(str(path))
    pairs = []
    for number in range(n_conversations):
        info = ConversationInfo(
            id=f"c{number}", title=f"Title {number}", created_at=NOW, updated_at=NOW
        )
        message = Message(id=f"q{number}", author=Author.CUSTOMER, text=f"Question {number} " * 50)
        pairs.append((info, [message]))
    store.import_conversations(pairs)
    store.close()
    return path


def test_the_file_and_its_folders_are_for_their_owner_only(
    tmp_path: Path, open_again: Opening
) -> None:
    path = tmp_path / "new" / "folder" / "quietdesk.db"
    store = open_again(str(path))
    store.create(ConversationInfo(id="c1", title="", created_at=NOW, updated_at=NOW))
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(path.parent.iterdir())
    assert path in files and len(files) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}"])
def test_a_path_with_odd_characters_is_taken_as_it_is(
    tmp_path: Path, open_again: Opening, form: str
) -> None:
    path = tmp_path / "a b" / "100% ü?#&;é.db"
    store = open_again(form.format(path))
    store.create(ConversationInfo(id="c1", title="", created_at=NOW, updated_at=NOW))
    assert path.exists()
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.startswith(path.name)) == []


def test_memory_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_store(":memory:"), MemoryStore)
    assert list(tmp_path.iterdir()) == []


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'mysql'.*postgresql://"):
        open_store("mysql://host/name")


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        open_store(str(tmp_path))


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"file/q\.db' cannot be created"):
        open_store(str(tmp_path / "file" / "q.db"))


@pytest.mark.parametrize(
    "content",
    [b"Dear diary, this is no database at all.\n" * 20, b"SQLite format 3\x00" + b"x" * 99],
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"notes\.txt") as caught:
        open_store(str(path))
    assert not isinstance(caught.value, StoreVersionError)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE conversation (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        open_store(str(path))
    assert path.read_bytes() == before


def test_a_database_from_the_future_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = filled(tmp_path / "q.db")
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match="'9999'") as caught:
        open_store(str(path))
    assert caught.value.revision == "9999"
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_database(tmp_path: Path, open_again: Opening) -> None:
    path = tmp_path / "q.db"
    path.touch()
    assert open_again(str(path)).conversations() == []


def test_a_damaged_database_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = filled(tmp_path / "q.db", 200)
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content) - 4096, 4096):
        content[start : start + 512] = os.urandom(512)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"q\.db.* is damaged .*Restore a backup"):
        store = open_sql_store(str(path))
        try:
            assert store.integrity_check() != []
            for number in range(200):
                store.messages(f"c{number}")
        finally:
            store.database.close()


def test_the_integrity_check_finds_what_does_not_fit(tmp_path: Path, open_again: Opening) -> None:
    path = filled(tmp_path / "q.db")
    store = open_again(str(path))
    assert isinstance(store, SqlStore)
    assert store.integrity_check() == []
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE message SET depth = 7 WHERE id = 'q0'")
        other.execute("UPDATE conversation SET leaf = 5 WHERE id = 'c1'")
        other.execute("UPDATE message SET parent = 9 WHERE id = 'q2'")
        other.commit()
    problems = "\n".join(store.integrity_check())
    assert "'q0'" in problems and "'c1'" in problems and "foreign_key_check" in problems


# Read-only

# Root may write what nobody may; without this capability it is held to the permissions too.
AS_OWNER = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    if os.getuid() == 0
    else []
)
READ_ONLY = """
import sys
from quietdesk.store.sql import open_store
from quietdesk.errors import StoreWriteError
store = open_store(sys.argv[1])
print([c.id for c in store.conversations("question title")], len(store.messages("c0")))
print(store.integrity_check(), store.export_customer("nobody")["conversations"])
try:
    store.rename("c0", "x")
except StoreWriteError as error:
    print(error)
store.close()
"""


@pytest.mark.skipif(
    bool(AS_OWNER) and shutil.which("setpriv") is None, reason="root, and no setpriv to be less"
)
@pytest.mark.parametrize(
    ("mode", "folder_mode", "cause"),
    [
        (0o400, 0o700, "the file may only be read"),
        (0o600, 0o500, "the folder"),
        (0o400, 0o500, "the file may"),
    ],
)
def test_a_read_only_database_can_be_read_and_says_why_not_written(
    tmp_path: Path, mode: int, folder_mode: int, cause: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = filled(folder / "q.db")
    path.chmod(mode)
    folder.chmod(folder_mode)
    try:
        done = subprocess.run(
            [*AS_OWNER, sys.executable, "-c", READ_ONLY, path],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        folder.chmod(0o700)
    first, second, third = done.stdout.splitlines()
    assert first == "['c2', 'c1', 'c0'] 1"
    assert second == "[] []"
    assert cause in third and "q.db" in third and "read-only" in third


@pytest.mark.skipif(
    bool(AS_OWNER) and shutil.which("setpriv") is None, reason="root, and no setpriv to be less"
)
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "q.db")
    path.chmod(0)
    done = subprocess.run(
        [*AS_OWNER, sys.executable, "-c", READ_ONLY, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "StoreError: The database" in done.stderr and "cannot be opened" in done.stderr


# A full disk

FULL = """
import sys, resource
from datetime import UTC, datetime
from pathlib import Path
from quietdesk.store.sql import open_store
from quietdesk.errors import StoreWriteError
from quietdesk.types import *
store = open_store(sys.argv[1])
store.begin_turn("c0", (), Message(id="r", author=Author.BOT, text=""))
store.checkpoint("r", "Half")
size = max(p.stat().st_size for p in Path(sys.argv[1]).parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, resource.RLIM_INFINITY))
for number in range(1000):
    try:
        text = f"Text {number} " * 200
        store.add("c1", Message(id=f"x{number}", author=Author.CUSTOMER, text=text))
    except StoreWriteError as error:
        print(number)
        print(error)
        break
print(len(store.messages("c1")))
try:
    store.finish(Message(id="r", author=Author.BOT, text="y" * 100_000, finish_reason="stop"))
except StoreWriteError as error:
    print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.finish(Message(id="r", author=Author.BOT, text="Whole", finish_reason="stop"))
print(store.integrity_check())
store.close()
"""


def test_a_full_disk_loses_nothing_that_was_kept(tmp_path: Path, open_again: Opening) -> None:
    path = filled(tmp_path / "q.db")
    done = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    number, said, count, refused, problems = done.stdout.splitlines()
    assert "q.db" in said and "what was stored before is safe" in said
    assert int(count) == 1 + int(number)
    assert (refused, problems) == ("refused", "[]")
    reply = open_again(str(path)).messages("c0")[-1]
    assert (reply.text, reply.finish_reason) == ("Whole", FinishReason.STOP)


# Erasing, backing up


def raw(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def test_nothing_of_an_erased_customer_is_left_in_the_raw_file(
    tmp_path: Path, open_again: Opening
) -> None:
    folder = tmp_path / "folder"
    store = open_again(str(folder / "q.db"))
    secrets = ["xylophone", "zanzibar", "quuxcorge", "wibblewob", "flummoxed", "gobbledyg"]
    for number in range(120):
        theirs = number % 3 == 0
        word = (lambda n: secrets[n]) if theirs else (lambda n: f"harmless{n}")
        store.create(
            ConversationInfo(
                id=f"c-{word(0)}-{number}",
                title=f"About {word(1)} {number}",
                customer=word(2) if theirs else "other",
                system=f"Be {word(3)}",
                created_at=NOW,
                updated_at=NOW,
                metadata={"note": word(4), "tags": [word(4)]},
            )
        )
        store.begin_turn(
            f"c-{word(0)}-{number}",
            (Message(id=f"q{number}", author=Author.CUSTOMER, text=f"{word(5)} " * (number % 40)),),
            Message(id=f"r{number}", author=Author.BOT, text=""),
        )
        store.checkpoint(f"r{number}", f"{word(0)} first draft")
        store.finish(
            Message(
                id=f"r{number}",
                author=Author.BOT,
                text=f"{word(1)} {number} " * (number * 5),
                finish_reason=FinishReason.STOP,
            )
        )
        if number % 7 == 0:
            store.rename(f"c-{word(0)}-{number}", f"{word(3)} renamed")
    for secret in secrets:
        assert secret.encode() in raw(folder), secret
    assert store.erase_customer(secrets[2]) == 40
    left = raw(folder)
    assert [secret for secret in secrets if secret.encode() in left] == []
    assert b"harmless" in left
    assert len(store.conversations(limit=1000)) == 80
    assert isinstance(store, SqlStore)
    assert store.integrity_check() == []


def test_a_purge_leaves_no_words_in_the_raw_file(tmp_path: Path, open_again: Opening) -> None:
    folder = tmp_path / "folder"
    store = open_again(str(folder / "q.db"))
    for number in range(60):
        word = f"secretword{number} " if number % 2 else f"harmless{number} "
        store.create(ConversationInfo(id=f"c{number}", title=word, created_at=NOW, updated_at=NOW))
        store.add(f"c{number}", Message(id=f"q{number}", author=Author.CUSTOMER, text=word * 99))
        if number % 2:
            store.delete(f"c{number}")
    assert b"secretword" in raw(folder)
    assert store.purge() == 30
    assert b"secretword" not in raw(folder)
    assert b"harmless" in raw(folder)


def test_erasing_says_when_another_process_keeps_the_log_in_use(
    tmp_path: Path, open_again: Opening
) -> None:
    path = filled(tmp_path / "q.db")
    store, other = open_sql_store(str(path), busy_s=0.2), open_again(str(path))
    store.create(ConversationInfo(id="k1", title="", customer="k", created_at=NOW, updated_at=NOW))
    assert isinstance(other, SqlStore)
    with other.database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM message").scalar()
        with pytest.raises(StoreWriteError, match="erase again"):
            store.erase_customer("k")
        assert len(store.conversations()) == 3
    assert store.erase_customer("k") == 0
    store.close()


def test_a_backup_is_one_whole_file_that_opens(tmp_path: Path, open_again: Opening) -> None:
    store = open_again(str(filled(tmp_path / "q.db", 50)))
    assert isinstance(store, SqlStore)
    target = tmp_path / "backups" / "monday.db"
    store.backup(str(target))
    assert [p.name for p in target.parent.iterdir()] == ["monday.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    copy = open_again(str(target))
    assert copy.conversations("question", limit=99) == store.conversations("question", limit=99)
    assert copy.tree("c7") == store.tree("c7")
    with pytest.raises(UsageError, match=r"monday\.db' exists already"):
        store.backup(str(target))


def test_what_there_is_is_told(tmp_path: Path, open_again: Opening) -> None:
    store = open_again(str(filled(tmp_path / "q.db")))
    assert isinstance(store, SqlStore)
    store.delete("c1")
    store.begin_turn("c0", (), Message(id="r", author=Author.BOT, text=""))
    status = store.status()
    assert status["database"] == repr(str(tmp_path / "q.db"))
    assert (status["conversations"], status["deleted"], status["messages"]) == (2, 1, 4)
    assert status["open_replies"] == 1
    assert int(status["size_bytes"]) > 0


# What is not loaded


def run(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_rooms_seam_loads_no_database_library() -> None:
    modules = run("import sys, quietdesk.store.base; print(*sys.modules)").split()
    assert not {"sqlalchemy", "alembic", "psycopg", "sqlite3"} & set(modules)


def test_opening_a_current_database_loads_no_migrations(tmp_path: Path) -> None:
    path = filled(tmp_path / "q.db")
    program = (
        "import sys; from quietdesk.store.sql import open_store; open_store(sys.argv[1]).close();"
        "print(*sys.modules)"
    )
    modules = run(program, str(path)).split()
    assert "sqlalchemy" in modules
    assert not {"alembic", "psycopg"} & set(modules)
