"""Defaults, then file, then environment, then arguments; nothing unknown passes."""

from pathlib import Path

import pytest

from quietdesk.config import Settings, config_file
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


def test_the_files_place_can_be_named() -> None:
    assert config_file({"QUIETDESK_CONFIG": "/etc/desk.toml"}) == Path("/etc/desk.toml")
