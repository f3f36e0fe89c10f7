"""Langfuse exports: traces, observations and sessions, one conversation per session.

Numeric scores that are feedback become ratings of the reply, other scores its labels. What
retrievers found becomes its passages. Sources: "Export data from the UI", "Sessions" and "Scores"
of https://langfuse.com/docs.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from quietdesk.logs.chat import write_messages
from quietdesk.logs.foreign import (
    Object,
    a_list,
    an_object,
    keep,
    kept,
    name_of,
    number,
    objects,
    passages,
    rest,
)
from quietdesk.logs.format import Context, JsonFormat
from quietdesk.logs.record import Record
from quietdesk.logs.traces import Trace, conversation, exchanges, ordered, unfold

_SIGNS = frozenset(
    {
        *("sessionId", "traceId", "projectId", "htmlPath", "observations", "userId", "bookmarked"),
        *("parentObservationId", "totalCost", "environment"),
    }
)
_USED = frozenset(
    {"sessionId", "userId", "input", "output", "timestamp", "scores", "observations", "trace"}
)
_ABOUT = ("tags", "release", "version", "environment")


def matches(value: Any) -> bool:
    """Whether a JSON value is a trace, an observation, or a session with its traces."""
    if not isinstance(value, dict) or "run_type" in value:
        return False
    if isinstance(value.get("trace"), dict):
        return True
    traces = value.get("traces")
    if isinstance(traces, list) and traces:
        return isinstance(traces[0], dict) and matches(traces[0])
    return "input" in value and "output" in value and not _SIGNS.isdisjoint(value)


def key(value: Any) -> str | None:
    """The session that a value belongs to; a trace without one is a conversation by itself."""
    if not isinstance(value, dict):
        return None
    inner = value.get("trace") if isinstance(value.get("trace"), dict) else None
    about = {**value, **(inner or {})}
    return name_of(*(about.get(k) for k in ("sessionId", "session_id", "traceId", "id")))


def read(values: Any, context: Context) -> Iterator[Record]:
    """The conversation of one session."""
    traces: list[Object] = []
    observations: dict[str, list[Object]] = {}
    session: Object = {}
    for value in a_list(values, "The records"):
        whole = an_object(value, "The record")
        if isinstance(whole.get("traces"), list):
            session = rest(whole, {"traces", "id"})
            traces += objects(whole["traces"], "traces")
        elif "traceId" in whole and "trace" not in whole:
            observations.setdefault(name_of(whole["traceId"]) or "", []).append(whole)
        else:
            traces.append({**rest(whole, {"trace"}), **an_object(whole.get("trace"), "trace")})
    by_id = {name_of(trace.get("id")): trace for trace in traces}
    for name, found in observations.items():
        if name in by_id:
            by_id[name]["observations"] = [*_observations(by_id[name]), *found]
        else:
            traces.append(_trace_of(name, found))
    traces = ordered(traces, "timestamp", "startTime", "createdAt")
    said = conversation([_trace(trace, context) for trace in traces], context)
    record = Record((key(values[0]) if values else None) or context.id, tuple(said.messages))
    record.customer = name_of(*(trace.get("userId") for trace in traces))
    for name in _ABOUT:
        if value := next((t[name] for t in traces if t.get(name)), None):
            record.metadata[name] = unfold(value)
    for trace in traces:
        own = unfold(trace.get("metadata"))
        if isinstance(own, dict):
            record.metadata = {**own, **record.metadata}
    extra = session
    left = {str(i): rest(t, _USED | set(_ABOUT) | {"metadata"}) for i, t in enumerate(traces)}
    extra["traces"] = {i: more for i, more in left.items() if more}
    inner = {str(i): t["observations"] for i, t in enumerate(traces) if t.get("observations")}
    if inner:
        extra["observations"] = inner
    if said.extra:
        extra["messages"] = said.extra
    keep(record, "langfuse", rest(extra, ()))
    yield record


def _trace_of(name: str, observations: list[Object]) -> Object:
    """A trace that only its observations tell of."""
    ranked = ordered(observations, "startTime", "timestamp")
    roots = [o for o in ranked if not o.get("parentObservationId")]
    root = next((o for o in roots if o.get("output") is not None), None) or ranked[0]
    others = [o for o in ranked if o is not root]
    return {
        **rest(root, {"traceId", "parentObservationId", "id"}),
        "id": name,
        "observations": others,
    }


def _trace(trace: Object, context: Context) -> Trace:
    observations = [o for o in _observations(trace) if isinstance(o, dict)]
    asked, replied = trace.get("input"), trace.get("output")
    if replied is None:
        generations = [o for o in observations if o.get("type") == "GENERATION"]
        if generations:
            last = ordered(generations, "startTime")[-1]
            asked, replied = last.get("input") if asked is None else asked, last.get("output")
    start = context.time(trace.get("timestamp") or trace.get("startTime"))
    end = context.time(trace.get("endTime"))
    latency = number(trace.get("latency"))
    if end is None and start is not None and latency is not None and 0 <= latency < 1e6:
        end = start + timedelta(seconds=latency)
    found = [p for o in observations if o.get("type") == "RETRIEVER" for p in _found(o)]
    return Trace(asked, replied, start, end or start, tuple(found), _scores(trace.get("scores")))


def _observations(trace: Object) -> list[Any]:
    return a_list(trace.get("observations") or [], "observations")


def _found(observation: Object) -> Iterator[Any]:
    output = unfold(observation.get("output"))
    if isinstance(output, dict):
        output = next((output[k] for k in ("documents", "results", "output") if k in output), None)
    yield from passages(output)


def _scores(value: Any) -> list[tuple[str, float | str]]:
    found: list[tuple[str, float | str]] = []
    for score in value if isinstance(value, list) else []:
        if not isinstance(score, dict) or not isinstance(score.get("name"), str):
            continue
        worth = score.get("stringValue") or score.get("value")
        if isinstance(worth, str):
            found.append((score["name"], worth))
        elif (amount := number(worth)) is not None:
            found.append((score["name"], amount))
    return found


def dump(record: Record) -> Iterator[Object]:
    """One trace for each reply."""
    extra = kept(record, "langfuse")
    about = {k: v for k, v in record.metadata.items() if k != "langfuse"}
    for number_, (asked, reply) in enumerate(exchanges(record)):
        trace: Object = {
            "id": f"{record.id}-{number_ + 1}",
            "sessionId": record.id,
            "userId": record.customer,
            "input": write_messages(asked, {}),
            "output": write_messages([reply], {})[0] if reply is not None else None,
        }
        times = [m.created_at for m in asked if m.created_at is not None]
        end = reply.created_at if reply is not None else None
        start = times[-1] if times else end
        if start is not None:
            trace["timestamp"] = start.isoformat()
            if end is not None:
                trace["latency"] = (end - start).total_seconds()
        if reply is not None and reply.ratings:
            trace["scores"] = [{"name": "user-feedback", "value": r} for r in reply.ratings]
        for name in _ABOUT:
            if name in about:
                trace[name] = about[name]
        trace["metadata"] = {k: v for k, v in about.items() if k not in _ABOUT}
        more = extra.get("traces")
        own = more.get(str(number_)) if isinstance(more, dict) else None
        yield {**trace, **(own if isinstance(own, dict) else {})}


FORMAT = JsonFormat(
    name="langfuse",
    title="Langfuse exports of traces, observations and sessions",
    matches=matches,
    read=read,
    # Ratings are written as feedback where they are of a reply, and of no other message.
    keeps=frozenset(
        {
            *("id", "customer", "metadata", "messages.author", "messages.text"),
            "messages.tool_calls",
        }
    ),
    dump=dump,
    key=key,
    envelopes=("data", "traces", "observations"),
)
