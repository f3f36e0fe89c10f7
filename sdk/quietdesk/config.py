"""Settings: defaults, then the config file, then the environment, then arguments.

The only module that reads the environment and the config file. An unknown key is refused with the
nearest known one, wherever it stands.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from quietdesk.errors import ConfigError, UsageError

ENV_PREFIX = "QUIETDESK_"

LEAST_TEMPERATURE = 1e-6
"""Of those above 0: logits divided by much less leave the range of a 32-bit float."""
MAX_BREAKER_BYTES = 40
"""llama.cpp reads no more of a sequence breaker."""
TRUNCATION: Mapping[str, float] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
"""Steps that cut unlikely tokens off, with the value that switches each off."""


class AppSettings(BaseModel):
    """Settings of the terminal app: the `[app]` table of the config file."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    theme: str = "quietdesk-dark"
    """Name of a theme; the command palette lists them."""
    keys: dict[str, str] = Field(default_factory=dict)
    """Own keys, action to key: `cancel = "ctrl+x"`. F1 in the app lists the actions."""


def _is_no_near_zero(temperature: float) -> float:
    if 0.0 < temperature < LEAST_TEMPERATURE:
        raise PydanticCustomError(
            "near_zero", f"Input should be 0, which is greedy, or at least {LEAST_TEMPERATURE:g}"
        )
    return temperature


def _is_one_c_string(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("no_c_string", "Input should be text without the character NUL")
    return text


def _is_short(breaker: str) -> str:
    if len(breaker.encode()) > MAX_BREAKER_BYTES:
        raise PydanticCustomError(
            "long_breaker", f"Input should have at most {MAX_BREAKER_BYTES} bytes of UTF-8"
        )
    return breaker


TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0)]
_StopString = Annotated[str, Field(min_length=1)]
_CString = Annotated[str, AfterValidator(_is_one_c_string)]
_Breaker = Annotated[_CString, Field(min_length=1), AfterValidator(_is_short)]


class Generation(BaseModel):
    """How a reply is generated; each field can be set for one reply too.

    The one place that knows the ranges: the engine's own parameters are checked here as well. The
    steps are llama.cpp's, in its order: logit bias, penalties, DRY, then `top_k`, `typical_p`,
    `top_p`, `min_p`, temperature and the draw.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    max_tokens: int = Field(512, ge=1, le=2**20)
    """Tokens of a reply at most."""
    stop: tuple[_StopString, ...] = ()
    """Strings that end the reply and are not part of it."""
    stop_tokens: frozenset[TokenId] = frozenset()
    """Ids of tokens that end the reply, as the model's own end token does."""
    ignore_end: bool = False
    """Go on after the model's own end token, as benchmarks do."""
    temperature: Annotated[float, AfterValidator(_is_no_near_zero)] = Field(0.7, ge=0.0, le=5.0)
    """0 is greedy: always the likeliest token."""
    top_k: int = Field(40, ge=0, le=2**31 - 1)
    """Only the k likeliest tokens; 0: all."""
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    """Only the likeliest tokens that together have this probability; 1: all."""
    min_p: float = Field(0.05, ge=0.0, le=1.0)
    """Only tokens with this share of the likeliest one's probability; 0: all."""
    typical_p: float = Field(1.0, gt=0.0, le=1.0)
    """Only the tokens nearest to the expected surprise that together have this probability; 1:
    all."""
    repeat_penalty: float = Field(1.0, ge=0.01, le=5.0)
    """Above 1, tokens that were used lately become less likely."""
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    """Taken from the logit of every token that was used lately."""
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    """Taken from a token's logit for each time it was used lately."""
    penalty_last_n: int = Field(256, ge=-1, le=2**20)
    """Tokens that these three penalties look back on, the prompt's too; 0: none, -1: all."""
    dry_multiplier: float = Field(0.0, ge=0.0, le=100.0)
    """Above 0, DRY takes `dry_multiplier * dry_base ** (n - dry_allowed_length)` from the logit of
    a token that would go on with a run of n tokens that stood before."""
    dry_base: float = Field(1.75, ge=1.0, le=10.0)
    """See `dry_multiplier`."""
    dry_allowed_length: int = Field(2, ge=0, le=2**20)
    """Shorter runs may be repeated."""
    dry_penalty_last_n: int = Field(64, ge=-1, le=2**20)
    """Tokens that DRY looks back on, the prompt's too; 0: none, -1: all."""
    dry_sequence_breakers: tuple[_Breaker, ...] = ("\n", ":", '"', "*")
    """No run goes on past one of these."""
    mirostat_tau: float = Field(0.0, ge=0.0, le=100.0)
    """Above 0, mirostat 2 keeps the surprise near this many bits a token, and takes the place of
    `top_k`, `top_p`, `min_p` and `typical_p`; it needs a temperature above 0."""
    mirostat_eta: float = Field(0.1, gt=0.0, le=1.0)
    """How fast mirostat learns."""
    logit_bias: dict[TokenId, Bias] = {}
    """What is added to the logits of tokens, by their ids; -100 bans a token."""
    grammar: _CString = ""
    """GBNF with a rule named `root` that the reply keeps to; empty: none. A schema that is given
    for a reply takes its place."""
    seed: int | None = Field(None, ge=0, le=2**32 - 2)
    """The same one draws the same tokens; None: another one each time."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.mirostat_tau and self.temperature == 0.0:
            raise PydanticCustomError(
                "mirostat_greedy",
                f"'mirostat_tau' is {self.mirostat_tau:g} and 'temperature' is 0, but mirostat "
                "draws tokens: give a temperature above 0, or set 'mirostat_tau' to 0",
            )
        for name, off in TRUNCATION.items() if self.mirostat_tau else ():
            value = getattr(self, name)
            if name in self.model_fields_set and value != off:
                raise PydanticCustomError(
                    "mirostat_truncation",
                    f"{name!r} is {value!r} and 'mirostat_tau' is {self.mirostat_tau:g}, but "
                    f"mirostat takes the place of {name!r}: leave one of them out",
                )
        return self

    @classmethod
    def checked(cls, values: Mapping[str, object]) -> Self:
        """These values, and defaults for the rest.

        Raises:
            UsageError: one is out of its range, or two do not fit together.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UsageError(_describe(error, {}, cls)) from None


class Settings(Generation):
    """Everything that can be set, with its default."""

    model: str = "smollm2-135m"
    """A model's name in the catalogue, the path of a GGUF file, or the address of a server that
    speaks OpenAI's API: `http://127.0.0.1:8080/v1`, with `#name` where it has several models."""
    draft_model: str = ""
    """A small model with the same vocabulary, by name or path, that guesses ahead where that is
    faster; the text stays the same. Empty: none."""
    database: str = ""
    """Path of an SQLite file or a database URL; empty: `quietdesk.db` in the data folder."""
    database_key: SecretStr = SecretStr("")
    """Passphrase of an encrypted database; better in the environment than in a file."""
    keyring: bool = False
    """Take the database's passphrase from the system's keyring."""
    keep_days: int = Field(0, ge=0, le=36500)
    """Days without use after which a conversation is removed for good, when the database is opened
    and daily while it is open; 0: never. One in which a reply is being written stays."""
    system: str = ""
    """System prompt of new conversations; empty: none."""

    n_ctx: int = Field(0, ge=0, le=2**20)
    """Tokens of context per conversation; 0: the model's own, at most 4,096."""
    n_seq: int = Field(0, ge=0, le=256)
    """Conversations decoded at the same time; 0: as many as pay off on this machine."""
    n_batch: int = Field(0, ge=0, le=8192)
    """Prompt tokens evaluated in one step at most; 0: 512 on a CPU, 2,048 on a GPU."""
    n_threads: int = Field(0, ge=0, le=1024)
    """CPU threads; 0: the physical cores that this process may use."""
    n_gpu_layers: int = Field(-1, ge=-1)
    """Layers on the GPU, the output counted as one; -1: as many as fit."""
    kv_type: Literal["f16", "q8_0", "f32"] = "f16"
    """Number format of the KV cache."""
    flash_attention: Literal["auto", "on", "off"] = "auto"
    quantise: bool = True
    """Requantise the starter model once to the type that is fastest on this machine."""
    queue_limit: int = Field(256, ge=1)
    """Requests that may wait; one more is refused at once."""
    state_cache_mb: int = Field(512, ge=0)
    """Memory for the KV states of conversations that are not being decoded, in MiB."""
    state_disk_mb: int = Field(1024, ge=0)
    """Disk space in the cache folder for KV states, so that a conversation goes on after a restart
    without being read again, in MiB; 0: none are kept. None are kept of an encrypted database."""

    debounce_s: float = Field(1.5, ge=0.0, le=3600.0)
    """Seconds without another message before `Conversation.say` has the model answer."""
    endpoint_key: SecretStr = SecretStr("")
    """Key of the model's server; `keyring:NAME` takes it from the system's keyring, where it stands
    under the service `quietdesk` and that name."""
    endpoint_connect_s: float = Field(5.0, gt=0)
    """Seconds until the model's server has to take a connection."""
    endpoint_first_token_s: float = Field(120.0, gt=0)
    """Seconds until a reply of the model's server has to begin."""
    endpoint_next_token_s: float = Field(30.0, gt=0)
    """Seconds from one token of the model's server to the next at most."""
    endpoint_retries: int = Field(3, ge=0, le=20)
    """How often the model's server is asked again, while it has said nothing yet."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Port on this machine where Prometheus may read the engine's metrics; 0: none."""

    overflow: str = "rolling-window"
    """What gives way when a conversation outgrows the context."""

    app: AppSettings = Field(default_factory=AppSettings)

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        file: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """The settings in force.

        Args:
            overrides: Arguments, the last word; None values are left out.
            file: The config file; the one of `config_file()` if None. It may be absent.
            environ: The environment; the process's own if None. `QUIETDESK_N_CTX` sets `n_ctx`.

        Raises:
            ConfigError: an unknown key, a bad value or a file that is no TOML, naming its place.
        """
        path = file or config_file()
        values: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for key, value in _read_toml(path).items():
            values[key], origin[key] = value, str(path)
        for name, text in (os.environ if environ is None else environ).items():
            if name.startswith(ENV_PREFIX) and name not in _NOT_SETTINGS:
                key = name.removeprefix(ENV_PREFIX).lower()
                composite = key in cls.model_fields and isinstance(
                    cls.model_fields[key].default, tuple | frozenset | dict
                )
                values[key] = _read_value(text) if composite else text
                origin[key] = f"the environment variable {name}"
        for key, value in (overrides or {}).items():
            if value is not None:
                values[key], origin[key] = value, "the arguments"
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_describe(error, origin, cls)) from None


_NOT_SETTINGS = frozenset({"QUIETDESK_CONFIG", "QUIETDESK_COMPLETE"})
"""Variables of ours that are not settings: the file's place, and shell completion's."""


def config_file(environ: Mapping[str, str] | None = None) -> Path:
    """The config file's place: `$QUIETDESK_CONFIG`, else `config.toml` in the config folder."""
    named = (os.environ if environ is None else environ).get("QUIETDESK_CONFIG")
    if named:
        return Path(named)
    return platformdirs.user_config_path("quietdesk", appauthor=False) / "config.toml"


def data_folder() -> Path:
    """Where conversations are kept; not created by asking."""
    return platformdirs.user_data_path("quietdesk", appauthor=False)


def cache_folder() -> Path:
    """Where what can be made again is kept: requantised models, downloads."""
    return platformdirs.user_cache_path("quietdesk", appauthor=False)


def state_folder() -> Path:
    """Where logs and the app's own state are kept."""
    return platformdirs.user_state_path("quietdesk", appauthor=False)


def scores_folder() -> Path:
    """Where the runs that `quietdesk score --save NAME` keeps stand, each in a folder."""
    return data_folder() / "scores"


def read_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """Settings written as `NAME=VALUE`, each value as in the config file; words need no quotes.

    Raises:
        ConfigError: one is no assignment, or two are for the same setting.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} sets nothing: write NAME=VALUE, as in top_k=20.")
        if name in found:
            raise ConfigError(f"{name!r} is set twice.")
        found[name] = _read_value(value)
    return found


def _read_value(text: str) -> Any:
    """A value as TOML has it; what is none is text."""
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return values["value"] if len(values) == 1 else text


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The config file {str(path)!r} is no valid TOML: {error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config file {str(path)!r} cannot be read: {error}.") from None


def _describe(error: ValidationError, origin: Mapping[str, str], model: type[BaseModel]) -> str:
    """The first problem in words: what, where, and the nearest known name."""
    problem = error.errors()[0]
    if not problem["loc"]:
        return f"{problem['msg']}."
    where = ".".join(str(part) for part in problem["loc"])
    place = f" in {origin.get(str(problem['loc'][0]), 'the settings')}" if origin else ""
    if problem["type"] == "extra_forbidden":
        known = AppSettings.model_fields if len(problem["loc"]) > 1 else model.model_fields
        near = get_close_matches(str(problem["loc"][-1]), list(known), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known are: {', '.join(known)}."
        return f"Unknown setting {where!r}{place}.{hint}"
    if where == "endpoint_key":
        return f"Bad value for 'endpoint_key'{place}: {problem['msg']}."
    return f"Bad value {problem['input']!r} for {where!r}{place}: {problem['msg']}."
