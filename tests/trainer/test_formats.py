"""What each format teaches: which tokens of a row are learned, after which prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lorikeet_server.engine.tokenizer import load_tokenizer
from lorikeet_trainer.loading import read_dataset
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.row import IGNORED, Pair, Row
from lorikeet_trainer.rules import HELD_OUT
from tests.trainer.conftest import TEMPLATE, TOOL, TOOL_TEMPLATE, chat, make_tokenizer, tool_chat


@pytest.fixture(scope="module")
def tooled(renderer: Renderer) -> Renderer:
    return replace(renderer, tokenizer=make_tokenizer(TOOL_TEMPLATE), context=1000)


def row_of(value: dict[str, Any], renderer: Renderer) -> Row:
    (row,) = read_dataset(json.dumps(value).encode(), "data.jsonl", renderer, HELD_OUT).rows
    return row


def pair_of(value: dict[str, Any], renderer: Renderer) -> Pair:
    (pair,) = read_dataset(json.dumps(value).encode(), "data.jsonl", renderer, HELD_OUT).pairs
    return pair


def learned(row: Row, renderer: Renderer) -> str:
    return renderer.text([label for label in row.labels if label != IGNORED])


def test_only_answers_with_weight_are_learned_and_the_row_ends_with_the_last(renderer: Renderer) -> None:
    value = chat("lamp?", "red", "chair?", "blue", "door?", "green")
    for index in (1, 5):
        value["messages"][index]["weight"] = 0
    row = row_of(value, renderer)
    assert learned(row, renderer) == "blue<|end|>"
    assert row.answer == "blue"
    del value["messages"][4:]
    assert row == row_of(value, renderer)


def test_weights_make_history_harmless(renderer: Renderer) -> None:
    """A template that rewrites earlier answers can still be trained on its last one."""
    forgetful = TEMPLATE.replace(
        "message['content']", "(message['content'] if loop.last or message['role'] == 'user' else '...')"
    )
    changed = replace(renderer, tokenizer=make_tokenizer(forgetful))
    value = chat("lamp?", "red", "chair?", "blue")
    value["messages"][1]["weight"] = 0
    row = row_of(value, changed)
    assert learned(row, changed) == "blue<|end|>"
    assert "...<|end|>" in changed.text(row.prompt)


def test_tools_and_calls_are_rendered_as_transformers_renders_them(tooled: Renderer) -> None:
    row = row_of(tool_chat(), tooled)
    call, answer = "", "It is red<|end|>"
    call = '{"call": "find", "with": {"q": "lamp"}}<|end|>'
    assert learned(row, tooled) == call + answer
    turns = [
        {"role": "user", "content": "lamp?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "find", "arguments": {"q": "lamp"}}}],
        },
        {"role": "tool", "content": "red"},
    ]
    text = tooled.tokenizer.apply_chat_template(
        turns, tools=[TOOL], add_generation_prompt=True, tokenize=False
    )
    assert tooled.text(row.prompt) == text
    assert row.answer == "It is red"


def test_a_call_can_be_the_last_answer(tooled: Renderer) -> None:
    value = tool_chat()
    del value["messages"][2:]
    assert row_of(value, tooled).answer == '{"call": "find", "with": {"q": "lamp"}}'


def test_text_parts_are_joined_and_developer_is_system_as_on_the_server(renderer: Renderer) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "lamp"}]
    value = {
        "messages": [
            {"role": "developer", "content": "be kind", "name": "boss"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "red"},
        ]
    }
    plain = {"messages": [{"role": "system", "content": "be kind"}, *chat("the lamp", "red")["messages"]]}
    assert row_of(value, renderer) == row_of(plain, renderer)


def test_text_is_learned_from_its_second_token_to_its_end(renderer: Renderer) -> None:
    row = row_of({"text": "the lamp is red"}, renderer)
    assert renderer.text(row.input_ids) == "the lamp is red<|end|>"
    assert row.labels == (IGNORED, *row.input_ids[1:])
    assert row_of({"text": "the lamp is red<|end|>"}, renderer).input_ids == row.input_ids


def test_a_label_is_the_same_tokens_after_any_text(base_folder: Any, renderer: Renderer) -> None:
    texts = ("the lamp", "the red la", "blue\n")
    rows = [row_of({"text": text, "label": "lamp"}, renderer) for text in texts]
    assert {row.reference for row in rows} == {rows[0].reference}
    assert renderer.text(rows[0].reference) == "lamp<|end|>"
    server = load_tokenizer(str(base_folder))
    assert [row.prompt for row in rows] == [server.encode(text, special=True) for text in texts]


def test_both_shapes_of_a_preference_are_one_pair(base_folder: Any, renderer: Renderer) -> None:
    question = [{"role": "user", "content": "lamp?"}]
    answers = [[{"role": "assistant", "content": text}] for text in ("red", "blue")]
    ours = pair_of({"prompt": question, "chosen": answers[0], "rejected": answers[1]}, renderer)
    openai = {
        "input": {"messages": question, "tools": [], "parallel_tool_calls": True},
        "preferred_output": answers[0],
        "non_preferred_output": answers[1],
    }
    assert pair_of(openai, renderer) == ours
    server = load_tokenizer(str(base_folder))
    assert ours.prompt == server.encode(server.render(question))
    assert [renderer.text(ids) for ids in (ours.chosen, ours.rejected)] == ["red<|end|>", "blue<|end|>"]
    # The rows that either answer alone would make.
    for text, ids in (("red", ours.chosen), ("blue", ours.rejected)):
        row = row_of(chat("lamp?", text), renderer)
        assert (row.prompt, row.reference) == (ours.prompt, ids)
    assert ours.tokens == 2 * len(ours.prompt) + len(ours.chosen) + len(ours.rejected)


def test_plain_preferences_are_continuations(renderer: Renderer) -> None:
    pair = pair_of({"prompt": "the lamp is", "chosen": " red", "rejected": " blue"}, renderer)
    row = row_of({"prompt": "the lamp is", "completion": " red"}, renderer)
    assert (pair.prompt, pair.chosen) == (row.prompt, row.reference)
    assert renderer.text(pair.rejected) == " blue<|end|>"


def test_pairs_with_tools_see_them(tooled: Renderer) -> None:
    call = tool_chat()["messages"][1]
    value = {
        "input": {"messages": [{"role": "user", "content": "lamp?"}], "tools": [TOOL]},
        "preferred_output": [call],
        "non_preferred_output": [{"role": "assistant", "content": "who knows"}],
    }
    pair = pair_of(value, tooled)
    assert tooled.text(pair.prompt).startswith("<|system|>\n" + '{"type": "function"')
    assert tooled.text(pair.chosen) == '{"call": "find", "with": {"q": "lamp"}}<|end|>'


def test_rows_of_many_lengths_are_each_what_they_are_alone(renderer: Renderer) -> None:
    """Waves and batches change nothing: every row is what a file of that row alone gives."""
    values = [
        chat(*(word for turn in range(turns) for word in (f"lamp {turn}?", f"number {row}")))
        for row, turns in enumerate([1, 3, 2, 1, 4, 2] * 100)
    ]
    wide = replace(renderer, context=1000)
    together = read_dataset("\n".join(map(json.dumps, values)).encode(), "data.jsonl", wide, HELD_OUT).rows
    for number in (0, 1, 4, 299, 599):
        assert together[number] == replace(row_of(values[number], wide), line=number + 1)
    assert [row.line for row in together] == list(range(1, 601))
