"""The catalogue: what is known of each model that has a name here."""

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

from quietdesk_models.errors import UnknownModelError

STARTER = "smollm2-135m"
"""The model that a Python package carries, so that nothing need be downloaded."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model before any of its bytes are here."""

    name: str
    """Its name in Quietdesk: lower case, with its size."""
    title: str
    repo: str
    """Owner and name of the repository on the Hugging Face hub that holds the file."""
    revision: str
    """The commit of that repository, or a branch where no commit could be checked."""
    file: str
    quantisation: str
    n_ctx: int
    """Context length that it was trained for, in tokens."""
    n_params: int
    template: str
    """Family of its chat template, for the reader; the file's own template is what is used."""
    licence: str
    """SPDX identifier, or the licence's own name where it has none."""
    size_bytes: int | None = None
    sha256: str | None = None
    """Hex; None where it could not be checked, then the first download is trusted and recorded."""
    licence_url: str = ""
    """Where terms that are not a common open-source licence can be read."""
    package: str = ""
    """Python distribution that carries the file; empty: it has to be downloaded."""
    ollama: str = ""
    """The same model in Ollama's library, as `family:tag`; empty where there is none."""
    note: str = ""

    @property
    def is_open(self) -> bool:
        """Whether its licence is an open-source one, without terms of use of its own."""
        return not self.licence_url


@cache
def cards() -> tuple[ModelCard, ...]:
    """All cards, in the catalogue's order: the starter first, then by size."""
    text = files("quietdesk_models").joinpath("catalog.toml").read_text(encoding="utf-8")
    return parse(text)


def parse(text: str) -> tuple[ModelCard, ...]:
    """The cards of a catalogue in TOML.

    Raises:
        ValueError: a table has an unknown key, lacks one, or a value has the wrong type.
    """
    known = {field.name: field.type for field in fields(ModelCard)}
    result = []
    for name, table in tomllib.loads(text).items():
        if unknown := sorted(set(table) - set(known)):
            raise ValueError(f"The catalogue's table {name!r} has the unknown keys {unknown}.")
        for key, value in table.items():
            if type(value) is not int and type(value) is not str:
                raise ValueError(f"The catalogue's {name}.{key} is {value!r}.")
        try:
            result.append(ModelCard(name=name, **table))
        except TypeError as error:
            raise ValueError(f"The catalogue's table {name!r} is incomplete: {error}.") from None
    return tuple(result)


def find_card(name: str) -> ModelCard:
    """The card of that name; capital letters do not matter.

    Raises:
        UnknownModelError: there is none; it carries the nearest names.
    """
    known = {card.name: card for card in cards()}
    card = known.get(name.lower())
    if card is None:
        raise UnknownModelError(name, known)
    return card
