"""LangSmith exports: runs, one conversation per thread.

A thread is what the metadata `thread_id`, `session_id` or `conversation_id` of the root runs names;
a root run without one is a conversation by itself. What retriever runs found becomes passages.
Sources: "Run (span) data format" and "Configure threads" of https://docs.langchain.com/langsmith.
"""

from collections.abc import Iterator
from typing import Any

from quietdesk.logs.chat import write_messages
from quietdesk.logs.foreign import Object, keep, kept, name_of, number, objects, passages, rest
from quietdesk.logs.format import Context, JsonFormat
from quietdesk.logs.problem import BadRecordError, Kind
from quietdesk.logs.record import PassageRecord, Record
from quietdesk.logs.traces import Trace, conversation, exchanges, ordered, unfold

_THREAD = ("thread_id", "session_id", "conversation_id")
_CUSTOMER = ("user_id", "customer_id", "customer", "user")
_USED = frozenset({"inputs", "outputs", "extra", "tags", "start_time", "end_time"})


def matches(value: Any) -> bool:
    """Whether a JSON value is a run."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("run_type"), str)
        and not {"inputs", "outputs", "trace_id"}.isdisjoint(value)
    )


def key(value: Any) -> str | None:
    """The thread that a run belongs to, else its trace."""
    if not isinstance(value, dict):
        return None
    own = _metadata(value)
    return name_of(
        *(own.get(k) for k in _THREAD),
        value.get("thread_id"),
        value.get("trace_id"),
        value.get("id"),
    )


def _metadata(run: Object) -> Object:
    extra = unfold(run.get("extra"))
    own = unfold(extra.get("metadata")) if isinstance(extra, dict) else unfold(run.get("metadata"))
    return own if isinstance(own, dict) else {}


def read(values: Any, context: Context) -> Iterator[Record]:
    """The conversation of one thread."""
    runs = ordered(objects(values, "the records"), "start_time")
    roots = [run for run in runs if not run.get("parent_run_id")]
    if not roots:
        raise BadRecordError(
            Kind.SHAPE,
            "These are runs inside a trace whose root run is not in the log, or names a thread "
            "that they do not name. Export the root runs, or name the thread in all of them.",
        )
    inner = [run for run in runs if run.get("parent_run_id")]
    said = conversation([_trace(run, inner, context) for run in roots], context)
    record = Record(key(roots[0]) or context.id, tuple(said.messages))
    for run in roots:
        record.metadata = {**_metadata(run), **record.metadata}
    for name in _THREAD:
        record.metadata.pop(name, None)
    for name in _CUSTOMER:
        if record.customer is None and name in record.metadata:
            record.customer = name_of(record.metadata.pop(name))
    if tags := next((unfold(run["tags"]) for run in roots if run.get("tags")), None):
        record.metadata["tags"] = tags
    extra: Object = {}
    for name, found in (("runs", roots), ("inner", inner)):
        left = {str(i): rest(run, _USED) for i, run in enumerate(found)}
        if name == "inner":
            left = {str(i): rest(run, {"extra"}) for i, run in enumerate(found)}
        extra[name] = {i: more for i, more in left.items() if more}
    if said.extra:
        extra["messages"] = said.extra
    keep(record, "langsmith", rest(extra, ()))
    yield record


def _trace(root: Object, inner: list[Object], context: Context) -> Trace:
    trace_id = root.get("trace_id") or root.get("id")
    found: list[PassageRecord] = []
    for run in inner:
        if run.get("run_type") == "retriever" and run.get("trace_id") == trace_id:
            output = unfold(run.get("outputs"))
            if isinstance(output, dict):
                output = output.get("documents", output.get("output"))
            found += passages(output)
    stats = unfold(root.get("feedback_stats"))
    scores: list[tuple[str, float | str]] = []
    for name, stat in stats.items() if isinstance(stats, dict) else ():
        worth = number(stat.get("avg")) if isinstance(stat, dict) else None
        if worth is not None:
            scores.append((name, worth))
    start = context.time(root.get("start_time"))
    return Trace(
        root.get("inputs"),
        root.get("outputs"),
        start,
        context.time(root.get("end_time")) or start,
        tuple(found),
        scores,
    )


def dump(record: Record) -> Iterator[Object]:
    """One root run for each reply."""
    extra = kept(record, "langsmith")
    about = {k: v for k, v in record.metadata.items() if k not in {"langsmith", "tags"}}
    if record.customer is not None:
        about["user_id"] = record.customer
    for count, (asked, reply) in enumerate(exchanges(record)):
        name = f"{record.id}-{count + 1}"
        run: Object = {
            "id": name,
            "trace_id": name,
            "parent_run_id": None,
            "name": "chat",
            "run_type": "chain",
            "inputs": {"messages": write_messages(asked, {})},
            "outputs": None,
            "extra": {"metadata": {**about, "thread_id": record.id}},
        }
        if reply is not None:
            run["outputs"] = {"messages": write_messages([reply], {})}
            if reply.created_at is not None:
                run["end_time"] = reply.created_at.isoformat()
            if reply.ratings:
                mean = sum(reply.ratings) / len(reply.ratings)
                run["feedback_stats"] = {"user_score": {"n": len(reply.ratings), "avg": mean}}
        times = [m.created_at for m in asked if m.created_at is not None]
        if times:
            run["start_time"] = times[-1].isoformat()
        elif reply is not None and reply.created_at is not None:
            run["start_time"] = reply.created_at.isoformat()
        if "tags" in record.metadata:
            run["tags"] = record.metadata["tags"]
        more = extra.get("runs")
        own = more.get(str(count)) if isinstance(more, dict) else None
        yield {**run, **(own if isinstance(own, dict) else {})}


FORMAT = JsonFormat(
    name="langsmith",
    title="LangSmith exports of runs",
    matches=matches,
    read=read,
    # The mean of a reply's ratings is written as feedback, and no other rating.
    keeps=frozenset(
        {
            *("id", "customer", "metadata", "messages.author", "messages.text"),
            "messages.tool_calls",
        }
    ),
    dump=dump,
    key=key,
    envelopes=("runs", "data", "results"),
)
