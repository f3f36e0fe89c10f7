"""Loading: which model file is used, how it is run on this machine, and the engine on it."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from quietdesk.config import Settings
from quietdesk.engine.backend import Backend
from quietdesk.engine.device import (
    Choice,
    DevicePlan,
    Machine,
    machine,
    plan,
    refuse_what_does_not_fit,
)
from quietdesk.engine.draft_model import GUESSED_SEQUENCES, READ_ROWS, DraftModel
from quietdesk.engine.engine import Engine
from quietdesk.engine.offload import Gpu
from quietdesk.engine.remote.endpoint import Address, is_address, read_address
from quietdesk.engine.runner import Runner
from quietdesk.engine.states.keeper import StateKeeper
from quietdesk.engine.vocabulary import Vocabulary, differences
from quietdesk.errors import (
    ConfigError,
    DraftModelError,
    ModelError,
    ModelFileError,
    UnknownNameError,
)
from quietdesk.prompt.template import ChatTemplate
from quietdesk.prompt.window import Window
from quietdesk_models import quantise
from quietdesk_models.catalog import STARTER
from quietdesk_models.errors import BadFileError, ModelsError, UnknownModelError
from quietdesk_models.gguf import Header, read_model
from quietdesk_models.weights import Found, find


@dataclass(frozen=True, slots=True)
class ChosenDraft:
    """Which draft model guesses ahead, and how it is run."""

    found: Found
    path: Path
    reason: str
    """Why this file."""
    plan: DevicePlan

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What it takes beside the model."""
        needed = f"{self.plan.needed_bytes / 2**20:,.0f} MiB"
        why = f"beside the model, for {self.plan.n_seq} of its sequences, an estimate"
        return (
            Choice("draft_model", str(self.path), f"{self.found.name}: {self.reason}"),
            Choice("draft memory", needed, why),
        )


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """Which model is loaded, from which file, and how it is run here."""

    found: Found
    path: Path
    """The file that is loaded: what was found, or what was requantised from it."""
    reason: str
    """Why this file."""
    plan: DevicePlan
    wants_quantising: bool
    """Whether a type that is faster here has yet to be looked for."""
    draft: ChosenDraft | None = None


def choose_model(model: str | Path | None, settings: Settings) -> ChosenModel:
    """Which file is loaded, and how it is run here; the same of the draft model, if one is set.

    Raises:
        UnknownNameError: no such model.
        ModelError: it is not here, or it is no whole GGUF file.
        ModelTooLargeError: it does not fit.
        DraftModelError: the draft model's header tells that it does not go with the model.
    """
    name = str(model) if model is not None else settings.model
    file = _choose_file(name, settings)
    here = machine(find_gpus())
    draft, beside = None, here
    if settings.draft_model:
        draft = _choose_draft(name, file, settings, here)
        beside = _without(here, draft.plan)
    chosen = _plan(file.header, beside, settings)
    if draft is None:
        refuse_what_does_not_fit(name, chosen, here)
    else:
        both = replace(chosen, needed_bytes=chosen.needed_bytes + draft.plan.needed_bytes)
        refuse_what_does_not_fit(f"{name}, with {settings.draft_model} as its draft", both, here)
    return ChosenModel(file.found, file.path, file.reason, chosen, file.wants_quantising, draft)


@dataclass(frozen=True, slots=True)
class _File:
    found: Found
    path: Path
    reason: str
    wants_quantising: bool
    header: Header


def _choose_file(name: str, settings: Settings) -> _File:
    try:
        found = find(name)
        path, reason, wants = found.path, str(found.origin), False
        if settings.quantise and found.card is not None and found.card.name == STARTER:
            choice = quantise.ready(found.path)
            wants = choice is None
            if choice is not None:
                path, reason = Path(choice.path), choice.reason
        return _File(found, path, reason, wants, read_model(path))
    except UnknownModelError as error:
        hint = "`quietdesk models list` shows all; a path to a GGUF works too."
        raise UnknownNameError("model", name, error.known, hint) from None
    except BadFileError as error:
        raise ModelFileError(str(error.path), error.reason) from None
    except ModelsError as error:
        raise ModelError(str(error)) from None


def _plan(header: Header, here: Machine, settings: Settings) -> DevicePlan:
    return plan(
        header,
        here,
        n_ctx=settings.n_ctx,
        n_seq=settings.n_seq,
        n_batch=settings.n_batch,
        n_threads=settings.n_threads,
        n_gpu_layers=settings.n_gpu_layers,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
    )


def _choose_draft(name: str, file: _File, settings: Settings, here: Machine) -> ChosenDraft:
    """The draft model's file, and its place beside the model."""
    if is_address(settings.draft_model):
        raise ConfigError(
            f"The draft model {settings.draft_model!r} is an address, and guesses have to be made "
            "in this process. Give a name of the catalogue or the path of a GGUF file."
        )
    draft = _choose_file(settings.draft_model, settings)
    kinds = [
        Vocabulary(header.vocabulary_kind, header.n_vocab) for header in (file.header, draft.header)
    ]
    if reasons := differences(*kinds):
        raise DraftModelError(settings.draft_model, name, reasons)
    n_ctx = _plan(file.header, here, settings).n_ctx
    chosen = plan(
        draft.header,
        here,
        n_ctx=min(n_ctx, draft.header.n_ctx_train or n_ctx),
        n_seq=min(settings.n_seq or GUESSED_SEQUENCES, GUESSED_SEQUENCES),
        n_batch=READ_ROWS,
        n_threads=settings.n_threads,
        n_gpu_layers=settings.n_gpu_layers,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
    )
    return ChosenDraft(draft.found, draft.path, draft.reason, chosen)


def _without(here: Machine, taken: DevicePlan) -> Machine:
    """The machine beside what a plan takes of it."""
    gpus = [
        replace(gpu, free_bytes=max(0, gpu.free_bytes - size))
        for gpu, size in zip(here.gpus, taken.gpu_bytes, strict=False)
    ]
    return replace(
        here,
        memory_bytes=max(0, here.memory_bytes - taken.needed_bytes),
        gpus=(*gpus, *here.gpus[len(gpus) :]),
    )


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs that llama.cpp can use; none where it is not installed."""
    try:
        # An optional extra, and a native library that takes its time.
        from quietdesk.engine.llama.gpus import gpus
    except ModuleNotFoundError:
        return ()
    return gpus()


def open_engine(
    model: str | Path | None,
    settings: Settings,
    on_progress: Callable[[float], bool] | None = None,
    *,
    look_for_faster: bool = True,
    states: StateKeeper | None = None,
) -> Backend:
    """The model that is named, or the settings', on its own engine or on its server.

    Raises as `choose_model` and `open_endpoint` do.

    Args:
        model: A name, a path, or a server's address.
        settings: In force.
        on_progress: Told the share that is loaded, 0 to 1; False stops it.
        look_for_faster: Whether a type of the starter that is faster here is looked for in the
            background, for the next start; not worth beginning in a process that ends soon.
        states: Keeps states on disk.
    """
    named = str(model) if model is not None else settings.model
    if is_address(named):
        if settings.draft_model:
            raise ConfigError(
                f"draft_model is {settings.draft_model!r}, and the model runs on a server, which "
                "guesses by itself or not at all. Set draft_model to nothing for it."
            )
        return open_endpoint(named, settings)
    chosen = choose_model(model, settings)
    try:
        # An optional extra, and a native library that takes its time.
        from quietdesk.engine.llama.runner import LlamaRunner
    except ModuleNotFoundError as error:
        raise ModelError(
            f"The package {error.name!r} is not installed: pip install 'quietdesk[llama]'."
        ) from None
    given_up = threading.Event()

    def go_on(share: float) -> bool:
        return not given_up.is_set() and (on_progress is None or on_progress(share))

    def open_draft(draft: ChosenDraft, target: Runner) -> DraftModel:
        runner = LlamaRunner(
            draft.path,
            draft.plan,
            name=draft.found.name,
            on_progress=lambda share: not given_up.is_set(),
        )
        try:
            assert isinstance(target, LlamaRunner)
            if reasons := differences(target.vocabulary(), runner.vocabulary()):
                raise DraftModelError(runner.info.name, target.info.name, reasons)
            guessing = DraftModel(runner, target)
        except BaseException:
            runner.close()
            raise
        # Guesses change the shape of batches, and so the last bits of what is computed.
        used = ("draft_model", f"{runner.info.name} {runner.info.fingerprint[:12]}")
        target.info = replace(target.info, options=(*target.info.options, used))
        return guessing

    engine = Engine(
        lambda: LlamaRunner(chosen.path, chosen.plan, name=chosen.found.name, on_progress=go_on),
        queue_limit=settings.queue_limit,
        parked_bytes=settings.state_cache_mb * 2**20,
        states=states,
        open_draft=None if chosen.draft is None else partial(open_draft, chosen.draft),
        give_up=given_up.set,
    )
    if chosen.wants_quantising and look_for_faster:
        _quantise_aside(chosen.found.path)
    return engine


def open_window(engine: Backend, n_ctx: int, policy: str, notes: Sequence[str] = ()) -> Window:
    """What fits conversations into a model's context, with the model's own chat template.

    Args:
        engine: The model.
        n_ctx: Tokens of prompt and reply together.
        policy: What gives way: a name in `policies.POLICIES`.
        notes: Sentences that every report has.

    Raises:
        UnknownNameError: no such policy.
    """
    info = engine.model
    template = ChatTemplate(
        info.chat_template,
        bos_token=info.bos_token,
        eos_token=info.eos_token,
        special_tokens=info.special_tokens,
        served=info.renders,
        notes=(*info.notes, *notes),
    )
    return Window(
        template,
        engine.tokenize,
        n_ctx=n_ctx,
        policy=policy,
        special_tokens=info.special_tokens,
        max_piece_bytes=info.max_piece_bytes,
        estimated=info.renders,
    )


def open_endpoint(model: str, settings: Settings) -> Backend:
    """The model of a server, by the server's address.

    Raises:
        UsageError: it is no address.
        ModelError: the package that speaks HTTP is not installed.
        ConfigError: the key is not in the keyring, or a setting does not suit the server.
        UnknownNameError: the server has no such model.
        EndpointError: it is not there, or refuses.
    """
    try:
        # An optional extra.
        from quietdesk.engine.remote.backend import RemoteBackend
        from quietdesk.engine.remote.connection import Patience, proxy_for
    except ModuleNotFoundError as error:
        raise ModelError(
            f"The package {error.name!r} is not installed: pip install 'quietdesk[remote]'."
        ) from None
    address = read_address(model)
    return RemoteBackend(
        address,
        key=_endpoint_key(settings),
        proxy=proxy_for(address),
        patience=Patience(
            settings.endpoint_connect_s,
            settings.endpoint_first_token_s,
            settings.endpoint_next_token_s,
            settings.endpoint_retries,
        ),
        n_ctx=settings.n_ctx,
        n_seq=settings.n_seq,
        queue_limit=settings.queue_limit,
    )


def open_exporter(engine: Backend, port: int) -> Callable[[], None]:
    """Let Prometheus read the engine's metrics on a port here, until what is returned is called.

    Raises:
        ModelError: its client is not installed.
        ConfigError: the port cannot be had.
    """
    try:
        # An optional extra.
        from quietdesk.engine.prometheus import export
    except ModuleNotFoundError as error:
        raise ModelError(
            f"The package {error.name!r} is not installed: pip install 'quietdesk[metrics]'."
        ) from None
    return export(engine, port).close


def route_to(address: Address) -> tuple[str, str]:
    """Where text for a model's server goes, and by which way, in words for a reader."""
    # An optional extra.
    from quietdesk.engine.remote.connection import proxy_for

    if address.is_loopback:
        return "this machine", "no text leaves it"
    proxy = proxy_for(address)
    way = f"through the proxy {proxy}, which the environment names" if proxy else "directly"
    return address.host, f"every prompt leaves this machine, {way}"


def _endpoint_key(settings: Settings) -> str:
    """The key itself, or what the system's keyring has under its name."""
    value = settings.endpoint_key.get_secret_value().strip()
    scheme, _, name = value.partition(":")
    if scheme != "keyring":
        return value
    try:
        # An optional extra.
        import keyring
        from keyring.errors import KeyringError
    except ModuleNotFoundError:
        raise ConfigError(
            "endpoint_key names the keyring, and its package is not installed: "
            "pip install 'quietdesk[remote]'."
        ) from None
    try:
        found = keyring.get_password("quietdesk", name)
    except KeyringError as error:
        raise ConfigError(
            f"The system's keyring cannot be read for endpoint_key: {error}"
        ) from None
    if not found:
        raise ConfigError(
            f"The system's keyring has no key {name!r} of the service 'quietdesk'. "
            f"`keyring set quietdesk {name}` puts it there."
        )
    return found


def _quantise_aside(source: Path) -> None:
    """Look for a faster type in the background.

    The work is done by a child process of the lowest priority, which ends with this one. A failure
    costs nothing but the gain, and `quietdesk models quantise` tells its reason.
    """

    def work() -> None:
        with contextlib.suppress(ModelsError):
            quantise.choose(source)

    threading.Thread(target=work, name="quietdesk-quantise", daemon=True).start()
