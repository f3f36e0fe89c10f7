"""The commands as they are typed, with the bundled model where one has to answer."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quietdesk.assistant import open_store
from quietdesk.cli import main
from quietdesk.config import Settings
from quietdesk.testing import scripted_assistant
from quietdesk.types import Author, ConversationInfo, Message

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment of its own, so that no test sees another's conversations."""
    folders = {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("DATA", "CONFIG", "STATE")}
    path = str(Path(sys.executable).parent)
    return {
        "PATH": f"{path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "QUIETDESK_QUANTISE": "false",
        **folders,
    }


@pytest.fixture
def run(home: dict[str, str], tmp_path: Path) -> Run:
    def run(*arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [sys.executable, "-m", "quietdesk.cli", *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=240,
            env=home,
            cwd=tmp_path,
        )

    return run


def test_a_question_is_answered_in_one_json_object_and_kept(run: Run, starter_path: Path) -> None:
    done = run("ask", "What is the capital of France?", "--json", "--temperature", "0",
               "--max-tokens", "12")  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["text"].strip()
    assert answer["usage"]["completion_tokens"] <= 12
    listed = json.loads(run("sessions", "list", "--json").stdout)["sessions"]
    assert [session["id"] for session in listed] == [answer["conversation"]]
    shown = json.loads(run("sessions", "show", answer["conversation"], "--json").stdout)
    assert [m["text"] for m in shown["messages"]][1] == answer["text"]


def test_the_same_seed_gives_the_same_answer(run: Run, starter_path: Path) -> None:
    answers = {
        run("ask", "Name a bird.", "--seed", "5", "--max-tokens", "8", "--no-keep").stdout
        for _ in range(2)
    }
    assert len(answers) == 1
    assert json.loads(run("sessions", "list", "--json").stdout) == {"sessions": []}


def test_an_answer_is_chosen_as_its_options_and_assignments_say(
    home: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    starter_path: Path,
    tmp_path: Path,
) -> None:
    for name, value in home.items():
        monkeypatch.setenv(name, value)

    def told(*arguments: str) -> dict[str, Any]:
        assert main.run([*arguments, "--json"]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    def ask(*options: str) -> dict[str, Any]:
        own = ["--set", "n_ctx=512", "--temperature", "0", "--max-tokens", "16"]
        return told("ask", "Name a colour.", *own, *options)

    plain = ask()["text"]
    word = plain.split()[1]
    assert ask("--stop", "nowhere", "--stop", word)["text"] == plain[: plain.index(word)]
    grammar = tmp_path / "colour.gbnf"
    grammar.write_text('root ::= "red" | "blue"')
    assert ask("--grammar", str(grammar))["text"] in ("red", "blue")
    penalties = ["--repeat-penalty", "1.5", "--set", "presence_penalty=2"]
    answer = ask(*penalties)
    assert answer["text"] != plain
    assert told("replay", answer["id"])["recorded"] == answer["text"]


def test_chat_answers_each_line_of_a_pipe_and_names_a_bad_one(run: Run, starter_path: Path) -> None:
    done = run("chat", "--max-tokens", "4", stdin=b"Hello\nBad \xff byte\n\nBye\n")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) >= 2
    assert b"Line 2 of standard input is not UTF-8: byte 4" in done.stderr
    (session,) = json.loads(run("sessions", "list", "--json").stdout)["sessions"]
    assert session["message_count"] == 4
    again = run("chat", "--resume", session["id"][:6], "--max-tokens", "4", stdin=b"More?\n")
    assert again.returncode == 0
    (session,) = json.loads(run("sessions", "list", "--json").stdout)["sessions"]
    assert session["message_count"] == 6


def test_a_chat_in_which_nothing_was_said_leaves_no_conversation(
    run: Run, starter_path: Path
) -> None:
    assert run("chat", stdin=b"\n").returncode == 0
    assert json.loads(run("sessions", "list", "--json").stdout) == {"sessions": []}


def test_without_a_network_it_answers_all_the_same(
    home: dict[str, str], starter_path: Path
) -> None:
    if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode:
        pytest.skip("unshare -n is not allowed here")
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-m", "quietdesk.cli", "ask", "Hi", "--max-tokens", "4"],
        capture_output=True,
        check=False,
        timeout=240,
        env=home,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_sessions_are_exported_deleted_and_restored(
    run: Run, starter_path: Path, tmp_path: Path
) -> None:
    answer = json.loads(run("ask", "Hi", "--json", "--max-tokens", "3").stdout)
    name = answer["conversation"]
    file = tmp_path / "out.md"
    assert run("sessions", "export", name, "-f", "markdown", "-o", str(file)).returncode == 0
    assert "**customer**: Hi" in file.read_text()
    again = run("sessions", "export", name, "-o", str(file))
    assert again.returncode == 2
    assert b"--force" in again.stderr
    whole = json.loads(run("sessions", "export", name).stdout)
    assert whole["conversation"]["id"] == name
    assert run("sessions", "delete", name).returncode == 0
    assert json.loads(run("sessions", "list", "--json").stdout) == {"sessions": []}
    assert run("sessions", "restore", name).returncode == 0
    assert len(json.loads(run("sessions", "list", "--json").stdout)["sessions"]) == 1
    assert run("sessions", "delete", name, "--for-good", "--yes").returncode == 0
    assert run("sessions", "show", name).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ask", "x", "--model", "smollm"], 2, "Did you mean 'smollm2-"),
        (["ask", "x", "--model", "./none.gguf"], 1, "./none.gguf"),
        (["ask", "x", "--temperature", "hot"], 2, "'--temperature'"),
        (["ask", "x", "--temperature", "99"], 2, "temperature"),
        (["ask", "x", "--top-p", "1.5"], 2, "1.5 for 'top_p' in the arguments"),
        (["ask", "x", "--set", "top_kk=1"], 2, "'top_kk' in the arguments. Did you mean 'top_k'"),
        (["ask", "x", "--set", "dry_base=nan"], 2, "nan for 'dry_base' in the arguments"),
        (["ask", "x", "--set", "top_k"], 2, "'top_k' sets nothing: write NAME=VALUE"),
        (["chat", "--top-k", "3", "--set", "top_k=4"], 2, "'top_k' is set twice"),
        (["ask", "x", "--top-k", "3", "--set", "mirostat_tau=4"], 2, "mirostat takes the place"),
        (["ask", "x", "--schema", "a", "--grammar", "b"], 2, "a schema or to a grammar"),
        (["ask", "x", "--system", "none.md"], 2, "none.md"),
        (["ask", "x", "--tempreature", "1"], 2, "--temperature"),
        (["sessions", "show", "c-none"], 2, "c-none"),
        (["sessions"], 2, "list"),
        (["nonsense"], 2, "nonsense"),
        ([], 2, "quietdesk chat"),
        (["--model", "x", "ask", "y"], 2, "after the verb"),
    ],
)  # fmt: skip
def test_wrong_use_is_named(
    home: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    for name, value in home.items():
        monkeypatch.setenv(name, value)
    answered = main.run(arguments)
    told = "".join(capfd.readouterr())
    assert answered == code, told
    assert words in " ".join(told.replace("│", " ").split())
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["sessions", "show", "c-4712"], "c-4711"),
        (["sessions", "export", "c-4712"], "c-4711"),
        (["sessions", "delete", "c-4712"], "c-4711"),
        (["sessions", "restore", "c-4722"], "c-4721"),
        (["chat", "--resume", "c-4712"], "c-4711"),
        (["replay", "c-4712"], "c-4711"),
        (["replay", "m-4712"], "m-4711"),
        (["db", "export", "anne"], "anna"),
        (["db", "erase", "anne", "--yes"], "anna"),
    ],
)
def test_an_id_that_does_not_exist_is_answered_with_the_nearest(
    home: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    starter_path: Path,
    arguments: list[str],
    nearest: str,
) -> None:
    for name, value in home.items():
        monkeypatch.setenv(name, value)
    store = open_store(None, Settings())
    now = datetime.now(UTC)
    for number, customer in (("c-4711", "anna"), ("c-4721", None)):
        info = ConversationInfo(
            id=number, title="", customer=customer, created_at=now, updated_at=now
        )
        store.create(info)
    store.add("c-4711", Message(id="m-4711", author=Author.CUSTOMER, text="Hello"))
    store.delete("c-4721")
    store.close()
    assert main.run(arguments) == 2
    assert f"Did you mean '{nearest}'" in capfd.readouterr().err


def test_a_question_of_ten_megabytes_is_refused_and_leaves_nothing(
    home: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    starter_path: Path,
) -> None:
    for name, value in home.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"word and " * 1_200_000)))
    assert main.run(["ask"]) == 1
    assert "needs at least" in capfd.readouterr().err
    assert main.run(["sessions", "list", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"sessions": []}


def test_an_empty_question_and_a_file_that_is_no_model_are_refused(
    run: Run, starter_path: Path, tmp_path: Path
) -> None:
    assert run("ask", stdin=b"  \n").returncode == 2
    wrong = tmp_path / "wrong.gguf"
    wrong.write_text("not a model")
    done = run("ask", "x", "--model", str(wrong))
    assert done.returncode == 1
    assert b"wrong.gguf" in done.stderr


def test_a_database_from_the_future_and_one_that_is_none_are_refused(
    run: Run, tmp_path: Path
) -> None:
    text = tmp_path / "text.db"
    text.write_text("this is no database at all, " * 50)
    done = run("sessions", "list", "--database", str(text))
    assert done.returncode == 1
    assert b"text.db" in done.stderr


def test_unknown_settings_are_refused_with_the_nearest(run: Run, home: dict[str, str]) -> None:
    home["QUIETDESK_N_CTZ"] = "5"
    done = run("doctor")
    assert done.returncode == 2
    assert b"'n_ctx'" in done.stderr
    assert b"QUIETDESK_N_CTZ" in done.stderr


def test_doctor_tells_every_choice_with_its_reason(run: Run, starter_path: Path) -> None:
    done = run("doctor", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert told["problems"] == []
    for name in (
        *("n_ctx", "n_seq", "n_batch", "n_ubatch", "n_threads", "n_gpu_layers"),
        *("kv_type", "flash_attention", "memory_mapping", "memory"),
    ):
        assert told["model"][name]["reason"]
    broken = run("doctor", "--json", "--model", "nothing-like-it")
    assert broken.returncode == 1
    assert "nothing-like-it" in json.loads(broken.stdout)["problems"][0]


def test_ctrl_c_in_mid_reply_ends_with_130_and_keeps_what_was_said(
    home: dict[str, str], run: Run, starter_path: Path
) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "quietdesk.cli", "ask", "Count to a thousand in words.",
         "--max-tokens", "2000", "--temperature", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home,
    )  # fmt: skip
    assert started.stdout is not None
    first = started.stdout.read(5)
    started.send_signal(signal.SIGINT)
    rest, told = started.communicate(timeout=60)
    assert started.returncode == 130, told
    assert b"Traceback" not in told
    (session,) = json.loads(run("sessions", "list", "--json").stdout)["sessions"]
    shown = json.loads(run("sessions", "show", session["id"], "--json").stdout)["messages"]
    assert shown[1]["finish_reason"] == "cancelled"
    assert (first + rest).decode(errors="ignore").strip() in shown[1]["text"] + " "


@pytest.mark.parametrize("wait_s", [0.05, 0.4, 1.0])
def test_ctrl_c_at_any_moment_ends_with_130(
    home: dict[str, str], starter_path: Path, wait_s: float
) -> None:
    """While it starts, loads, reads, answers, or waits for the next line, which never comes."""
    code = "import sys; from quietdesk.cli.main import main; print(flush=True); main(sys.argv[1:])"
    started = subprocess.Popen(
        [sys.executable, "-c", code, "chat", "--max-tokens", "2000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=home,
    )
    assert started.stdin is not None
    assert started.stdout is not None
    started.stdin.write(b"Count to a thousand in words.\n")
    started.stdin.flush()
    started.stdout.read(1)
    time.sleep(wait_s)
    started.send_signal(signal.SIGINT)
    started.wait(timeout=60)
    told = started.stderr.read() if started.stderr else b""
    for pipe in (started.stdin, started.stdout, started.stderr):
        if pipe is not None:
            pipe.close()
    assert started.returncode == 130, told
    assert b"Traceback" not in told


def test_a_reader_that_goes_away_is_no_traceback(home: dict[str, str], run: Run) -> None:
    done = subprocess.run(
        f"{sys.executable} -m quietdesk.cli --help | head -1",
        shell=True, capture_output=True, check=False, timeout=60, env=home,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "verb", ["", "ask", "chat", "sessions", "sessions list", "models", "doctor"]
)
def test_every_verb_has_help(capfd: pytest.CaptureFixture[str], verb: str) -> None:
    assert main.run([*verb.split(), "--help"]) == 0
    assert "Usage" in capfd.readouterr().out


def test_the_database_is_looked_after(run: Run, tmp_path: Path, starter_path: Path) -> None:
    made = json.loads(run("ask", "Hi", "--json", "--max-tokens", "3").stdout)
    told = json.loads(run("db", "status", "--json").stdout)
    assert (told["conversations"], told["messages"]) == (1, 2)
    assert run("db", "check").returncode == 0
    copy = tmp_path / "copy.db"
    assert run("db", "backup", str(copy)).returncode == 0
    again = run("db", "backup", str(copy))
    assert again.returncode == 2
    assert b"copy.db" in again.stderr
    listed = json.loads(run("sessions", "list", "--json", "--database", str(copy)).stdout)
    assert [session["id"] for session in listed["sessions"]] == [made["conversation"]]
    assert run("db", "upgrade").returncode == 0


@pytest.mark.parametrize(
    "verb", ["sessions list", "sessions show c-1", "db status", "db upgrade", "replay m-1"]
)
def test_a_slip_in_a_databases_name_makes_no_database(run: Run, tmp_path: Path, verb: str) -> None:
    done = run(*verb.split(), "--database", "folder/typo.db")
    assert done.returncode == 2
    assert b"typo.db" in done.stderr
    assert not (tmp_path / "folder").exists()


def test_a_customer_is_exported_and_erased(run: Run, home: dict[str, str]) -> None:
    writing = (
        "from quietdesk.testing import scripted_assistant\n"
        "from quietdesk.config import data_folder\n"
        "with scripted_assistant(['Yes.'], database=data_folder() / 'quietdesk.db') as assistant:\n"
        "    assistant.start(customer='c-42').send('Is my secret safe?')\n"
    )
    subprocess.run([sys.executable, "-c", writing], env=home, check=True, timeout=60)
    whole = json.loads(run("db", "export", "c-42").stdout)
    assert "Is my secret safe?" in json.dumps(whole)
    data = Path(home["XDG_DATA_HOME"]) / "quietdesk"
    other = '{"id": "x", "messages": [{"author": "customer", "text": "Hello"}]}'
    assert run("score", str(data / "quietdesk.db"), "--save", "with").returncode == 0
    assert run("score", "-", "--save", "without", stdin=other.encode()).returncode == 0
    assert run("db", "erase", "c-43", "--yes").returncode == 2
    erased = run("db", "erase", "c-42", "--yes")
    assert erased.returncode == 0
    assert str(data / "scores" / "with") in erased.stderr.decode().split()
    assert str(data / "scores" / "without") not in erased.stderr.decode().split()
    files = [file for file in data.iterdir() if file.is_file()]
    assert files and not any(b"my secret" in file.read_bytes() for file in files)


def test_bench_measures_a_server_in_one_line_of_json(run: Run, llama_cpp_server: str) -> None:
    done = run("bench", "--url", llama_cpp_server, "--sizes", "1,2", "--turns", "1", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert told["server"] == "llama-cpp-python"
    assert [row["n_conversations"] for row in told["results"]] == [1, 2]
    for row in told["results"]:
        assert row["tokens"] >= row["n_conversations"]
        assert row["first_token_p95_ms"] >= row["first_token_p50_ms"] > 0
    both = run("bench", "--url", llama_cpp_server, "--model", "smollm2-135m")
    assert both.returncode == 2


def test_conversations_are_listed_by_tag_and_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "q.db")
    with scripted_assistant(database=place) as assistant:
        wanted = assistant.start(metadata={"status": "open", "tags": ["web"]})
        assistant.start(metadata={"status": "closed", "tags": ["web"]})
        assistant.start(metadata={"status": "open"})
    chosen = ["--tag", "web", "--status", "open", "--json", "--database", place]
    assert main.run(["sessions", "list", *chosen]) == 0
    listed = json.loads(capsys.readouterr().out)["sessions"]
    assert [info["id"] for info in listed] == [wanted.id]
