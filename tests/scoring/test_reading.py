import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.columns import to_batch
from quietdesk.scoring.base import Conversations
from quietdesk.scoring.reading import Reading
from quietdesk.types import Transcript, TranscriptMessage

OTHERS = {
    "Spanish": "Hola, tengo un problema con mi pedido, no ha llegado todavía. ¿Puede ayudarme?",
    "French": "Bonjour, je n'ai pas reçu ma commande, pouvez-vous m'aider ? Merci beaucoup",
    "German": "Hallo, ich habe meine Bestellung noch nicht erhalten. Können Sie mir helfen?",
    "Italian": "Buongiorno, non ho ricevuto il mio ordine, potete aiutarmi per favore?",
    "Portuguese": "Olá, não recebi o meu pedido ainda. Você pode me ajudar? Obrigado",
    "Dutch": "Hallo, ik heb mijn bestelling nog niet ontvangen. Kunt u mij helpen?",
    "Polish": "Dzień dobry, nie otrzymałem jeszcze mojego zamówienia, proszę o pomoc",
    "Swedish": "Hej, jag har inte fått min beställning ännu. Kan ni hjälpa mig? Tack",
    "Danish": "Hej, jeg har ikke modtaget min ordre endnu. Kan I hjælpe mig?",
    "Turkish": "Merhaba, siparişim hala gelmedi, yardım edebilir misiniz lütfen?",
    "Russian": "Здравствуйте, мой заказ ещё не пришёл. Помогите, пожалуйста",
    "Indonesian": "Halo, saya belum menerima pesanan saya, bisa tolong bantu?",
    "Japanese": "こんにちは、注文がまだ届いていません。",
    "Chinese": "你好，我的订单还没有到。",
    "Arabic": "مرحبا، لم يصل طلبي بعد",
    "Finnish": "Hei, en ole vielä saanut tilaustani. Voitteko auttaa?",
    "Vietnamese": "Xin chào, tôi chưa nhận được đơn hàng của tôi, bạn có thể giúp tôi không?",
}


@pytest.mark.parametrize("language", OTHERS)
def test_another_language_is_not_taken_for_english(talk, language):
    seen = Reading(talk([("customer", OTHERS[language]), ("bot", OTHERS[language])]))
    assert not seen.english[0]


@pytest.mark.parametrize(
    "text", ["hi my order isn't here yet", "where is my stuff", "ok", "refund please", "THANKS!!!"]
)
def test_short_english_is_english(talk, text):
    assert Reading(talk([("customer", text)])).english[0]


def test_a_side_that_speaks_another_language_is_not_covered(talk):
    seen = Reading(
        talk([("customer", OTHERS["Spanish"]), ("bot", "I am sorry, can you say that in English?")])
    )
    assert not seen.customer_english[0]


def test_nothing_but_numbers_is_no_language(talk):
    assert not Reading(talk([("customer", "4711 42 99"), ("bot", "12")])).english[0]


def test_a_message_without_text_is_not_said(talk):
    seen = Reading(
        talk([("customer", "hello"), ("bot", ""), ("system", "be kind"), ("human", "hi")])
    )
    assert seen.customer.tolist() == [True, False, False, False]
    assert seen.agent.tolist() == [False, False, False, True]


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=6), max_size=6))
def test_before_after_and_last_are_what_a_loop_finds(flags):

    rows = [
        Transcript(
            id=str(i), messages=tuple(TranscriptMessage(author="bot", text="x") for _ in messages)
        )
        for i, messages in enumerate(flags)
    ]
    seen = Reading(Conversations(to_batch(rows)))
    wanted = np.array([flag for messages in flags for flag in messages], np.bool_)
    before, after, last, start = [], [], [], 0
    for messages in flags:
        places = [start + i for i, flag in enumerate(messages) if flag]
        for i in range(len(messages)):
            before.append(max((p for p in places if p < start + i), default=-1))
            after.append(min((p for p in places if p > start + i), default=-1))
        last.append(max(places, default=-1))
        start += len(messages)
    assert seen.before(wanted).tolist() == before
    assert seen.after(wanted).tolist() == after
    assert seen.last(wanted).tolist() == last
    assert seen.count(wanted).tolist() == [sum(messages) for messages in flags]
