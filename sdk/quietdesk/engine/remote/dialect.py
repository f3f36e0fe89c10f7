"""Dialect: how each kind of server is asked for a reply, and what it cannot be asked for.

Every parameter is sent, also where it has its neutral value: servers have defaults of their own,
which would apply silently. Only what belongs to a step that is off is left out. How far the
penalties look back can only be said to llama-server: elsewhere our default passes, and is theirs.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any

from quietdesk.engine.remote.endpoint import Json, Kind
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.errors import UnsupportedOptionError

_COMMON = {
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "logit_bias": "logit_bias",
}
_MIROSTAT = {"mirostat_tau": "mirostat_tau", "mirostat_eta": "mirostat_eta"}
_DRY = {
    name: name
    for name in (
        "dry_multiplier",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
    )
}
_LLAMA = {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repeat_penalty"} | _MIROSTAT
_NAMES: Mapping[Kind, Mapping[str, str]] = {
    Kind.LLAMA_SERVER: _COMMON
    | _LLAMA
    | {
        "typical_p": "typical_p",
        "penalty_last_n": "repeat_last_n",
        "grammar": "grammar",
    }
    | _DRY,
    Kind.LLAMA_CPP_PYTHON: _COMMON | _LLAMA | {"grammar": "grammar"},
    Kind.VLLM: _COMMON
    | {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"},
    Kind.OTHER: _COMMON,
}
"""The name of each field of `Sampling`, by the kind of server."""

_MIROSTAT_SWITCH = {Kind.LLAMA_SERVER: "mirostat", Kind.LLAMA_CPP_PYTHON: "mirostat_mode"}
_LEFT_OUT_BY_MIROSTAT: Mapping[Kind, Seq[str]] = {
    Kind.LLAMA_SERVER: (
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "dry_multiplier",
    ),
    Kind.LLAMA_CPP_PYTHON: ("temperature",),
}
"""What these servers do not apply with mirostat, and do not tell."""
_GOES_ON = frozenset({Kind.LLAMA_SERVER, Kind.VLLM})
"""Kinds that can be told to go on after the model's end token: `ignore_eos`."""


def unsupported(kind: Kind) -> frozenset[str]:
    """Names of what a kind of server cannot be asked for: fields of `Sampling` and `Limits`."""
    missing = set(Sampling.__dataclass_fields__) - set(_NAMES[kind])
    if kind not in _GOES_ON:
        missing.add("ignore_end")
    if kind is not Kind.VLLM:
        missing.add("stop_tokens")
    return frozenset(missing)


def body(
    kind: Kind, endpoint: str, sampling: Sampling, limits: Limits, stop: Seq[str]
) -> dict[str, Json]:
    """The parameters of a request, as JSON.

    Args:
        kind: Of the server.
        endpoint: Its address, for errors.
        sampling: How tokens are chosen.
        limits: When the reply ends.
        stop: Strings that the server ends the reply at.

    Raises:
        UnsupportedOptionError: it cannot be asked for one of them.
    """
    neutral: Mapping[str, Any] = {
        name: field.default for name, field in Sampling.__dataclass_fields__.items()
    }
    if sampling.calls is not None:
        raise UnsupportedOptionError(
            "tools", endpoint, "calls are bound by a grammar, which models in this process have."
        )
    missing = unsupported(kind)
    for name in missing & neutral.keys():
        if getattr(sampling, name) != neutral[name]:
            raise UnsupportedOptionError(
                name, endpoint, f"{kind} servers take no such parameter. Leave it at its default."
            )
    for name in missing & {"ignore_end", "stop_tokens"}:
        if getattr(limits, name):
            raise UnsupportedOptionError(name, endpoint, f"{kind} servers cannot be told so.")
    out: dict[str, Json] = {
        own: getattr(sampling, name) for name, own in _NAMES[kind].items() if name != "logit_bias"
    }
    if sampling.logit_bias:
        pairs = sampling.logit_bias
        listed = [[token, bias] for token, bias in pairs]
        llama = kind is Kind.LLAMA_SERVER
        out["logit_bias"] = listed if llama else {str(token): bias for token, bias in pairs}
    if not sampling.grammar:
        out.pop("grammar", None)
    if not sampling.dry_multiplier:
        for name in _DRY.keys() - {"dry_multiplier"}:
            out.pop(name, None)
    elif not sampling.dry_sequence_breakers:
        raise UnsupportedOptionError(
            "dry_sequence_breakers", endpoint, f"{kind} servers want at least one."
        )
    if (switch := _MIROSTAT_SWITCH.get(kind)) is not None:
        if sampling.mirostat_tau > 0:
            out[switch] = 2
            _refuse_what_mirostat_leaves_out(kind, endpoint, sampling)
        else:
            # Off; their tau has to be a positive number all the same.
            for name in _MIROSTAT.values():
                del out[name]
    if kind is Kind.VLLM and not sampling.top_k:
        out["top_k"] = -1  # all; 0 is refused by versions before 0.9
    out["max_tokens"] = limits.max_tokens
    if stop:
        out["stop"] = list(stop)
    if limits.ignore_end:
        out["ignore_eos"] = True
    if limits.stop_tokens:
        out["stop_token_ids"] = sorted(limits.stop_tokens)
    return out


def _refuse_what_mirostat_leaves_out(kind: Kind, endpoint: str, sampling: Sampling) -> None:
    for name in _LEFT_OUT_BY_MIROSTAT[kind]:
        off = 1.0 if name == "temperature" else Sampling.__dataclass_fields__[name].default
        if getattr(sampling, name) != off:
            raise UnsupportedOptionError(
                name, endpoint, f"{kind} servers leave it out with mirostat. Set it to {off:g}."
            )
