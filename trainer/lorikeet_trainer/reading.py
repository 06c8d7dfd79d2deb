"""A file's lines to examples, one after another: a row that was made is not kept as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from lorikeet_trainer.encoding import special_texts
from lorikeet_trainer.example import Chat, ChatPair, DataFormat, Example, Labelled
from lorikeet_trainer.finding import MOST_SHOWN, Findings, RowFinding, Severity
from lorikeet_trainer.formats import detect_format, read_example, unknown_format
from lorikeet_trainer.jsonl import Record, parse_jsonl
from lorikeet_trainer.rendering import Tokenizer
from lorikeet_trainer.rules import Rules


class Reading:
    """`format` is known from the first row that has one, `labels` grow; `findings` are about single rows."""

    def __init__(self, tokenizer: Tokenizer, rules: Rules) -> None:
        self.findings = Findings()
        self.format: DataFormat | None = rules.format
        self.labels: set[str] = set()
        self.records = 0
        self.line = 0  # the last one read
        self.stopped = False  # by too many errors, before the end
        self._known_labels = frozenset(rules.labels)
        self._has_template = tokenizer.chat_template is not None
        self._refused_conversations = False
        self._special = special_texts(tokenizer)

    def examples(self, data: bytes) -> Iterator[Example]:
        """What can be read; what cannot is in `findings`."""
        for each in parse_jsonl(data):
            if self.findings.is_full:
                self._stop()
                return
            self.records += 1
            self.line = each.line
            if isinstance(each, RowFinding):
                self.findings.add([each])
                continue
            example = self._example(each)
            if isinstance(example, Chat | ChatPair):
                if not self._has_template:
                    self._refuse_conversations()
                    continue
                self._look_for_special_texts(example)
            elif isinstance(example, Labelled):
                self.labels.add(example.label)
            if example is not None:
                yield example

    def _example(self, record: Record) -> Example | None:
        self.format = self.format or detect_format(record)
        if self.format is None:
            self.findings.add([unknown_format(record)])
            return None
        read = read_example(record, self.format, self._known_labels)
        if isinstance(read, list):
            self.findings.add(read)
            return None
        return read

    def _stop(self) -> None:
        self.stopped = True
        message = f"reading stopped after line {self.line:,}, at {self.findings.errors:,} errors"
        fix = "mend what is listed; what follows was not looked at"
        self.findings.add([RowFinding(0, "", "too_many_errors", message, fix)])

    def _refuse_conversations(self) -> None:
        """Once: it is the base that lacks something, not the row."""
        if self._refused_conversations:
            return
        self._refused_conversations = True
        message = "the base has no chat template, so it cannot render conversations"
        fix = "use prompt/completion rows, or an instruct base"
        self.findings.add([RowFinding(0, "messages", "no_chat_template", message, fix)])

    def _look_for_special_texts(self, example: Chat | ChatPair) -> None:
        """Turns whose text spells out a special token: it becomes that token, here as on the server."""
        where = "messages" if isinstance(example, Chat) else example.where
        for index, message in enumerate(example.messages):
            match = self._special.search(message.content) if self._special else None
            if match is not None:
                said = f"the text contains the special token {match[0][:MOST_SHOWN]}"
                field, fix = f"{where}[{index}].content", "remove it, unless it is meant"
                finding = RowFinding(example.line, field, "special_token", said, fix, Severity.WARNING)
                self.findings.add([finding])
