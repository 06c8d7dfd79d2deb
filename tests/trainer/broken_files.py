"""Data files with one fault each, and what the validator has to say of it: line, field, code, and the way out."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from lorikeet_trainer.rules import HELD_OUT, TRAINING, Rules
from tests.trainer.conftest import ROWS, TOOL, TOOL_TEMPLATE, chat, tool_chat

CHATS = tuple(json.dumps(row).encode() for row in ROWS)
PLAIN = tuple(b'{"prompt": "the lamp %d is", "completion": " red"}' % number for number in range(10))
TEXTS = tuple(b'{"text": "lamp number %d is red"}' % number for number in range(10))
LABELLED = tuple(
    b'{"text": "lamp %d is red", "label": "%s"}' % (number, (b"lamp", b"chair")[number % 2])
    for number in range(10)
)
PAIRS = tuple(b'{"prompt": "lamp %d is", "chosen": " red", "rejected": " blue"}' % n for n in range(10))
INPUT = {"messages": [{"role": "user", "content": "lamp?"}]}
DPO = tuple(
    json.dumps(
        {
            "input": {"messages": [{"role": "user", "content": f"lamp {number}?"}]},
            "preferred_output": [{"role": "assistant", "content": "red"}],
            "non_preferred_output": [{"role": "assistant", "content": "blue"}],
        }
    ).encode()
    for number in range(10)
)


@dataclass(frozen=True)
class Broken:
    """`row` follows `good` rows, so that it is line 11; without good rows it is the whole file.

    `line` 0 is a finding about the whole file. `fix` is a part of what is advised. An error refuses the file.
    """

    row: bytes
    code: str
    field: str = ""
    fix: str = ""
    good: tuple[bytes, ...] = CHATS
    line: int = 11
    template: str | None = ""
    rules: Rules = TRAINING
    is_error: bool = True

    @property
    def data(self) -> bytes:
        return b"\n".join([*self.good, self.row])


def row(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def turn(**fields: Any) -> bytes:
    """A chat row whose first message is as given and whose second is a good answer."""
    return row(messages=[fields, {"role": "assistant", "content": "yes"}])


def answer(**fields: Any) -> bytes:
    """A chat row whose last message is as given."""
    return row(messages=[{"role": "user", "content": "hello"}, {"role": "assistant", **fields}])


def with_tools(value: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"row": json.dumps(value).encode(), "template": TOOL_TEMPLATE, **rest}


def tool_answer(**fields: Any) -> dict[str, Any]:
    value = tool_chat()
    value["messages"][2] |= fields
    return value


def dpo(**fields: Any) -> bytes:
    return json.dumps(json.loads(DPO[0]) | fields).encode()


SAID = [{"role": "assistant", "content": "red"}]
CALL = "messages[1].tool_calls[0]"

LINES = {
    "no json": Broken(b'{"messages": [}', "not_json", fix="one whole JSON object per line"),
    "cut off": Broken(CHATS[0][:-5], "not_json", fix="one whole JSON object per line"),
    "two objects on a line": Broken(CHATS[0] + CHATS[1], "not_json", fix="one whole JSON object per line"),
    "single quotes": Broken(b"{'prompt': 'a'}", "not_json", fix="one whole JSON object per line"),
    "too deep": Broken(b"[" * 200_000, "not_json", fix="one whole JSON object per line"),
    "endless number": Broken(b'{"messages": ' + b"1" * 9000 + b"}", "not_json", fix="one whole JSON object"),
    "an array": Broken(b"[1]", "not_an_object", fix="not one array; `lorikeet data convert`"),
    "a string": Broken(b'"hello"', "not_an_object", fix="one whole JSON object per line"),
    "latin-1": Broken(b'{"messages": "caf\xe9"}', "not_utf8", fix="save the file as UTF-8"),
    "utf-16": Broken('{"text": "a"}'.encode("utf-16"), "not_utf8", fix="save the file as UTF-8"),
    "NaN": Broken(b'{"messages": NaN}', "not_a_number", fix="or null"),
    "infinity": Broken(b'{"messages": -Infinity}', "not_a_number", fix="or null"),
    "one key twice": Broken(b'{"messages": [], "messages": []}', "duplicate_key", fix="keep one"),
    "a key twice inside": Broken(
        turn(role="user", content="a")[:-1] + b', "tools": [{"a": 1, "a": 2}]}',
        "duplicate_key",
        fix="keep one",
    ),
}
FORMATS = {
    "no known key": Broken(b'{"question": "hello"}', "unknown_format", fix='write {"messages"'),
    "alpaca": Broken(
        b'{"instruction": "a", "output": "b"}',
        "unknown_format",
        fix="convert --from alpaca",
        good=(),
        line=1,
        rules=HELD_OUT,
    ),
    "sharegpt": Broken(
        b'{"conversations": []}',
        "unknown_format",
        fix="convert --from sharegpt",
        good=(),
        line=1,
        rules=HELD_OUT,
    ),
    "two formats in a row": Broken(
        b'{"messages": [], "prompt": "a"}', "unknown_format", fix="write", good=(), line=1, rules=HELD_OUT
    ),
    "the other format": Broken(PLAIN[0], "mixed_formats", fix="one format per file"),
    "text among chats": Broken(TEXTS[0], "mixed_formats", fix="one format per file"),
    "a label among texts": Broken(LABELLED[0], "mixed_formats", fix="one format per file", good=TEXTS),
    "text among labels": Broken(TEXTS[0], "mixed_formats", fix="one format per file", good=LABELLED),
    "pairs among prompts": Broken(PAIRS[0], "mixed_formats", fix="one format per file", good=PLAIN),
    "both kinds of pairs": Broken(DPO[0], "mixed_formats", fix="one format per file", good=PAIRS),
}
CHAT = {
    "messages no list": Broken(row(messages="hello"), "no_messages", "messages", "add the turns"),
    "no message": Broken(row(messages=[]), "no_messages", "messages", "add the turns"),
    "a text as message": Broken(row(messages=["hello"]), "not_an_object", "messages[0]", 'write {"role"'),
    "a thousand turns": Broken(
        row(messages=[chat("a")["messages"][0]] * 1025),
        "too_many_messages",
        "messages",
        "split the conversation",
    ),
    "no role": Broken(turn(content="hello"), "missing_key", "messages[0].role", "add it"),
    "unknown role": Broken(
        turn(role="bot", content="hello"), "unknown_role", "messages[0].role", "use system"
    ),
    "role no text": Broken(turn(role=["user"], content="a"), "not_text", "messages[0].role", "as a string"),
    "function role": Broken(
        turn(role="function", content="4"), "unsupported_role", "messages[0].role", "the role tool"
    ),
    "no content": Broken(turn(role="user"), "missing_key", "messages[0].content", "add it"),
    "content a number": Broken(
        turn(role="user", content=4), "not_text", "messages[0].content", "write a string"
    ),
    "a picture": Broken(
        turn(role="user", content=[{"type": "image_url", "image_url": {}}]),
        "unsupported_part",
        "messages[0].content[0].type",
        "images, audio and files are not supported",
    ),
    "null content": Broken(answer(content=None), "not_text", "messages[1].content", "with tool_calls"),
    "lone surrogate": Broken(
        turn(role="user", content="\ud800"), "not_unicode", "messages[0].content", "the whole character"
    ),
    "surrogate in a part": Broken(
        turn(role="user", content=[{"type": "text", "text": "\udfff"}]),
        "not_unicode",
        "messages[0].content[0].text",
        "the whole character",
    ),
    "unknown key": Broken(answer(content="a", audio={}), "unsupported_key", "messages[1].audio", "remove it"),
    "empty answer": Broken(
        answer(content=" \n"), "empty_assistant", "messages[1].content", "fill the answer in"
    ),
    "no answer": Broken(
        row(messages=[{"role": "user", "content": "a"}]),
        "last_not_assistant",
        "messages[0].role",
        "end each row with the answer",
    ),
    "weight two": Broken(answer(content="a", weight=2), "bad_weight", "messages[1].weight", "write 1 for"),
    "weight true": Broken(
        answer(content="a", weight=True), "bad_weight", "messages[1].weight", "write 1 for"
    ),
    "weight of a question": Broken(
        turn(role="user", content="a", weight=0),
        "unsupported_key",
        "messages[0].weight",
        "only turns of the assistant",
    ),
    "all weights zero": Broken(answer(content="a", weight=0), "no_learned_token", "messages", "or a weight"),
    "legacy functions": Broken(
        row(**chat("a", "b"), functions=[]), "unsupported_key", "functions", "remove it"
    ),
    "end of turn in text": Broken(
        answer(content="yes<|end|>no"), "end_of_turn_in_text", "messages[1].content", "remove the token"
    ),
    "answer begins with a break": Broken(
        answer(content="\nyes"), "prompt_not_a_prefix", "messages[1].content", "where prompt and answer meet"
    ),
    "tools unknown to the template": Broken(
        row(**chat("a", "b"), tools=[TOOL]), "template_without_tools", "tools", "whose template takes them"
    ),
    "calls unknown to the template": Broken(
        row(messages=tool_chat()["messages"]),
        "template_without_tools",
        "messages[1].tool_calls",
        "whose template takes them",
    ),
}
TOOLS = {
    "tools no list": Broken(**with_tools({**chat("a", "b"), "tools": {}}), code="not_a_list", field="tools",
                            fix='[{"type": "function"'),
    "nameless tool": Broken(**with_tools({**chat("a", "b"), "tools": [{"type": "function", "function": {}}]}),
                            code="missing_key", field="tools[0].function.name", fix="add it"),
    "other type of tool": Broken(**with_tools({**chat("a", "b"), "tools": [{**TOOL, "type": "web"}]}),
                                 code="unknown_type", field="tools[0].type", fix='"type": "function"'),
    "parallel maybe": Broken(**with_tools({**chat("a", "b"), "parallel_tool_calls": "yes"}),
                             code="not_a_truth_value", field="parallel_tool_calls", fix="write one of them"),
    "a call without id": Broken(**with_tools(tool_chat(id="")), code="empty_id", field=f"{CALL}.id",
                                fix="that the tool's turn repeats"),
    "arguments an object": Broken(**with_tools(tool_chat(function={"name": "find", "arguments": {}})),
                                  code="not_text", field=f"{CALL}.function.arguments", fix="as a string"),
    "arguments no JSON": Broken(**with_tools(tool_chat(function={"name": "find", "arguments": "lamp"})),
                                code="bad_arguments", field=f"{CALL}.function.arguments", fix="a JSON object as a"),
    "a call of no tool": Broken(**with_tools(tool_chat(function={"name": "seek", "arguments": "{}"})),
                                code="unknown_tool", field=f"{CALL}.function.name", fix="add it to tools"),
    "an answer to no call": Broken(**with_tools(tool_answer(tool_call_id="2")), code="unknown_tool_call",
                                   field="messages[2].tool_call_id", fix="repeat the id"),
}  # fmt: skip
OTHERS = {
    "no completion": Broken(b'{"prompt": "a"}', "missing_key", "completion", "add it", PLAIN),
    "empty completion": Broken(row(prompt="a", completion=" "), "empty_completion", "completion", "fill it in", PLAIN),
    "empty prompt": Broken(row(prompt="", completion="a"), "empty_prompt", "prompt", "the text that is to be", PLAIN),
    "prompt no text": Broken(row(prompt=3, completion="a"), "not_text", "prompt", "as a string", PLAIN),
    "extra key": Broken(row(prompt="a", completion="b", id=1), "unsupported_key", "id", "remove it", PLAIN),
    "split inside a word": Broken(row(prompt="the red la", completion="mp"), "prompt_not_a_prefix", "completion",
                                  "where prompt and answer meet", PLAIN),
    "empty text": Broken(row(text=" "), "empty_text", "text", "fill it in", TEXTS),
    "one token of text": Broken(row(text="a"), "no_learned_token", "text", "write more", TEXTS),
    "no label": Broken(row(text="a", label=None), "not_text", "label", "as a string", LABELLED),
    "a number as label": Broken(row(text="a", label=1), "not_text", "label", "as a string", LABELLED),
    "label outside the set": Broken(row(text="a", label="lmap"), "unknown_label", "label", "did you mean 'lamp'?",
                                    LABELLED, rules=replace(TRAINING, labels=("chair", "lamp"))),
    "far outside the set": Broken(row(text="a", label="xyz"), "unknown_label", "label", "use one of chair, lamp",
                                  LABELLED, rules=replace(TRAINING, labels=("chair", "lamp"))),
    "no rejected": Broken(row(prompt="a", chosen=" b"), "missing_key", "rejected", "add it", PAIRS),
    "same answers": Broken(row(prompt="a", chosen=" b", rejected=" b"), "same_answers", "rejected",
                           "a preference is between two", PAIRS),
    "messages and text": Broken(row(prompt=INPUT["messages"], chosen="a", rejected=SAID), "no_messages", "chosen",
                                "add the turns", PAIRS),
    "pair of a broken word": Broken(row(prompt="the red la", chosen="mp", rejected=" b"), "prompt_not_a_prefix",
                                    "chosen", "where prompt and answer meet", PAIRS),
    "input no object": Broken(dpo(input=[]), "not_an_object", "input", 'write {"messages"', DPO),
    "input without messages": Broken(dpo(input={}), "missing_key", "input.messages", "add it", DPO),
    "two preferred": Broken(dpo(preferred_output=SAID * 2), "not_one_answer", "preferred_output",
                            "the one answer", DPO),
    "preferred by the user": Broken(dpo(preferred_output=INPUT["messages"]), "not_one_answer", "preferred_output",
                                    "the one answer", DPO),
    "same outputs": Broken(dpo(non_preferred_output=SAID), "same_answers", "non_preferred_output",
                           "a preference is between two", DPO),
    "answered input": Broken(dpo(input={"messages": [*INPUT["messages"], *SAID]}), "prompt_answered",
                             "input.messages[1].role", "end the prompt with the turn", DPO),
    "weighted pair": Broken(dpo(preferred_output=[{**SAID[0], "weight": 0}]), "bad_weight",
                            "preferred_output[0].weight", "remove it", DPO),
}  # fmt: skip
WHOLE_FILES = {
    "nothing": Broken(b"", "no_rows", fix="one JSON object per line", good=(), line=0),
    "blank lines": Broken(b" \n\t\n", "no_rows", fix="one JSON object per line", good=(), line=0),
    "nine rows": Broken(b"", "too_few_rows", fix="add rows", good=CHATS[:9], line=0),
    "no template": Broken(b"", "no_chat_template", "messages", "or an instruct base", line=0, template=None),
    "too long to be judged": Broken(row(**chat("lamp " * 200, "yes")), "too_long", fix="never cut", rules=HELD_OUT),
    "nothing fits": Broken(row(**chat("lamp " * 200, "yes")), "too_few_rows", fix="add rows", good=(), line=0,
                           rules=replace(TRAINING, least_rows=1)),
}  # fmt: skip
WARNINGS = {
    "a row twice": Broken(CHATS[0], "duplicate", fix="count twice"),
    "a pair twice": Broken(PAIRS[0], "duplicate", fix="count twice", good=PAIRS),
    "a special token in a question": Broken(turn(role="user", content="a<|user|>b"), "special_token",
                                            "messages[0].content", "unless it is meant"),
    "too long": Broken(row(**chat("lamp " * 200, "yes")), "too_long", fix="allow longer rows"),
    "truncation": Broken(row(**chat("lamp " * 200, "yes")), "truncation", fix="shorten or split", line=0),
    "one label": Broken(b"", "imbalance", "label", "other labels", LABELLED[::2], line=0, rules=HELD_OUT),
    "rare label": Broken(row(text="a", label="chair"), "imbalance", "label", "rows of the rare one", line=0,
                         good=tuple(b'{"text": "lamp %d", "label": "lamp"}' % n for n in range(11))),
}  # fmt: skip
BROKEN = LINES | FORMATS | CHAT | TOOLS | OTHERS | WHOLE_FILES
WARNED = {name: replace(each, is_error=False) for name, each in WARNINGS.items()}
