"""Draws tui/screenshot.svg, the picture of the app that stands in the README.

Run it with `make picture`. It shows made-up conversations at a fixed time, so that the same app
always gives the same picture. The picture tests show the same conversations.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from quietdesk import (
    Author,
    ContextReport,
    ConversationInfo,
    FinishReason,
    Message,
    Settings,
    Usage,
)
from quietdesk.engine.backend import Backend
from quietdesk.engine.engine import Engine
from quietdesk.store.memory import MemoryStore
from quietdesk.testing import Script, ScriptedRunner
from quietdesk.types import ContextItem, ContextOutcome
from quietdesk_tui.app import QuietdeskApp
from quietdesk_tui.keys import KeyMap
from quietdesk_tui.memory import Memory
from quietdesk_tui.screens.chat import ChatScreen
from quietdesk_tui.session import Session

PLACE = Path(__file__).parents[2] / "tui" / "screenshot.svg"
CELL_WIDTH = 12.2
"""Of one cell in Rich's pictures."""
NOW = datetime(2026, 9, 18, 14, 5, tzinfo=UTC)

NORWAY = """\
Yes, we ship to **Norway**. Here is what it costs:

| Service | Time | Price |
|---|:-:|--:|
| Standard | 3–5 days | 9.90 € |
| Express | 1–2 days | 24.00 € |

Before you order, please check:

1. Your full address, with the postal code
2. A phone number, which customs asks for
   - it is used for nothing else

> Orders above 100 € ship free of charge.
"""

CODE = """\
Of course. The price depends on the weight:

```python
def shipping(weight_kg: float, express: bool = False) -> float:
    \"\"\"Price in euro; every kilogram above five costs more.\"\"\"
    base = 24.0 if express else 9.9
    return base + max(0.0, weight_kg - 5) * 1.5
```

Call `shipping(7, express=True)` and you get **27 €**.
"""

CHINESE = """\
可以。请在**三十天**之内寄回，运费由我们承担：

1. 打印退货标签
2. 把头盔放回原来的盒子
3. 送到任何一家邮局

我们收到以后，两个工作日之内寄出新的头盔。😊
"""

SAMPLES: tuple[tuple[str, timedelta, tuple[tuple[str, str, FinishReason], ...]], ...] = (
    (
        "Shipping to Norway",
        timedelta(minutes=7),
        (
            ("Do you ship to Norway, and what does it cost?", NORWAY, FinishReason.STOP),
            ("Can you give me the formula in Python?", CODE, FinishReason.STOP),
        ),
    ),
    (
        "Refund for order 1042",
        timedelta(minutes=52),
        (
            (
                "Where is my refund for order 1042?",
                "It was sent on Monday. Banks take up to three days, so it should be there "
                "by tomorrow. If it",
                FinishReason.CANCELLED,
            ),
        ),
    ),
    (
        "换货：头盔的尺寸不合适",
        timedelta(hours=26),
        (("头盔太小了，可以换一个大一点的吗？", CHINESE, FinishReason.STOP),),
    ),
    (
        "Invoice with the old address",
        timedelta(hours=30),
        (
            (
                "The invoice shows my old address.",
                "I am sorry about that. Which address is the right one?",
                FinishReason.STOP,
            ),
        ),
    ),
    (
        "The bell is missing 🔔",
        timedelta(days=4),
        (("There was no bell in the parcel.", "We send you one today.", FinishReason.STOP),),
    ),
    (
        "Warranty on frames",
        timedelta(days=40),
        (("How long is the warranty?", "Five years on every frame.", FinishReason.LENGTH),),
    ),
)


def sample_store() -> MemoryStore:
    """The made-up conversations; their ids are c-0, c-1 and so on, the newest first."""
    store = MemoryStore()
    for number, (title, ago, turns) in enumerate(SAMPLES):
        store.import_conversations([conversation(f"c-{number}", title, NOW - ago, turns)])
    return store


def conversation(
    conversation_id: str,
    title: str,
    ended: datetime,
    turns: Sequence[tuple[str, str, FinishReason]],
    *,
    reports: bool = True,
) -> tuple[ConversationInfo, list[Message]]:
    """A made-up conversation, a question and an answer every two minutes.

    Args:
        conversation_id: Its id.
        title: Its title.
        ended: When it was used last.
        turns: Question, answer and how the answer ended.
        reports: Whether the answers have context reports.
    """
    said: list[Message] = []
    for number, (question, answer, reason) in enumerate(turns):
        moment = ended - timedelta(minutes=2 * (len(turns) - number))
        asked = Message(
            id=f"{conversation_id}-q{number}",
            author=Author.CUSTOMER,
            text=question,
            created_at=moment,
            parent_id=said[-1].id if said else None,
        )
        said.append(asked)
        said.append(
            Message(
                id=f"{conversation_id}-a{number}",
                author=Author.BOT,
                text=answer,
                created_at=moment + timedelta(minutes=1),
                parent_id=asked.id,
                finish_reason=reason,
                usage=Usage(
                    prompt_tokens=310 + 900 * number,
                    cached_tokens=290 + 300 * number,
                    completion_tokens=132,
                    first_token_s=0.18,
                    decode_s=3.1,
                ),
                model="smollm2-135m",
                context=_report(said, 310 + 900 * number, dropped=number) if reports else None,
            )
        )
    info = ConversationInfo(
        id=conversation_id, title=title, created_at=said[0].created_at, updated_at=ended
    )
    return info, said


def _report(said: Sequence[Message], prompt_tokens: int, *, dropped: int) -> ContextReport:
    """A report in which the first messages went, so that there is something to show."""
    items = [ContextItem(id="system", kind="system", outcome=ContextOutcome.PINNED, tokens=40)]
    for number, message in enumerate(said):
        gone = number < 2 * dropped
        last = number == len(said) - 1
        outcome = (
            ContextOutcome.EVICTED
            if gone
            else ContextOutcome.PINNED
            if last
            else ContextOutcome.KEPT
        )
        items.append(
            ContextItem(
                id=message.id,
                kind="message",
                outcome=outcome,
                tokens=20 + len(message.text) // 4,
                reason="The oldest turns give way to the newest ones." if gone else "",
            )
        )
    return ContextReport(
        n_ctx=4096,
        prompt_tokens=prompt_tokens,
        reply_reserve=512,
        cached_tokens=290,
        policy="rolling-window",
        template="model",
        items=tuple(items),
    )


def scripted_engine(replies: Script = ("Yes.",), **runner: Any) -> Engine:
    """An engine that says what it is told, under the name of the bundled model."""
    scripted = ScriptedRunner(replies, **runner)
    scripted.info = replace(scripted.info, name="smollm2-135m")
    return Engine(lambda: scripted)


def sample_app(
    *,
    theme: str = "quietdesk-dark",
    conversation_id: str = "c-0",
    engine: Callable[[Callable[[float], bool]], Backend] | None = None,
    store: MemoryStore | None = None,
    settings: Settings | None = None,
    **runner: Any,
) -> QuietdeskApp:
    """The app on the made-up conversations, with a scripted model and a clock that stands still.

    Args:
        theme: Its colours.
        conversation_id: The conversation that is open; empty: a new one.
        engine: Loads the model; a scripted one if None.
        store: The made-up conversations if None.
        settings: The defaults if None.
        **runner: Further arguments of the scripted model.
    """
    settings = settings or Settings.model_validate({"app": {"theme": theme}})
    session = Session(
        settings,
        store_opener=lambda: store or sample_store(),
        engine_opener=engine or (lambda tell: scripted_engine(**runner)),
        clock=lambda: 0.0,
    )
    memory = Memory(None)
    memory.state.conversation_id = conversation_id
    key_map = KeyMap(settings.app.keys)
    log_file = Path("~/.local/state/quietdesk/app.log")

    def chat() -> ChatScreen:
        return ChatScreen(session, memory, key_map, log_file=log_file, now=lambda: NOW)

    return QuietdeskApp(session, memory, key_map, chat=chat)


async def draw(app: QuietdeskApp, size: tuple[int, int]) -> str:
    """The app as a picture, once the model is loaded."""
    async with app.run_test(size=size) as pilot:
        while not app.session.can_regenerate:
            await pilot.pause(0.05)
        await pilot.pause(0.5)
        picture = app.export_screenshot(title="Quietdesk")
    # The fonts that Rich names come from the network; any monospaced font will do.
    picture = re.sub(r"\s*@font-face \{[^}]*\}", "", picture)
    return re.sub(r'textLength="[\d.]+"([^>]*)>([^<]*)<', _measure, picture)


def _measure(text: re.Match[str]) -> str:
    """A text's length in cells: Rich counts characters, and squeezes wide ones together."""
    length = CELL_WIDTH * cell_len(unescape(text[2]))
    return f'textLength="{length:g}"{text[1]}>{text[2]}<'


def main() -> None:
    """Write the picture."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    picture = asyncio.run(draw(sample_app(), (124, 38)))
    PLACE.write_text(picture + "\n", encoding="utf-8")
    print(f"Wrote {PLACE}.")


if __name__ == "__main__":
    main()
