"""Endpoint: a model's server, where it stands, of which kind it is, and what it tells of itself."""

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from quietdesk.engine.runner import ModelInfo
from quietdesk.errors import UsageError

Json: TypeAlias = Any
"""A value as JSON has it."""

ASSUMED_CTX = 4096
"""Tokens, where a server does not tell: what most servers open by default or more."""
ASSUMED_SEQ = 32
"""Requests at the same time, where a server does not tell how many it serves at a time."""

CONTROL_TEXTS = (
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|end_of_text|>"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|python_tag|>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|tool|>"),
    *("<|end|>", "<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
    *("<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|file_sep|>", "<|repo_name|>", "<|pad|>", "<|bos|>", "<|eos|>"),
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<s>", "</s>", "<unk>", "<pad>"),
    *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "[gMASK]", "<sop>"),
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>"),
    *("<|CHATBOT_TOKEN|>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    *("<｜User｜>", "<｜Assistant｜>"),
)
"""Texts of control tokens of the common model families: no server lists its vocabulary."""


class Kind(StrEnum):
    """What answers at an address."""

    LLAMA_SERVER = "llama-server"
    VLLM = "vLLM"
    LLAMA_CPP_PYTHON = "llama-cpp-python"
    OTHER = "OpenAI-compatible"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a model's server stands, and which of its models is meant."""

    url: str
    """With the API's path and without a slash at the end: `http://127.0.0.1:8080/v1`."""
    model: str = ""
    """Empty: the only one that it has."""

    @property
    def root(self) -> str:
        """The server's own address, above the API's path."""
        return self.url.removesuffix("/v1")

    @property
    def host(self) -> str:
        """Its name or number."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine itself: then no text leaves it."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def is_address(model: str) -> bool:
    """Whether a model is named by a server's address."""
    return model.lower().startswith(("http://", "https://"))


def read_address(text: str) -> Address:
    """An address as it is typed: `http://127.0.0.1:8080/v1#name`; `/v1` may be left out.

    Raises:
        UsageError: it is none, or it carries a password.
    """
    try:
        parts = urlsplit(text)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        port_is_right = False
    if not port_is_right or not parts.hostname or parts.query or not is_address(text):
        raise UsageError(
            f"{text!r} is no address of a model's server. One looks like "
            "http://127.0.0.1:8080/v1, with #name where it has several models."
        )
    if parts.username or parts.password:
        raise UsageError(
            f"The address of {parts.hostname!r} carries a password. Set endpoint_key instead, "
            "which is never shown."
        )
    path = parts.path.rstrip("/") or "/v1"
    return Address(urlunsplit((parts.scheme, parts.netloc, path, "", "")), parts.fragment)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server tells of itself and of the model."""

    kind: Kind
    model_id: str
    """What the server calls the model; empty where it does not list any."""
    n_ctx: int = 0
    """Tokens of one conversation; 0 where it does not tell."""
    n_seq: int = 0
    """Requests that it serves at the same time; 0 where it does not tell."""
    chat_template: str | None = None
    bos_token: str = ""
    eos_token: str = ""
    meta: dict[str, Json] = field(default_factory=dict)
    """More about the model, as llama-server tells it."""

    @property
    def takes_tokens(self) -> bool:
        """Whether prompts are sent as tokens, since template and tokeniser are both known."""
        return self.kind is Kind.LLAMA_SERVER and self.chat_template is not None

    @property
    def has_tokenizer(self) -> bool:
        """Whether it counts the tokens of a text at any time.

        llama-cpp-python's server counts too, but not while it writes a reply.
        """
        return self.kind in (Kind.LLAMA_SERVER, Kind.VLLM)

    def model_info(self, address: Address) -> ModelInfo:
        """The same in the engine's words, with what is special about it in words for a reader."""
        number = {key: value for key, value in self.meta.items() if isinstance(value, int)}
        told = [self.kind, self.model_id, self.chat_template, self.meta]
        name = self.model_id.rsplit("/", 1)[-1] if self.model_id.startswith("/") else self.model_id
        known = (*CONTROL_TEXTS, self.bos_token, self.eos_token)
        return ModelInfo(
            name=name or address.host,
            architecture="",
            path="",
            size_bytes=number.get("size", 0),
            n_params=number.get("n_params", 0),
            n_ctx_train=number.get("n_ctx_train", self.n_ctx),
            n_vocab=number.get("n_vocab", 0),
            quantisation=str(self.meta.get("ftype", "")),
            chat_template=self.chat_template,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            adds_bos=False,
            special_tokens=tuple(dict.fromkeys(filter(None, known))) if self.takes_tokens else (),
            max_piece_bytes=256,
            fingerprint=hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest(),
            server=str(self.kind),
            renders=not self.takes_tokens,
            notes=() if self.takes_tokens else (_rendering_note(self),),
        )


def _rendering_note(facts: Facts) -> str:
    """What a reader of a context report should know where the server renders the messages."""
    counted = "with its tokeniser, " if facts.has_tokenizer else "by their characters, "
    return (
        f"The model's server ({facts.kind}) puts messages into the model's form by itself, so "
        f"tokens are estimated {counted}and control tokens' texts in what people wrote are broken "
        "up by an invisible letter (U+2060)."
    )
