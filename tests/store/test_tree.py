"""The tree of messages keeps its shape, whatever is done to it in whatever order."""

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from quietdesk.errors import ConversationBusyError, UnknownNameError, UsageError
from quietdesk.store.base import ROOT
from quietdesk.store.sql import SqlStore, open_store
from quietdesk.types import Author, ConversationInfo, FinishReason, Message

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ENDS = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.CANCELLED, FinishReason.FAILED)


@dataclass
class Shape:
    """What one conversation should be: the simplest thing that can be right."""

    parents: dict[str, str | None] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    ends: dict[str, FinishReason | None] = field(default_factory=dict)
    leaf: str | None = None
    opened: str | None = None
    said: tuple[str, ...] = ()
    before: str | None = None

    def put(self, id_: str, parent: str | None, text: str) -> None:
        self.parents[id_], self.texts[id_], self.ends[id_] = parent, text, None
        self.leaf = id_

    def way(self, leaf: str | None) -> list[str]:
        return [] if leaf is None else [*self.way(self.parents[leaf]), leaf]


class Tree(RuleBasedStateMachine):
    """Two conversations in one store, beside what they should be."""

    database = ":memory:"

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.name = self.database.format(folder=self.folder.name)
        self.store = open_store(self.name)
        self.numbers = count()
        self.gone: list[str] = []
        self.shapes: dict[str, Shape] = {}
        for _ in range(2):
            id_ = self.new("c")
            self.store.create(ConversationInfo(id=id_, title="", created_at=NOW, updated_at=NOW))
            self.shapes[id_] = Shape()
        self.touched = id_

    def new(self, kind: str) -> str:
        return f"{kind}{next(self.numbers):05}"  # none begins with another

    def pick(self, data: Any) -> tuple[str, Shape]:
        self.touched = data.draw(st.sampled_from(sorted(self.shapes)))
        return self.touched, self.shapes[self.touched]

    def message(self, author: Author, parent: str | None, *, empty: bool = False) -> Message:
        id_ = self.new("m")
        text = "" if empty else f"shared word{id_}"
        return Message(id=id_, author=author, text=text, parent_id=parent)

    def place(self, data: Any, shape: Shape) -> tuple[str | None, str | None]:
        """Where to hang a message: as it is asked for, and where it should be then."""
        asked = data.draw(st.sampled_from([None, ROOT, *shape.parents]))
        return asked, shape.leaf if asked is None else asked or None

    @rule(data=st.data(), n_said=st.integers(0, 2))
    def begin(self, data: Any, n_said: int) -> None:
        id_, shape = self.pick(data)
        asked, parent = self.place(data, shape)
        said = tuple(
            self.message(Author.CUSTOMER, None if number else asked) for number in range(n_said)
        )
        reply = self.message(Author.BOT, None if said else asked, empty=True)
        if shape.opened is not None:
            with pytest.raises(ConversationBusyError):
                self.store.begin_turn(id_, said, reply)
            self.gone += [m.id for m in said]
            return
        self.store.begin_turn(id_, said, reply)
        shape.opened, shape.before = reply.id, shape.leaf
        shape.said = tuple(m.id for m in said)
        for m in (*said, reply):
            shape.put(m.id, parent, m.text)
            parent = m.id

    @rule(data=st.data())
    def checkpoint(self, data: Any) -> None:
        _, shape = self.pick(data)
        if shape.opened is not None:
            text = shape.texts[shape.opened] + "more "
            self.store.checkpoint(shape.opened, text)
            shape.texts[shape.opened] = text

    @rule(data=st.data(), end=st.sampled_from(ENDS))
    def finish(self, data: Any, end: FinishReason) -> None:
        _, shape = self.pick(data)
        if shape.opened is not None:
            text = f"shared word{shape.opened}"
            self.store.finish(
                Message(id=shape.opened, author=Author.BOT, text=text, finish_reason=end)
            )
            shape.texts[shape.opened], shape.ends[shape.opened] = text, end
            shape.opened = None

    @rule(data=st.data())
    def undo(self, data: Any) -> None:
        _, shape = self.pick(data)
        if shape.opened is None:
            return
        gone = {shape.opened, *shape.said}
        if any(p in gone and child not in gone for child, p in shape.parents.items()):
            with pytest.raises(UsageError):
                self.store.undo_turn(shape.opened, shape.said)
            return
        self.store.undo_turn(shape.opened, shape.said)
        self.gone += sorted(gone)
        for id_ in gone:
            del shape.parents[id_], shape.texts[id_], shape.ends[id_]
        if shape.leaf in gone:
            shape.leaf = shape.before
        shape.opened = None

    @rule(data=st.data())
    def add(self, data: Any) -> None:
        id_, shape = self.pick(data)
        asked, parent = self.place(data, shape)
        message = self.message(Author.HUMAN, asked)
        self.store.add(id_, message)
        shape.put(message.id, parent, message.text)

    @rule(data=st.data())
    def interject(self, data: Any) -> None:
        id_, shape = self.pick(data)
        message = self.message(Author.CUSTOMER, None)
        gives_way = shape.opened if shape.opened == shape.leaf else None
        parent = shape.leaf if gives_way is None else shape.parents[gives_way]
        assert self.store.interject(id_, message) == gives_way
        shape.put(message.id, parent, message.text)

    @rule(data=st.data())
    def select(self, data: Any) -> None:
        id_, shape = self.pick(data)
        if shape.parents:
            shape.leaf = data.draw(st.sampled_from(list(shape.parents)))
            self.store.select(id_, shape.leaf)

    @rule(data=st.data())
    def delete_and_restore(self, data: Any) -> None:
        id_, _ = self.pick(data)
        self.store.delete(id_)
        with pytest.raises(UnknownNameError):
            self.store.messages(id_)
        self.store.restore(id_)

    @precondition(lambda self: self.name != ":memory:")
    @rule()
    def close_and_open(self) -> None:
        self.store.close()
        self.store = open_store(self.name)
        for shape in self.shapes.values():
            if shape.opened is not None:
                shape.ends[shape.opened], shape.opened = FinishReason.INTERRUPTED, None

    @invariant()
    def what_is_kept_is_what_it_should_be(self) -> None:
        id_, shape = self.touched, self.shapes[self.touched]
        kept = self.store.tree(id_)
        assert [m.id for m in kept] == list(shape.parents)
        assert {m.id: m.parent_id for m in kept} == shape.parents
        assert {m.id: m.text for m in kept} == shape.texts
        assert {m.id: m.finish_reason for m in kept} == shape.ends
        way = shape.way(shape.leaf)
        assert [m.id for m in self.store.messages(id_)] == way
        assert self.store.leaf(id_) == (shape.leaf or ROOT)
        info = self.store.conversation(id_)
        assert info.message_count == len(way)
        last = [shape.texts[m] for m in way[-2:] if shape.texts[m]]
        assert info.last_text == (last[-1] if last else "")

    @invariant()
    def what_is_found_is_what_is_kept(self) -> None:
        id_, shape = self.touched, self.shapes[self.touched]
        words = [t for m, t in shape.texts.items() if t.startswith("shared") and m != shape.opened]
        expected = [id_] if words else []
        assert [c.id for c in self.store.conversations(" ".join(words[-3:] or ["shared no"]))] == (
            expected
        )
        for gone in self.gone[-2:]:
            assert self.store.conversations(f"word{gone}") == []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            if isinstance(self.store, SqlStore):
                assert self.store.integrity_check() == []
                self.store.purge_older_than(datetime(2999, 1, 1, tzinfo=UTC))
            self.store.close()
            if isinstance(self.store, SqlStore) and "://" in self.name:
                wiped = open_store(self.name)
                wiped.purge_older_than(datetime(2999, 1, 1, tzinfo=UTC))
                wiped.close()
            self.folder.cleanup()


def explore(database: str, max_examples: int) -> None:
    machine = type("TreeOn", (Tree,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_tree_in_memory_keeps_its_shape() -> None:
    explore(":memory:", 60)


def test_the_tree_in_sqlite_keeps_its_shape(tmp_path: Path) -> None:
    explore("{folder}/quietdesk.db", 15)


def test_the_tree_in_postgresql_keeps_its_shape(postgres_url: str) -> None:
    explore(postgres_url, 5)
