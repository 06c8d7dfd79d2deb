"""One choice of an OpenAI answer, spelled whole or, in a stream, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lorikeet_server.api.chat_body import ChatBody
from lorikeet_server.api.completion_body import CompletionBody
from lorikeet_server.api.logprobs import TextLogprobs, chat_logprobs, prompt_logprobs
from lorikeet_server.api.run import Answer
from lorikeet_server.api.services import TextCodec
from lorikeet_server.engine.request import Score, Token


@dataclass(frozen=True, slots=True)
class Prompt:
    """Its tokens and, where a client may be told it again, its text."""

    ids: tuple[int, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """What a route calls its objects."""

    prefix: str
    whole: str
    chunk: str


CHAT = Names("chatcmpl", "chat.completion", "chat.completion.chunk")
TEXT = Names("cmpl", "text_completion", "text_completion")


class Choice(Protocol):
    """Each method spells a part; `opens_at_once`: a stream begins with the opening, which waits for no scores."""

    @property
    def opens_at_once(self) -> bool: ...
    def opening(self, scores: Sequence[Score] = ()) -> dict[str, Any]: ...
    def piece(self, text: str, tokens: Sequence[Token], finish: str | None = None) -> dict[str, Any]: ...
    def whole(self, answer: Answer) -> dict[str, Any]: ...

    def beside(self, scores: Sequence[Score] = ()) -> dict[str, Any]:
        """What stands in the object beside its choices."""


class ChatChoice:
    """A choice on /v1/chat/completions."""

    def __init__(self, body: ChatBody, text: TextCodec, index: int, prompt: Prompt) -> None:
        self._index = index
        self._prompt = prompt
        self._body = body
        self._text = text

    @property
    def opens_at_once(self) -> bool:
        return True

    def opening(self, scores: Sequence[Score] = ()) -> dict[str, Any]:
        return {**self._spell({"delta": {"role": "assistant", "content": ""}}, (), None), **self._ids()}

    def piece(self, text: str, tokens: Sequence[Token], finish: str | None = None) -> dict[str, Any]:
        delta = {} if finish and not text else {"content": text}
        return self._spell({"delta": delta}, tokens, finish)

    def whole(self, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = self._spell({"message": message}, answer.tokens, answer.end.reason, is_whole=True)
        return {**choice, **self._ids()}

    def beside(self, scores: Sequence[Score] = ()) -> dict[str, Any]:
        """Where vLLM tells of a chat's prompt, which all choices have in common."""
        told: dict[str, Any] = self._ids()
        if scores and self._body.prompt_logprobs is not None:
            told["prompt_logprobs"] = prompt_logprobs(self._text, scores, self._body.prompt_logprobs)
        return told

    def _ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": self._prompt.ids} if self._body.return_token_ids else {}

    def _spell(
        self, said: dict[str, Any], tokens: Sequence[Token], finish: str | None, is_whole: bool = False
    ) -> dict[str, Any]:
        told = self._body.likely is not None and (tokens or is_whole)
        choice = {
            "index": self._index,
            **said,
            "logprobs": chat_logprobs(self._text, tokens) if told else None,
            "finish_reason": finish,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = [token.token_id for token in tokens]
        return choice


class TextChoice:
    """A choice on /v1/completions."""

    def __init__(self, body: CompletionBody, text: TextCodec, index: int, prompt: Prompt) -> None:
        self._index = index
        self._prompt = prompt
        self._body = body
        self._text = text
        self._logprobs = TextLogprobs(text, len(prompt.text) if body.echo else 0)

    @property
    def opens_at_once(self) -> bool:
        """With nothing to wait for and something to say: the prompt or its ids."""
        body = self._body
        return body.likely_in_prompt is None and (body.echo or body.return_token_ids)

    def opening(self, scores: Sequence[Score] = ()) -> dict[str, Any]:
        """The prompt where it is echoed, with its ids and its scores where they are asked for."""
        choice = self._spell(self._prompt.text if self._body.echo else "", (), None)
        if self._body.echo and self._body.likely is not None:
            choice["logprobs"] = self._echoed(scores)
        return choice | self._of_prompt(scores)

    def piece(self, text: str, tokens: Sequence[Token], finish: str | None = None) -> dict[str, Any]:
        choice = self._spell(text, tokens, finish)
        if self._body.likely is not None and tokens:
            choice["logprobs"] = self._logprobs.spell(tokens)
        return choice

    def whole(self, answer: Answer) -> dict[str, Any]:
        echoed = self._prompt.text if self._body.echo else ""
        choice = self._spell(echoed + answer.text, answer.tokens, answer.end.reason)
        if self._body.likely is not None:
            own = self._logprobs.spell(answer.tokens)
            before = self._echoed(answer.prompt) if self._body.echo else {}
            choice["logprobs"] = {key: before.get(key, []) + own[key] for key in own}
        return choice | self._of_prompt(answer.prompt)

    def beside(self, scores: Sequence[Score] = ()) -> dict[str, Any]:
        """Nothing: choices may have different prompts."""
        return {}

    def _echoed(self, scores: Sequence[Score]) -> dict[str, Any]:
        """In a prompt each token tells as many others as the answer's do, whatever `prompt_logprobs` asks for."""
        count = self._body.likely or 0
        cut = [replace(each, top=each.top[:count]) for each in scores]
        return TextLogprobs(self._text).spell_prompt(self._prompt.ids, cut)

    def _of_prompt(self, scores: Sequence[Score]) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if self._body.prompt_logprobs is not None:
            told["prompt_logprobs"] = prompt_logprobs(self._text, scores, self._body.prompt_logprobs)
        if self._body.return_token_ids:
            told["prompt_token_ids"] = self._prompt.ids
        return told

    def _spell(self, text: str, tokens: Sequence[Token], finish: str | None) -> dict[str, Any]:
        choice = {"index": self._index, "text": text, "logprobs": None, "finish_reason": finish}
        if self._body.return_token_ids:
            choice["token_ids"] = [token.token_id for token in tokens]
        return choice
