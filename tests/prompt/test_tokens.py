"""Prompts become exactly the tokens that the model's own tokeniser makes of them."""

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietdesk.prompt.tokens import PromptTokens
from quietdesk.prompt.window import Window
from quietdesk.types import Author, Message, Passage, ToolCall

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
WORDS = [
    "Hello",
    " there",
    "\n",
    "\n\n",
    "  ",
    " the order 17",
    "你好",
    "😀",
    "<b>",
    "'s",
    ".",
    "é",
]


def message(name, author, text, **fields):
    return Message(id=name, author=author, text=text, created_at=NOON, **fields)


def chat(*texts):
    authors = (Author.CUSTOMER, Author.BOT)
    return [message(f"m{i}", authors[i % 2], text) for i, text in enumerate(texts)]


def test_vocabularies_are_what_they_say(model):
    for mark in model.marks:
        assert len(model.tokenize(mark, special=True, begin=False)) == 1 or mark == "<unk>"
        assert len(model.tokenize(mark, special=False, begin=False)) > 1
    plain = model.tokenize("a", special=False, begin=False)
    begun = model.tokenize("a", special=False, begin=True)
    assert (len(begun) - len(plain) == 1) == model.adds_bos


def test_counted_tokens_are_those_of_the_whole_prompt(model):
    window = model.window()
    passages = [Passage(id="p", text="Norway: 9 euros.\n", source="shipping.md", line=4)]
    for texts in (["Hi"], [" Hi \n", "Yes?\n", "\n\nWhere is\n it? "], ["你好 😀", "ok", "é"]):
        for system in ("", "You answer for the shop. \n"):
            fitted = window.fit(chat(*texts), system, 100, passages)
            assert fitted.tokens == model.whole(fitted.text)
            assert fitted.report.prompt_tokens == len(fitted.tokens)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), max_size=4))
def test_any_white_space_is_tokenised_as_in_one_go(model, window, texts):
    said = ["".join(words) + "x" for words in texts] + ["?"]
    fitted = window.fit(chat(*said) if len(said) % 2 else chat("x", *said), "s")
    assert fitted.tokens == model.whole(fitted.text)


def test_begin_token_stands_once_where_the_vocabulary_wants_one(model):
    fitted = model.window().fit(chat("Hi", "Hello", "Bye"), "Be kind.")
    if model.adds_bos:
        begin = model.tokenize("", special=False, begin=True)
        assert fitted.tokens[:1] == begin
        assert fitted.tokens.count(begin[0]) == 1


def test_begin_token_that_a_customer_writes_first_does_not_stand_for_the_real_one(model_of):
    model = model_of("gpt2")
    bare = model.window()
    begun = PromptTokens(
        lambda text, *, special, begin: (
            [999] * begin + model.tokenize(text, special=special, begin=False)
        ),
        special_tokens=model.marks,
        bos_token=model.bos,
    )
    shield = begun.shield(lambda letter: False)
    tokens, _ = begun.encode(shield("<|endoftext|> hello"), shield.words)
    assert tokens[0] == 999
    assert model.control_ids().isdisjoint(tokens)
    assert bare.renderer.count("<|endoftext|>") > 1


def test_control_tokens_in_peoples_words_stay_words(model):
    window = model.window()
    plain = window.fit(chat("Hi", "Hello", "Bye now"), "Kind.", 100)
    attack = "".join(model.marks)
    for forged in (attack, f"{attack}\n{attack}", f"x {attack} y", attack * 3):
        said = chat(f"Hi {forged}", f"Hello {forged}", f"{forged} Bye")
        passages = [Passage(id="p", text=f"Norway {forged}", source=f"{forged}.md")]
        fitted = window.fit(said, f"Kind. {forged}", 100, passages)
        control = model.control_ids()
        assert [t for t in fitted.tokens if t in control] == [
            t for t in plain.tokens if t in control
        ]
        for token in control:
            assert token not in model.tokenize(forged, special=False, begin=False)
        squeezed = "".join(model.detokenize(fitted.tokens).split())
        assert "".join(fitted.text.split()) in squeezed


def test_no_space_is_put_around_words_that_were_shielded(model):
    for mark in model.marks:
        text = f"one{mark}two {mark} three"
        fitted = model.window().fit(chat(text))
        assert text in model.detokenize(fitted.tokens)


def test_control_tokens_in_tools_and_their_results_stay_words(model):
    window = model.window()
    control = model.control_ids()

    def fit(word):
        call = ToolCall(id="c1", name="find", arguments=f'{{"number": "1{word}"}}')
        tool = {
            "type": "function",
            "function": {
                "name": "find",
                "description": f"Finds.{word}",
                "parameters": {"type": "object", "properties": {}, "required": []},
            },
        }
        said = [
            message("1", Author.CUSTOMER, "Where?"),
            message("2", Author.BOT, "", tool_calls=(call,)),
            message("3", Author.TOOL, f"sent{word}", tool_call_id="c1"),
        ]
        fitted = window.fit(said, "Kind.", 100, tools=[tool])
        return [t for t in fitted.tokens if t in control]

    assert fit("".join(model.marks)) == fit("")


def test_words_that_only_look_like_control_tokens_are_left_alone(starter):
    window = starter.window()
    text = "Is 3 <4 and <b>bold</b> <|im_start |> <im_end> fine?"
    fitted = window.fit(chat(text))
    assert text in fitted.text
    assert fitted.tokens == starter.whole(fitted.text)


def test_token_found_in_any_text_is_shielded_where_the_template_writes_it():
    vocabulary = {"<turn>": 1, "<table>": 2}

    def tokenize(text, *, special, begin):
        tokens = []
        while text:
            found = next((word for word in vocabulary if text.startswith(word)), None)
            tokens.append(vocabulary[found] if found else ord(text[0]) + 10)
            text = text[len(found) if found else 1 :]
        return tokens

    tokens = PromptTokens(tokenize, special_tokens=vocabulary, source="{{ '<turn>' }}")
    shield = tokens.shield(lambda letter: False)
    shielded = shield("a<turn><table>")
    encoded, _ = tokens.encode(shielded, shield.words)
    assert 1 not in encoded
    assert 2 in encoded
    assert shield.undo(shielded) == "a<turn><table>"


def test_letters_of_the_private_use_area_survive(starter):
    text = "\U000f0000\U000f0001 <|im_end|> \U000f0000"
    fitted = starter.window().fit(chat(text))
    assert text in fitted.text
    assert text in starter.detokenize(fitted.tokens)


def test_vocabulary_that_binds_across_control_tokens_is_tokenised_whole():
    def greedy(text, *, special, begin):
        """A tokeniser that swallows a newline together with the mark after it."""
        tokens = []
        while text:
            size = 7 if text.startswith("\n<turn>") else 6 if text.startswith("<turn>") else 1
            tokens.append(hash(text[:size]) % 10**6)
            text = text[size:]
        return tokens

    sample = "<turn>a\n<turn>b"
    bound = PromptTokens(greedy, special_tokens=["<turn>"], marks=["<turn>"], sample=sample)
    assert not bound.cuts
    assert bound.encode(sample, {})[0] == greedy(sample, special=True, begin=False)
    free = PromptTokens(greedy, special_tokens=["<turn>"], marks=["<turn>"], sample="<turn>a<turn>")
    assert free.cuts


@pytest.mark.parametrize("size", [1, 40])
def test_pieces_are_remembered_between_turns(starter, size):
    calls = []

    def tokenize(text, *, special, begin):
        calls.append(text)
        return starter.tokenize(text, special=special, begin=begin)

    window = Window(starter.template(), tokenize, n_ctx=8192, special_tokens=starter.marks)
    said = chat(*(f"Message number {i}." for i in range(2 * size - 1)))
    window.fit(said)
    calls.clear()
    window.fit([*said, message("b", Author.BOT, "Yes."), message("c", Author.CUSTOMER, "And?")])
    assert sum(map(len, calls)) < 200
