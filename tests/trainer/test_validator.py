"""Every row that cannot be trained on is found, named by line and field, and stops the whole file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorikeet_trainer.dataset import Dataset
from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.example import DataFormat
from lorikeet_trainer.finding import MOST_ERRORS, MOST_LISTED, Severity, counted
from lorikeet_trainer.loading import load_dataset, read_dataset
from lorikeet_trainer.remarks import overlap
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.rules import HELD_OUT, TRAINING, Rules
from lorikeet_trainer.validator import Validated, validate
from tests.trainer.broken_files import (
    BROKEN,
    CHATS,
    DPO,
    LABELLED,
    PAIRS,
    PLAIN,
    TEXTS,
    WARNED,
    Broken,
    answer,
)
from tests.trainer.conftest import CONTEXT, TOOL_TEMPLATE, chat, make_tokenizer

GOOD = {
    DataFormat.CHAT: CHATS,
    DataFormat.COMPLETION: PLAIN,
    DataFormat.TEXT: TEXTS,
    DataFormat.CLASSIFICATION: LABELLED,
    DataFormat.PREFERENCE: PAIRS,
    DataFormat.OPENAI_PREFERENCE: DPO,
}


def rendered_by(renderer: Renderer, template: str | None) -> Renderer:
    """With another template; an empty one leaves the base's."""
    return renderer if template == "" else replace(renderer, tokenizer=make_tokenizer(template))


def validated(broken: Broken, renderer: Renderer) -> Validated:
    return validate(broken.data, "data.jsonl", rendered_by(renderer, broken.template), broken.rules)


def read(rows: tuple[bytes, ...], renderer: Renderer, rules: Rules = HELD_OUT) -> Dataset:
    return read_dataset(b"\n".join(rows), "data.jsonl", renderer, rules)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_line_field_code_and_fix(case: str, renderer: Renderer) -> None:
    broken = BROKEN[case]
    found = validated(broken, renderer)
    errors = [finding for finding in found.findings if finding.is_error]
    assert [(each.line, each.field, each.code) for each in errors] == [
        (broken.line, broken.field, broken.code)
    ]
    assert errors[0].message
    assert broken.fix in errors[0].fix
    with pytest.raises(DatasetRefused):
        found.dataset()


@pytest.mark.parametrize("case", WARNED)
def test_what_is_only_doubtful_is_a_warning(case: str, renderer: Renderer) -> None:
    doubtful = WARNED[case]
    dataset = validated(doubtful, renderer).dataset()
    (found,) = [each for each in dataset.warnings if each.code == doubtful.code]
    assert (found.line, found.field, found.severity) == (doubtful.line, doubtful.field, Severity.WARNING)
    assert doubtful.fix in found.fix


@pytest.mark.parametrize("format_", DataFormat)
def test_good_files_of_every_format_leave_no_finding(format_: DataFormat, renderer: Renderer) -> None:
    found = validate(b"\n".join(GOOD[format_]), "data.jsonl", renderer)
    assert (found.format, found.records, found.findings) == (format_, 10, ())
    assert found.dataset().size == 10
    assert bool(found.pairs) == format_.is_preference == (not found.rows)


def test_all_findings_come_at_once_in_the_order_of_the_file(renderer: Renderer) -> None:
    two_faults = answer(content="", audio={})
    data = b"\n".join([b"{", CHATS[0], two_faults, PLAIN[0], CHATS[0]])
    found = [(each.line, each.code) for each in validate(data, "data.jsonl", renderer, HELD_OUT).findings]
    assert found == [
        (1, "not_json"),
        (3, "unsupported_key"),
        (3, "empty_assistant"),
        (4, "mixed_formats"),
        (5, "duplicate"),
    ]


def test_bad_json_is_named_by_column(renderer: Renderer) -> None:
    found = validate(b'{"messages": [}', "data.jsonl", renderer, HELD_OUT).findings
    assert "column 15" in found[0].message


def test_a_missing_file_is_refused_without_its_folder(tmp_path: Path, renderer: Renderer) -> None:
    with pytest.raises(DatasetRefused, match=r"none\.jsonl cannot be used: No such file") as caught:
        load_dataset(tmp_path / "none.jsonl", renderer)
    assert str(tmp_path) not in str(caught.value)


def test_the_first_row_that_has_a_format_decides(renderer: Renderer) -> None:
    data = b"\n".join([b"[]", b'{"a": 1}', PLAIN[0], CHATS[0]])
    found = validate(data, "data.jsonl", renderer, HELD_OUT)
    assert [(each.line, each.code) for each in found.findings] == [
        (1, "not_an_object"),
        (2, "unknown_format"),
        (4, "mixed_formats"),
    ]
    assert found.format is DataFormat.COMPLETION


def test_a_second_file_is_held_to_the_format_and_labels_of_the_first(renderer: Renderer) -> None:
    training = read(LABELLED, renderer)
    assert training.labels == ("chair", "lamp")
    rules = Rules.beside(training)
    assert read(LABELLED[:1], renderer, rules).labels == ("chair", "lamp")
    other = validate(b'{"text": "a", "label": "table"}', "valid.jsonl", renderer, rules)
    assert [each.code for each in other.findings if each.is_error] == ["unknown_label"]
    assert [each.code for each in validate(CHATS[0], "v", renderer, rules).findings if each.is_error] == [
        "mixed_formats"
    ]


@pytest.mark.parametrize("format_", [DataFormat.CHAT, DataFormat.PREFERENCE])
def test_rows_that_are_trained_on_and_held_out_are_named(format_: DataFormat, renderer: Renderer) -> None:
    rows = GOOD[format_]
    training, held_out = read(rows[:6], renderer), read(rows[4:], renderer)
    found = overlap(training, held_out)
    assert [(each.line, each.code, each.severity) for each in found] == [
        (1, "overlap", Severity.WARNING),
        (2, "overlap", Severity.WARNING),
    ]
    assert "line 5 of data.jsonl" in found[0].message
    assert overlap(training, read(rows[6:], renderer)) == ()


def test_blank_lines_and_a_byte_order_mark_are_no_rows(renderer: Renderer) -> None:
    dataset = read((b"\xef\xbb\xbf" + CHATS[0] + b"\r", b"", b"  ", CHATS[1]), renderer)
    assert [row.line for row in dataset.rows] == [1, 4]


def test_plain_formats_need_no_chat_template(renderer: Renderer) -> None:
    bare = rendered_by(renderer, None)
    for format_ in (DataFormat.COMPLETION, DataFormat.TEXT, DataFormat.CLASSIFICATION, DataFormat.PREFERENCE):
        assert read(GOOD[format_], bare).size == 10


def test_the_limit_is_the_smaller_of_recipe_and_context(renderer: Renderer) -> None:
    row = json.dumps(chat("hello " * 4, "yes")).encode()
    length = read((row,), renderer).longest
    assert read((row,), renderer, replace(HELD_OUT, max_length=length)).longest == length
    with pytest.raises(DatasetRefused, match=f"has {length} tokens, the limit is {length - 1}"):
        read((row,), renderer, replace(HELD_OUT, max_length=length - 1))
    long = json.dumps(chat("lamp " * 200, "yes")).encode()
    with pytest.raises(DatasetRefused, match=f"the limit is {CONTEXT}"):
        read((long,), renderer, replace(HELD_OUT, max_length=10_000))


def test_a_row_is_cut_after_its_last_answer_that_fits_whole(renderer: Renderer) -> None:
    whole = json.dumps(chat("lamp?", "red", "chair?", "blue", "and " * 30, "yes")).encode()
    kept = json.dumps(chat("lamp?", "red", "chair?", "blue")).encode()
    rules = replace(TRAINING, max_length=60, least_rows=1)
    dataset = read((whole, *CHATS), renderer, rules)
    expected = read((kept,), renderer).rows[0]
    assert dataset.rows[0] == expected
    length = read((whole,), replace(renderer, context=1000)).longest
    codes = {each.code: each for each in dataset.warnings}
    assert f"has {length} tokens, the limit is 60: it is cut after {len(expected.input_ids)}" in (
        codes["too_long"].message
    )
    lost = length - len(expected.input_ids)
    share = 100 * lost / (dataset.tokens + lost)
    assert f"1 of 11 rows (9.1 %) are too long: 1 cut, 0 left out, {share:.1f} % of all tokens lost" in (
        codes["truncation"].message
    )


def test_a_row_of_which_no_answer_fits_is_left_out(renderer: Renderer) -> None:
    for format_, long in (
        (DataFormat.CHAT, json.dumps(chat("lamp " * 200, "yes"))),
        (DataFormat.COMPLETION, json.dumps({"prompt": "lamp " * 200, "completion": "yes"})),
        (DataFormat.CLASSIFICATION, json.dumps({"text": "lamp " * 200, "label": "lamp"})),
        (DataFormat.PREFERENCE, json.dumps({"prompt": "a", "chosen": " b", "rejected": " lamp" * 200})),
    ):
        dataset = read((*GOOD[format_], long.encode()), renderer, TRAINING)
        assert dataset.size == 10
        assert {each.code for each in dataset.warnings} == {"too_long", "truncation"}


def test_text_is_cut_anywhere(renderer: Renderer) -> None:
    long = json.dumps({"text": "the red lamp " * 99}).encode()
    dataset = read((*TEXTS, long), renderer, TRAINING)
    assert len(dataset.rows[-1].input_ids) == CONTEXT


def test_two_begins_of_text_are_warned_of(renderer: Renderer) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    tokenizer.backend_tokenizer.post_processor = begins_with(tokenizer.bos_token_id)
    begun = replace(renderer, tokenizer=tokenizer)
    typed = b'{"text": "<|begin|>the lamp is red"}'
    (warning,) = read((*TEXTS, typed), begun, TRAINING).warnings
    assert (warning.line, warning.code) == (11, "double_bos")


def begins_with(token: int) -> object:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", token)])


TOOLED = Renderer(make_tokenizer(TOOL_TEMPLATE), frozenset({1}), CONTEXT)
LINE_BYTES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([row for rows in GOOD.values() for row in rows[:2]]),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["messages", "role", "content", "tools", "tool_calls", "prompt", "input", "weight"]
                ),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode()),
)


def shapes(value: object) -> st.SearchStrategy[object]:
    """The value with anything in the place of one of its parts, or one of its keys gone."""
    junk = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just([]) | st.just({})
    if isinstance(value, dict) and value:
        return st.sampled_from(sorted(value)).flatmap(
            lambda key: st.one_of(
                st.just({name: each for name, each in value.items() if name != key}),
                shapes(value[key]).map(lambda part: {**value, key: part}),
            )
        )
    if isinstance(value, list) and value:
        return st.integers(0, len(value) - 1).flatmap(
            lambda index: shapes(value[index]).map(lambda part: [*value[:index], part, *value[index + 1 :]])
        )
    return junk


MUTATED = (
    st.sampled_from(
        [json.loads(row) for rows in GOOD.values() for row in rows[:1]]
        + [json.loads(BROKEN["an answer to no call"].row)]
    )
    .flatmap(shapes)
    .map(lambda value: json.dumps(value).encode())
)


@given(st.lists(LINE_BYTES | MUTATED, max_size=4))
@settings(deadline=None, max_examples=400)
def test_no_file_crashes_the_validator_and_no_refusal_is_without_a_reason(lines: list[bytes]) -> None:
    found = validate(b"\n".join(lines), "data.jsonl", TOOLED, replace(TRAINING, least_rows=1))
    last = b"\n".join(lines).count(b"\n") + 1
    for each in found.findings:
        assert 0 <= each.line <= last
        assert each.code
        assert each.message
        assert each.fix
        json.dumps([each.line, each.field, each.code, each.message, each.fix])
    if found.is_usable:
        dataset = found.dataset()
        assert dataset.size
        assert all(row.learned_tokens and row.input_ids for row in dataset.rows)
    else:
        with pytest.raises(DatasetRefused) as caught:
            found.dataset()
        assert any(each.is_error for each in caught.value.findings)


def test_errors_without_end_are_counted_and_a_hundred_are_listed(renderer: Renderer) -> None:
    validated = validate(b"1\n" * 500_000, "rows", renderer)
    assert [each.code for each in validated.findings].count("not_an_object") == MOST_LISTED + 1
    assert counted(validated.findings)["not_an_object"] == MOST_ERRORS
    assert validated.findings[0].sentence.startswith("reading stopped after line 10,000, at 10,000 errors")
    assert not [each for each in validated.findings if each.code == "too_few_rows"]
    with pytest.raises(DatasetRefused, match=r"\(and 10,000 more\)") as refused:
        validated.dataset()
    assert "10,001 errors" in refused.value.summary


def test_warnings_without_end_are_counted_and_the_rows_are_used(renderer: Renderer) -> None:
    validated = validate((CHATS[0] + b"\n") * 300, "rows", renderer)
    assert (validated.is_usable, len(validated.rows)) == (True, 300)
    assert counted(validated.findings)["duplicate"] == 299
    assert len(validated.findings) == MOST_LISTED + 1


def test_a_line_has_a_bound(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorikeet_trainer.jsonl.MOST_LINE", 1000)
    validated = validate(
        b"\n".join((CHATS[0], b'{"text": "' + b"x" * 2000 + b'"}', CHATS[1])), "rows", renderer
    )
    assert [(each.line, each.code) for each in validated.findings if each.line] == [(2, "line_too_long")]
    assert [row.line for row in validated.rows] == [1, 3]
