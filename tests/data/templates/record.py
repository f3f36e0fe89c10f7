"""Record what Hugging Face transformers renders for the templates in this folder."""

import json
from datetime import datetime
from pathlib import Path

from transformers import __version__
from transformers.utils import chat_template_utils

FOLDER = Path(__file__).parent
MOMENT = datetime(2026, 3, 14, 9, 26)


class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return MOMENT


def said(role, text):
    return {"role": role, "content": text}


CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "find_order", "arguments": {"number": "A-<1>&'é'"}},
        }
    ],
}
RESULT = {
    "role": "tool",
    "name": "find_order",
    "tool_call_id": "call00001",
    "content": '{"state": "sent"}',
}
TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": 'Where an order is; "it\'s" <fast> & 快.',
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "string", "description": "The order's number."}},
            "required": ["number"],
        },
    },
}
CONVERSATIONS = {
    "one question": [said("user", "Do you ship to Norway? <b>&amp;</b> 'quick' 😀")],
    "with a system prompt": [said("system", "Be  brief.\n"), said("user", " Hi \n\n")],
    "three turns": [
        said("user", "Hi"),
        said("assistant", "Hello!"),
        said("user", "你好"),
        said("assistant", "\nYes: {{ x }} {% y %}"),
        said("user", "Thanks."),
    ],
    "with thoughts": [
        said("system", "s"),
        said("user", "a"),
        said("assistant", "<think>\nhm\n</think>\n\nb"),
        said("user", "c"),
    ],
    "two questions": [said("user", "a"), said("user", "b")],
    "the assistant first": [said("assistant", "Hello!"), said("user", "Hi")],
    "a tool was called": [said("user", "Where is it?"), CALL, RESULT],
    "after a tool": [
        said("user", "Where is it?"),
        CALL,
        RESULT,
        said("assistant", "Sent."),
        said("user", "Thanks"),
    ],
    "a late system message": [
        said("system", "s"),
        said("user", "a"),
        said("assistant", "b"),
        said("system", "late"),
        said("user", "c"),
    ],
}


def main():
    chat_template_utils.datetime = Clock
    index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    records = []
    for file in sorted(FOLDER.glob("*.jinja")):
        compiled = chat_template_utils._compile_jinja_template(file.read_text(encoding="utf-8"))
        for title, messages in CONVERSATIONS.items():
            for tools in ([], [TOOL]):
                for prompt in (True, False):
                    try:
                        text = compiled.render(
                            messages=messages,
                            tools=tools or None,
                            documents=None,
                            add_generation_prompt=prompt,
                            bos_token=index[file.stem]["bos"],
                            eos_token=index[file.stem]["eos"],
                        )
                        refusal = None
                    except Exception as error:
                        text, refusal = None, str(error)
                    records.append(
                        {
                            "template": file.stem,
                            "conversation": title,
                            "tools": bool(tools),
                            "add_generation_prompt": prompt,
                            "text": text,
                            "refusal": refusal,
                        }
                    )
    out = {
        "transformers": __version__,
        "moment": MOMENT.isoformat(),
        "tool": TOOL,
        "conversations": CONVERSATIONS,
        "records": records,
    }
    path = FOLDER / "expected.json"
    path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(records)} records in {path}")


if __name__ == "__main__":
    main()
