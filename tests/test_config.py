"""Defaults, then file, then environment, then arguments; nothing unknown passes."""

from pathlib import Path

import pytest

from quietdesk.config import Settings, config_file, read_assignments
from quietdesk.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_the_later_word_wins(tmp_path: Path) -> None:
    file = write(tmp_path, "n_ctx = 100\nn_seq = 2\ntop_k = 7\n")
    environ = {"QUIETDESK_N_CTX": "200", "QUIETDESK_N_SEQ": "3", "OTHER": "x"}
    settings = Settings.load({"n_ctx": 300, "seed": None}, file=file, environ=environ)
    assert (settings.n_ctx, settings.n_seq, settings.top_k) == (300, 3, 7)
    assert settings.seed is None
    assert settings.max_tokens == Settings().max_tokens


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert Settings.load(file=tmp_path / "none.toml", environ={}) == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_ctz = 1", "'n_ctz' in .*config.toml.* Did you mean 'n_ctx'"),
        ("n_ctx = -1", "-1 for 'n_ctx'"),
        ("n_ctx = 'many'", "'many' for 'n_ctx'"),
        ("[app]\nthemes = 'x'", "'app.themes'.* Did you mean 'theme'"),
        ("n_ctx = ", "config.toml' is no valid TOML"),
        ("kv_type = 'f8'", "'f8' for 'kv_type'"),
    ],
)
def test_a_bad_setting_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Settings.load(file=write(tmp_path, text), environ={})


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"system = '\xff'")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        Settings.load(file=path, environ={})


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="environment variable QUIETDESK_TOP_P"):
        Settings.load(file=Path("/nonexistent"), environ={"QUIETDESK_TOP_P": "7"})


def test_lists_and_tables_come_from_a_file_a_variable_or_an_assignment_alike(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, 'stop = ["END"]\nstop_tokens = [3]\n[logit_bias]\n12 = -100\n')
    from_file = Settings.load(file=file, environ={})
    environ = {
        "QUIETDESK_STOP": '["END"]',
        "QUIETDESK_STOP_TOKENS": "[3]",
        "QUIETDESK_LOGIT_BIAS": "{12 = -100}",
    }
    nowhere = Path("/nonexistent")
    assert Settings.load(file=nowhere, environ=environ) == from_file
    assigned = read_assignments(['stop=["END"]', "stop_tokens=[3]", "logit_bias={12 = -100}"])
    assert Settings.load(assigned, file=nowhere, environ={}) == from_file
    assert from_file.logit_bias == {12: -100.0}
    with pytest.raises(ConfigError, match="'END' for 'stop' in the environment variable"):
        Settings.load(file=nowhere, environ={"QUIETDESK_STOP": "END"})


def test_an_assignment_is_a_value_as_in_the_file_or_a_word() -> None:
    given = ["top_k=3", "kv_type=q8_0", "system=one = two", "ignore_end=true", "model="]
    assert read_assignments(given) == {
        "top_k": 3,
        "kv_type": "q8_0",
        "system": "one = two",
        "ignore_end": True,
        "model": "",
    }
    assert read_assignments(["system=1\ntop_k = 2"]) == {"system": "1\ntop_k = 2"}
    with pytest.raises(ConfigError, match="'top_k' sets nothing: write NAME=VALUE"):
        read_assignments(["top_k"])
    with pytest.raises(ConfigError, match="'top_k' is set twice"):
        read_assignments(["top_k=1", "top_k=2"])


def test_the_files_place_can_be_named() -> None:
    assert config_file({"QUIETDESK_CONFIG": "/etc/desk.toml"}) == Path("/etc/desk.toml")
