"""A server that misbehaves in every way: what was said is kept, and the error has a name."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietdesk.assistant import Assistant
from quietdesk.config import Settings
from quietdesk.engine.calls import Calls
from quietdesk.engine.remote.backend import RemoteBackend
from quietdesk.engine.remote.connection import Connection, Patience, proxy_for
from quietdesk.engine.remote.dialect import body, unsupported
from quietdesk.engine.remote.endpoint import Kind, is_address, read_address
from quietdesk.engine.remote.estimate import estimate_tokens
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.engine.stream import Stream
from quietdesk.errors import (
    ConfigError,
    DeadlineError,
    EndpointCutError,
    EndpointError,
    EndpointRefusedError,
    EndpointTimeoutError,
    EndpointUnreachableError,
    UnknownNameError,
    UnsupportedOptionError,
    UsageError,
)
from quietdesk.loading import open_engine
from quietdesk.store.memory import MemoryStore
from quietdesk.types import HERMES, FinishReason

SECRET = "sk-very-secret"
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's script says, in HTTP/1.1 with chunks."""

    protocol_version = "HTTP/1.1"
    server: "Scripted"

    def do_GET(self) -> None:
        routes = {"/v1/models": {"data": self.server.models}, **self.server.routes}
        if self.path in routes:
            self.reply(200, json.dumps(routes[self.path]))
        else:
            self.reply(404, '{"error": {"message": "no such place"}}')

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        self.asked = json.loads(self.rfile.read(size))
        self.server.asked.append((self.path, self.asked, dict(self.headers)))
        with self.server.lock:
            script = self.server.script
            answer = script.pop(0) if len(script) > 1 else script[0]
        try:
            answer(self)
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()
            self.close_connection = True

    def reply(self, status: int, text: str, **headers: str) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin(self, kind: str = "text/event-stream") -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def send(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def cut(self) -> None:
        """Close the connection in the middle of the chunks."""
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


class Scripted(ThreadingHTTPServer):
    """A server whose answers are given in turn, the last one again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: list[dict[str, Any]] = [{"id": "bot", "owned_by": "someone"}]
        self.routes: dict[str, Any] = {}
        self.script: list[Answer] = []
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.lock = threading.Lock()
        self.left = threading.Event()
        """A client went away while it was being answered."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def event(text: str = "", why: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": why}
    return (
        b"data: " + json.dumps({"choices": [choice], **more}, ensure_ascii=False).encode() + b"\n\n"
    )


DONE = b"data: [DONE]\n\n"
WHOLE = event("Yes, ") + event("we do.") + event(why="stop") + DONE


def says(*pieces: bytes, kind: str = "text/event-stream") -> Answer:
    def answer(handler: Handler) -> None:
        handler.begin(kind)
        for piece in pieces:
            handler.send(piece)
        handler.wfile.write(b"0\r\n\r\n")

    return answer


def cuts(*pieces: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        handler.begin()
        for piece in pieces:
            handler.send(piece)
        handler.cut()

    return answer


def refuses(
    status: int, text: str = '{"error": {"message": "too much"}}', **headers: str
) -> Answer:
    return lambda handler: handler.reply(status, text, **headers)


def talks_until_left(handler: Handler) -> None:
    handler.begin()
    while True:
        handler.send(event("on "))
        time.sleep(0.005)


@pytest.fixture
def server() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


Open = Callable[..., RemoteBackend]


@pytest.fixture
def open_remote(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    monkeypatch.setattr("quietdesk.engine.remote.connection.FIRST_PAUSE_S", 0.001)
    opened: list[RemoteBackend] = []

    def open_remote(*, model: str = "", **more: Any) -> RemoteBackend:
        address = read_address(server.url + (f"#{model}" if model else ""))
        backend = RemoteBackend(address, **({"patience": Patience(retries=2)} | more))
        opened.append(backend)
        return backend

    yield open_remote
    for backend in opened:
        backend.close()


def ask(backend: RemoteBackend, **more: Any) -> Stream:
    prompt = backend.tokenize("Do you?", special=True, begin=True)
    return backend.submit(prompt, messages=[{"role": "user", "content": "Do you?"}], **more)


def ended(stream: Stream) -> Stream:
    assert stream.wait(30)
    return stream


def test_it_is_asked_again_after_the_time_that_it_names(
    server: Scripted, open_remote: Open
) -> None:
    moment = formatdate(time.time() - 5, usegmt=True)
    server.script = [
        refuses(429, retry_after="0"),
        refuses(503, retry_after=moment),
        says(WHOLE),
    ]
    stream = ended(ask(open_remote()))
    assert (stream.text, stream.finish_reason) == ("Yes, we do.", FinishReason.STOP)
    assert len(server.asked) == 3


def test_a_long_retry_after_is_told_and_not_waited_for(server: Scripted, open_remote: Open) -> None:
    server.script = [refuses(429, retry_after="3600")]
    stream = ended(ask(open_remote()))
    assert isinstance(stream.error, EndpointRefusedError)
    assert (stream.error.status, stream.error.retry_after_s) == (429, 3600.0)
    assert len(server.asked) == 1
    assert "3600 s" in str(stream.error)


@pytest.mark.parametrize(
    ("answer", "kind", "status", "times"),
    [
        (refuses(500), EndpointRefusedError, 500, 3),
        (refuses(401, '{"detail": "no key"}'), EndpointRefusedError, 401, 1),
        (refuses(400, '{"message": "context length exceeded"}'), EndpointRefusedError, 400, 1),
        (refuses(302, "", location="http://other/"), EndpointRefusedError, 302, 1),
        (says(b"<html>hello</html>", kind="text/html"), EndpointCutError, None, 1),
        (says(b"data: {not json\n\n"), EndpointCutError, None, 1),
        (says(b"data: 17\n\n"), EndpointCutError, None, 1),
        (says(b'data: {"choices": 3}\n\n'), EndpointCutError, None, 1),
        (says(DONE), EndpointCutError, None, 3),
        (cuts(b": nothing yet\n\n"), EndpointCutError, None, 3),
        (says(b'data: {"error": {"code": 500, "message": "it broke"}}\n\n'),
         EndpointRefusedError, 500, 3),
        (says(event(why="content_filter")), EndpointRefusedError, 200, 1),
    ],
)  # fmt: skip
def test_a_failure_before_the_first_token_has_a_name(
    server: Scripted,
    open_remote: Open,
    answer: Answer,
    kind: type[EndpointError],
    status: int | None,
    times: int,
) -> None:
    server.script = [answer]
    backend = open_remote(key=SECRET)
    stream = ended(ask(backend))
    assert stream.finish_reason is FinishReason.FAILED
    assert type(stream.error) is kind
    assert getattr(stream.error, "status", None) == status
    assert stream.error.endpoint == server.url
    assert server.url in str(stream.error)
    assert SECRET not in str(stream.error)
    assert stream.text == ""
    assert len(server.asked) == times
    metrics = backend.metrics()
    assert (metrics.requests_failed, metrics.n_running, metrics.n_waiting) == (1, 0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        cuts(event("Yes, ")),
        cuts(event("Yes, "), event("we do.")[:20]),
        says(event("Yes, ")),
        says(event("Yes, "), DONE),
        says(event("Yes, "), b'data: {"error": {"message": "out of memory"}}\n\n'),
        says(event("Yes, "), b"data: {}{}\n\n"),
    ],
)
def test_a_failure_in_mid_reply_keeps_what_was_said_and_says_nothing_twice(
    server: Scripted, open_remote: Open, answer: Answer
) -> None:
    server.script = [answer, says(WHOLE)]
    stream = ended(ask(open_remote()))
    assert stream.text == "Yes, "
    assert stream.finish_reason is FinishReason.INTERRUPTED
    assert isinstance(stream.error, EndpointError)
    assert len(server.asked) == 1


def test_an_interrupted_reply_is_kept_in_its_conversation(
    server: Scripted, open_remote: Open
) -> None:
    server.script = [cuts(event("We ship ")), says(WHOLE)]
    settings = Settings(top_k=0, min_p=0.0)
    with Assistant(open_remote(), MemoryStore(), settings) as assistant:
        conversation = assistant.start()
        with pytest.raises(EndpointCutError):
            conversation.send("Do you?")
        kept = conversation.messages[-1]
        assert (kept.text, kept.finish_reason) == ("We ship ", FinishReason.INTERRUPTED)
        again = conversation.regenerate().wait()
        assert again.text == "Yes, we do."
        assert again.context.estimated
        assert again.usage.estimated


@pytest.mark.parametrize("width", [1, 3, 7])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_events_arrive_in_any_pieces(
    server: Scripted, open_remote: Open, width: int, line_end: bytes
) -> None:
    whole = (
        b": a comment\n\nevent: message\nid: 7\n"
        + event("Grüße, 你好 \u2028 🙂")
        + b": ping\n\n"
        + event(" and more")
        + event(why="length")
        + event(usage={"prompt_tokens": 9, "completion_tokens": 4,
                       "prompt_tokens_details": {"cached_tokens": 5}})
        + DONE
    ).replace(b"\n", line_end)  # fmt: skip
    server.script = [says(*(whole[at : at + width] for at in range(0, len(whole), width)))]
    stream = ended(ask(open_remote()))
    assert stream.text == "Grüße, 你好 \u2028 🙂 and more"
    assert stream.finish_reason is FinishReason.LENGTH
    usage = stream.usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (9, 5, 4)
    assert not usage.estimated


def test_thoughts_that_come_apart_stand_in_their_marks(server: Scripted, open_remote: Open) -> None:
    def thought(text: str) -> bytes:
        choice = {"delta": {"reasoning_content": text}, "finish_reason": None}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

    server.script = [says(thought("Hm, "), thought("yes."), WHOLE)]
    assert ended(ask(open_remote())).text == "<think>Hm, yes.</think>Yes, we do."


def test_a_fifth_stop_string_is_watched_for_here(server: Scripted, open_remote: Open) -> None:
    server.script = [talks_until_left]
    stops = ("a1", "a2", "a3", "a4", "n o")
    stream = ended(ask(open_remote(), limits=Limits(stop=stops)))
    assert (stream.text, stream.finish_reason) == ("o", FinishReason.STOP)
    assert server.asked[0][1]["stop"] == list(stops[:4])
    assert server.left.wait(30)


def test_cancelling_closes_the_connection(server: Scripted, open_remote: Open) -> None:
    server.script = [talks_until_left]
    stream = ask(open_remote())
    next(iter(stream))
    assert not server.left.is_set()
    stream.cancel()
    assert ended(stream).finish_reason is FinishReason.CANCELLED
    assert stream.text.startswith("on ")
    assert server.left.wait(30)


def test_cancelling_before_it_began_ends_it(server: Scripted, open_remote: Open) -> None:
    server.script = [talks_until_left]
    backend = open_remote()
    for _ in range(20):
        stream = ask(backend)
        stream.cancel()
        assert ended(stream).finish_reason is FinishReason.CANCELLED
    metrics = backend.metrics()
    assert (metrics.n_waiting, metrics.n_running, metrics.requests_cancelled) == (0, 0, 20)


def test_a_server_that_says_nothing_is_waited_for_so_long(
    server: Scripted, open_remote: Open
) -> None:
    silent = threading.Event()

    def waits(handler: Handler) -> None:
        handler.begin()
        silent.wait(30)

    def stops(handler: Handler) -> None:
        handler.begin()
        handler.send(event("Yes, "))
        silent.wait(30)

    try:
        server.script = [waits, stops]
        backend = open_remote(patience=Patience(first_token_s=0.3, next_token_s=0.2))
        first, second = ended(ask(backend)), ended(ask(backend))
        assert isinstance(first.error, EndpointTimeoutError)
        assert first.finish_reason is FinishReason.FAILED
        assert "endpoint_first_token_s" in str(first.error)
        assert isinstance(second.error, EndpointTimeoutError)
        assert (second.text, second.finish_reason) == ("Yes, ", FinishReason.INTERRUPTED)
        assert "endpoint_next_token_s" in str(second.error)
        late = ended(ask(backend, deadline_s=0.1))
        assert isinstance(late.error, DeadlineError)
    finally:
        silent.set()


def test_the_highest_priority_goes_first(server: Scripted, open_remote: Open) -> None:
    free = threading.Event()

    def waits(handler: Handler) -> None:
        free.wait(30)
        says(WHOLE)(handler)

    server.script = [waits, says(WHOLE)]
    backend = open_remote(n_seq=1)
    ask(backend)
    while not server.asked:
        time.sleep(0.002)
    rest = [
        backend.submit([1], messages=[{"role": "user", "content": name}], priority=priority)
        for name, priority in (("low", 0), ("high", 5), ("low too", 0))
    ]
    free.set()
    for stream in rest:
        assert ended(stream).text == "Yes, we do."
    order = [asked["messages"][0]["content"] for _, asked, _ in server.asked]
    assert order == ["Do you?", "high", "low", "low too"]


def test_a_key_is_sent_and_a_request_says_every_parameter(
    server: Scripted, open_remote: Open
) -> None:
    server.script = [says(WHOLE)]
    sampling = Sampling(temperature=0.5, top_p=0.9, seed=7, logit_bias=((3, -1.0),))
    ended(ask(open_remote(key=SECRET), sampling=sampling, limits=Limits(max_tokens=9)))
    path, asked, headers = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert (asked["model"], asked["stream"], asked["max_tokens"]) == ("bot", True, 9)
    assert (asked["temperature"], asked["top_p"], asked["seed"]) == (0.5, 0.9, 7)
    assert asked["logit_bias"] == {"3": -1.0}
    assert not {"top_k", "min_p", "grammar"} & asked.keys()


def test_words_of_a_customer_are_no_control_tokens(server: Scripted, open_remote: Open) -> None:
    server.script = [says(WHOLE)]
    backend = open_remote()
    backend.submit([1], messages=[{"role": "user", "content": "a<|im_end|>b"}]).wait(30)
    assert server.asked[0][1]["messages"][0]["content"] == "a<\u2060|im_end|>b"


def test_a_default_that_cannot_be_applied_is_told_and_a_set_one_refused(
    server: Scripted, open_remote: Open
) -> None:
    server.script = [says(WHOLE)]
    with Assistant(open_remote(), MemoryStore(), Settings()) as assistant:
        reply = assistant.start().send("Do you?")
        assert any("top_k 40" in note for note in reply.context.notes)
        with pytest.raises(UnsupportedOptionError) as refused:
            assistant.start().send("Do you?", top_k=5)
        assert refused.value.option == "top_k"
    with pytest.raises(UnsupportedOptionError):
        Assistant(open_remote(), MemoryStore(), Settings(top_k=40))


def test_the_model_is_named_or_the_only_one(server: Scripted, open_remote: Open) -> None:
    server.models = [{"id": "little"}, {"id": "large", "aliases": ["big"]}]
    with pytest.raises(UnknownNameError) as refused:
        open_remote()
    assert "little, large" in str(refused.value)
    with pytest.raises(UnknownNameError) as wrong:
        open_remote(model="lager")
    assert wrong.value.nearest[0] == "large"
    assert open_remote(model="big").model.name == "large"
    server.models = []
    with pytest.raises(UnknownNameError):
        open_remote()


def test_llama_server_gets_tokens_and_its_template_is_used(
    server: Scripted, open_remote: Open
) -> None:
    server.routes["/props"] = {
        "total_slots": 3,
        "default_generation_settings": {"n_ctx": 700},
        "chat_template": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }

    def answer(handler: Handler) -> None:
        if handler.path == "/tokenize":
            tokens = [ord(letter) for letter in handler.asked["content"]]
            handler.reply(200, json.dumps({"tokens": tokens}))
        else:
            timings = {"cache_n": 10, "prompt_n": 8, "predicted_n": 2}
            choice = {"text": "Yes.", "finish_reason": "stop"}
            told = json.dumps({"choices": [choice], "timings": timings}).encode()
            says(b"data: " + told + b"\n\n", DONE)(handler)

    server.script = [answer]
    backend = open_remote()
    assert (backend.n_ctx, backend.n_seq, backend.model.server) == (700, 3, "llama-server")
    with Assistant(backend, MemoryStore(), Settings(max_tokens=50)) as assistant:
        reply = assistant.start().send("Do you?")
        assert (reply.text, reply.context.template) == ("Yes.", "model")
        assert not reply.context.estimated
        assert reply.usage.cached_tokens == 10
        path, asked, _ = server.asked[-1]
        assert path == "/v1/completions"
        assert bytes(asked["prompt"]).decode().strip() == "[user] Do you?"
        assert len(asked["prompt"]) == reply.context.prompt_tokens
    with pytest.raises(ConfigError):
        open_remote(n_ctx=701)


def test_vllm_counts_tokens_and_goes_on_with_a_cut_reply(
    server: Scripted, open_remote: Open
) -> None:
    server.models = [{"id": "big/bot", "owned_by": "vllm", "max_model_len": 900}]

    def answer(handler: Handler) -> None:
        if handler.path == "/tokenize":
            handler.reply(200, json.dumps({"tokens": list(handler.asked["prompt"].encode())}))
        else:
            why = "stop" if "continue_final_message" in handler.asked else "length"
            says(event("We ship", why=why), DONE)(handler)

    server.script = [answer]
    with Assistant(open_remote(), MemoryStore(), Settings(max_tokens=50)) as assistant:
        assert assistant.engine.n_ctx == 900
        conversation = assistant.start()
        conversation.send("Do you?")
        assert conversation.proceed().wait().text == "We shipWe ship"
    asked = server.asked[-1][1]
    assert asked["messages"][-1] == {"role": "assistant", "content": "We ship"}
    assert asked["add_generation_prompt"] is False
    assert asked["top_k"] == 40


def test_what_is_no_such_server_is_told_at_the_start(server: Scripted, open_remote: Open) -> None:
    server.routes["/v1/models"] = ["nothing"]
    with pytest.raises(EndpointCutError):
        open_remote()
    address = read_address("http://127.0.0.1:1/v1")
    with pytest.raises(EndpointUnreachableError) as gone:
        RemoteBackend(address, patience=Patience(retries=0))
    assert "127.0.0.1:1" in str(gone.value)


def test_addresses_are_read_as_people_type_them() -> None:
    for text in ("http://127.0.0.1:8080", "http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1/"):
        assert read_address(text).url == "http://127.0.0.1:8080/v1"
    named = read_address("https://models.example.com/api/v1#org/model-7b")
    assert (named.url, named.model) == ("https://models.example.com/api/v1", "org/model-7b")
    assert named.root == "https://models.example.com/api"
    assert not named.is_loopback
    assert all(
        read_address(f"http://{host}:1/v1").is_loopback
        for host in ("localhost", "127.0.0.9", "[::1]", "a.localhost")
    )
    assert is_address("HTTP://x") and not is_address("./model.gguf")
    for wrong in ("http://", "http://host:port/v1", "http://h/v1?key=1", "ftp://h"):
        with pytest.raises(UsageError):
            read_address(wrong)
    with pytest.raises(UsageError) as told:
        read_address(f"http://me:{SECRET}@host/v1")
    assert SECRET not in str(told.value)


def test_a_proxy_of_the_environment_is_never_used_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, server: Scripted
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "inside.example.com")
    assert proxy_for(read_address("http://outside.example.com")) == "http://127.0.0.1:1"
    assert proxy_for(read_address("http://inside.example.com")) is None
    assert proxy_for(read_address("http://localhost:8000")) is None
    server.script = [says(WHOLE)]
    engine = open_engine(server.url, Settings())
    engine.close()


def test_the_key_comes_from_the_settings_or_the_keyring_and_is_never_shown(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = pytest.importorskip("keyring")
    server.script = [says(WHOLE)]
    kept = {("quietdesk", "desk"): SECRET}
    monkeypatch.setattr(keyring, "get_password", lambda *names: kept.get(names))
    settings = Settings.load({"endpoint_key": "keyring:desk"}, environ={})
    assert SECRET not in repr(Settings.load({"endpoint_key": SECRET}, environ={}))
    engine = open_engine(server.url, settings)
    engine.submit([1], messages=[{"role": "user", "content": "x"}]).wait(30)
    engine.close()
    assert server.asked[0][2]["authorization"] == f"Bearer {SECRET}"
    with pytest.raises(ConfigError) as missing:
        open_engine(server.url, Settings.load({"endpoint_key": "keyring:other"}, environ={}))
    assert "'other'" in str(missing.value)
    with pytest.raises(ConfigError) as wrong:
        Connection(read_address(server.url), Patience(), key=f"{SECRET}\n")
    assert SECRET not in str(wrong.value)


@pytest.mark.parametrize("kind", Kind)
def test_what_a_kind_of_server_lacks_is_refused_and_neutral_values_pass(kind: Kind) -> None:
    changed: dict[str, Any] = {
        "top_k": 5, "min_p": 0.1, "typical_p": 0.5, "repeat_penalty": 1.1, "penalty_last_n": 77,
        "dry_multiplier": 0.5, "mirostat_tau": 3.0, "grammar": 'root ::= "a"',
    }  # fmt: skip
    plain = body(kind, "x", Sampling(), Limits(), ())
    assert plain["temperature"] == 0.0
    for name, value in changed.items():
        sampling = Sampling(temperature=1.0, **{name: value})
        if name in unsupported(kind):
            with pytest.raises(UnsupportedOptionError) as refused:
                body(kind, "x", sampling, Limits(), ())
            assert refused.value.option == name
        else:
            assert value in body(kind, "x", sampling, Limits(), ()).values()
    with pytest.raises(UnsupportedOptionError, match="'tools'"):
        body(kind, "x", Sampling(calls=Calls("[]", HERMES)), Limits(), ())
    ignoring = Limits(ignore_end=True)
    if "ignore_end" in unsupported(kind):
        with pytest.raises(UnsupportedOptionError):
            body(kind, "x", Sampling(), ignoring, ())
    else:
        assert body(kind, "x", Sampling(), ignoring, ())["ignore_eos"] is True


def test_dry_is_sent_whole_to_llama_server() -> None:
    own = {"dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 3}
    own |= {"dry_penalty_last_n": 99}
    sampling = Sampling(**own, dry_sequence_breakers=("\n", "END"))  # type: ignore[arg-type]
    sent = body(Kind.LLAMA_SERVER, "x", sampling, Limits(), ())
    assert own.items() <= sent.items()
    assert list(sent["dry_sequence_breakers"]) == ["\n", "END"]  # type: ignore[arg-type]
    assert "dry_base" not in body(Kind.LLAMA_SERVER, "x", Sampling(), Limits(), ())
    with pytest.raises(UnsupportedOptionError, match="want at least one"):
        none = Sampling(dry_multiplier=0.5, dry_sequence_breakers=())
        body(Kind.LLAMA_SERVER, "x", none, Limits(), ())


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Kind.LLAMA_SERVER, "repeat_penalty", 1.1),
        (Kind.LLAMA_SERVER, "dry_multiplier", 0.5),
        (Kind.LLAMA_CPP_PYTHON, "temperature", 0.7),
    ],
)
def test_what_a_server_silently_drops_with_mirostat_is_refused(
    kind: Kind, name: str, value: float
) -> None:
    sampling = Sampling(**{"temperature": 1.0, "mirostat_tau": 3.0, name: value})  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOptionError) as refused:
        body(kind, "x", sampling, Limits(), ())
    assert refused.value.option == name


def test_a_look_back_over_all_is_as_long_as_the_servers_context(
    server: Scripted, open_remote: Open
) -> None:
    assert Sampling(penalty_last_n=-1, dry_penalty_last_n=-1).within(99) == Sampling(
        penalty_last_n=99, dry_penalty_last_n=99
    )
    with pytest.raises(UnsupportedOptionError) as refused:
        ask(open_remote(), sampling=Sampling(repeat_penalty=1.0, penalty_last_n=-1))
    assert refused.value.option == "penalty_last_n"


@given(st.text(max_size=200), st.text(max_size=200))
def test_an_estimate_grows_with_the_text_and_stays_below_its_bytes(one: str, two: str) -> None:
    both = estimate_tokens(one + two)
    assert 0 <= both <= len((one + two).encode("utf-8", "surrogatepass")) + 1
    assert both <= estimate_tokens(one) + estimate_tokens(two) + 1
    assert (both == 0) <= (not (one + two).strip())
