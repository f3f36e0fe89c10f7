"""`quietdesk models ...` as a user types it: what is printed, where, and the exit code."""

import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from quietdesk.cli.main import run
from quietdesk_models.catalog import STARTER, cards, find_card


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has nothing yet."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "100")
    # Two threads on a machine that does other things spend their time waiting for each other.
    monkeypatch.setenv("QUIETDESK_N_THREADS", "1")
    return tmp_path


def test_list_shows_every_card_and_what_other_programs_have(
    home: Path, tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / ".lmstudio" / "models" / "me" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").symlink_to(tiny_models["gpt2"])
    (folder / "broken.gguf").write_bytes(b"GGUF")
    assert run(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert {card.name for card in cards()} <= set(rows)
    mine = rows["lmstudio:me/tiny/tiny.gguf"]
    assert (mine["origin"], mine["n_ctx"], mine["quantisation"]) == ("lm-studio", 2048, "F16")
    assert "cut short" in rows["lmstudio:me/tiny/broken.gguf"]["note"]
    assert run(["models", "list"]) == 0
    table = capsys.readouterr().out
    assert "Apache-2.0" in table
    assert "lmstudio:me/tiny/tiny.gguf" in table


def test_info_of_a_file_tells_what_it_says_of_itself(
    tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "info", str(tiny_models["gemma3"]), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["architecture"], facts["n_vocab"]) == ("gemma3", 512)
    assert facts["has_chat_template"]
    assert facts["memory_bytes"] > facts["size_bytes"]
    assert run(["models", "info", str(tiny_models["gemma3"])]) == 0
    assert "gemma3" in capsys.readouterr().out


def test_info_of_the_starter_can_check_its_file(
    starter_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "info", STARTER, "--verify", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verified"]
    assert facts["path"] == str(starter_path)


def test_info_of_a_model_that_is_not_here_tells_how_to_get_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["models", "info", "qwen2.5-7b"]) == 0
    said = capsys.readouterr()
    assert "Apache-2.0" in said.out
    assert "quietdesk models pull qwen2.5-7b" in said.err


def test_pull_gets_a_model_tells_of_its_terms_and_remove_takes_it_away(
    home: Path,
    tiny_models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = tiny_models["llama"].read_bytes()
    card = replace(find_card("llama-3.2-1b"), sha256=None, size_bytes=len(content))
    monkeypatch.setattr("quietdesk.cli.models.find_card", lambda name: card)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        code = run(["models", "pull", card.name, "--json"])
        server.shutdown()
        thread.join()
    assert code == 0
    said = capsys.readouterr()
    pulled = json.loads(said.out)
    assert Path(pulled["path"]).read_bytes() == content
    assert pulled["trusted"] is False
    assert card.licence_url in said.err
    assert pulled["sha256"] in said.err
    assert run(["models", "remove", card.name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["freed_bytes"] == len(content)
    assert not Path(pulled["path"]).exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "quen2.5-7b"], 2, "'qwen2.5-7b'"),
        (["pull", "nothing"], 2, "no model 'nothing'"),
        (["pull", STARTER], 2, "quietdesk[starter]"),
        (["info", "none.gguf"], 1, "no such file"),
        (["quantise", "none.gguf"], 1, "no such file"),
        (["quantise", "qwen2.5-7b"], 1, "models pull qwen2.5-7b"),
        (["quantise", "--type", "Q4_0_0"], 2, "Did you mean 'Q4_0'"),
        (["bench", "--type", "Q9"], 2, "no type 'Q9'"),
        (["remove", "qwen2.5-7b"], 2, "keeps nothing"),
        (["remove", STARTER], 2, "not Quietdesk's"),
        (["info"], 2, "Missing argument"),
    ],
)
def test_what_is_wrong_is_said_on_standard_error(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", *arguments]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err


def test_a_model_is_requantised_shown_and_removed(
    home: Path, tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(tiny_models["gpt2"])
    assert run(["models", "quantise", source, "--type", "Q8_0", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["chosen"] == "Q8_0"
    assert Path(made["path"]).is_relative_to(home / "cache")
    assert run(["models", "info", source, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen_here"]["path"] == made["path"]
    assert run(["models", "remove", source, "--json"]) == 0
    freed = json.loads(capsys.readouterr().out)["freed_bytes"]
    assert freed >= made["measured"][1]["size_bytes"]
    assert not Path(made["path"]).exists()


def test_bench_prints_a_table_and_last_one_line_of_json(
    home: Path, tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "bench", str(tiny_models["gpt2"]), "--type", "Q4_0"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert "perplexity" in table[0]
    result = json.loads(last)
    assert [row["type"] for row in result["measured"]] == ["F16", "Q4_0"]
    assert not list(home.rglob("*.Q4_0.gguf"))
