"""The catalogue: complete, consistent, and forgiving about names."""

import re

import pytest

from quietdesk_models import catalog
from quietdesk_models.catalog import STARTER, cards, find_card
from quietdesk_models.errors import UnknownModelError
from quietdesk_models.gguf import FILE_TYPES, read_model
from quietdesk_models.weights import locate


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_a_card_is_complete_and_its_numbers_fit_each_other(card: catalog.ModelCard) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", card.name)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", card.repo)
    assert re.fullmatch(r"[0-9a-f]{40}", card.revision)
    assert card.file.endswith(".gguf")
    assert card.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", card.sha256)
    assert card.quantisation in FILE_TYPES.values()
    assert card.licence in {"Apache-2.0", "MIT"} or card.licence_url.startswith("https://")
    # No type that a catalogue would list takes less than 4 or more than 9 bits for a weight.
    assert card.size_bytes is None or 4 < card.size_bytes * 8 / card.n_params < 9


def test_the_starter_comes_first_then_the_small_ones() -> None:
    assert cards()[0].name == STARTER
    sizes = [card.n_params for card in cards()[1:]]
    assert sizes == sorted(sizes)
    assert len({card.name for card in cards()}) == len(cards())
    assert len({card.sha256 for card in cards()}) == len(cards())


def test_the_starters_card_says_what_its_file_says(starter_path: object) -> None:
    card, header = find_card(STARTER), read_model(locate(STARTER))
    assert (card.n_params, card.n_ctx) == (header.n_params, header.n_ctx_train)
    assert (card.size_bytes, card.quantisation) == (header.file_bytes, header.quantisation)


def test_capital_letters_do_not_matter() -> None:
    assert find_card("SmolLM2-135M").name == STARTER


def test_an_unknown_name_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError) as caught:
        find_card("quen2.5-1.5b")
    assert caught.value.nearest[0] == "qwen2.5-1.5b"
    assert "'qwen2.5-1.5b'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a]\nsise = 3", "unknown keys"),
        ("[a]\ntitle = 'x'", "incomplete"),
        ("[a]\nn_ctx = 1.5", "1.5"),
        ("[qwen2.5]\ntitle = 'x'", "unknown keys"),
    ],
)
def test_a_catalogue_with_a_mistake_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        catalog.parse(text)
