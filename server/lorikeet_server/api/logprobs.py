"""How likely tokens were, as OpenAI's two routes, vLLM and TGI spell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lorikeet_server.api.services import TextCodec
from lorikeet_server.engine.detokenise import Characters
from lorikeet_server.engine.request import Score, Token, Top


def chat_logprobs(text: TextCodec, tokens: Sequence[Token]) -> dict[str, Any]:
    """`logprobs` of a chat choice."""
    content = [
        {
            **_chat_token(text, token.token_id, token.logprob),
            "top_logprobs": [_chat_token(text, *each) for each in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _chat_token(text: TextCodec, token: int, logprob: float) -> dict[str, Any]:
    return {"token": text.token_text(token), "logprob": logprob, "bytes": list(text.token_bytes(token))}


class TextLogprobs:
    """`logprobs` of a choice on /v1/completions, piece by piece; a text's offsets go on from piece to piece.

    A token's offset is where in the text of the choice its own text begins.
    """

    def __init__(self, text: TextCodec, offset: int = 0) -> None:
        self._text = text
        self._offset = offset
        self._said = Characters(text.decode)

    def spell(self, tokens: Sequence[Token | Score]) -> dict[str, Any]:
        return {
            "tokens": [self._spelled(each.token_id) for each in tokens],
            "token_logprobs": [each.logprob for each in tokens],
            "top_logprobs": [self._top(each.top, each.token_id, each.logprob) for each in tokens],
            "text_offset": [self._next(each.token_id) for each in tokens],
        }

    def spell_prompt(self, prompt: Sequence[int], scores: Sequence[Score]) -> dict[str, Any]:
        """The same of a whole prompt, whose first token has no likelihood."""
        first = {
            "tokens": [self._spelled(prompt[0])],
            "token_logprobs": [None],
            "top_logprobs": [None],
            "text_offset": [self._next(prompt[0])],
        }
        rest = self.spell(scores)
        return {key: first[key] + rest[key] for key in first}

    def _next(self, token: int) -> int:
        at = self._offset
        self._offset += len(self._said.push(token))
        return at

    def _spelled(self, token: int) -> str:
        """No two tokens look alike: bytes that are no text by themselves stand as OpenAI writes them, and a
        token that the tokenizer does not have as vLLM does."""
        raw = self._text.token_bytes(token)
        if not raw:
            return f"token_id:{token}"
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _top(self, top: Top, token: int, logprob: float) -> dict[str, float]:
        """The token itself is always among them."""
        return {self._spelled(each): value for each, value in (*top, (token, logprob))}


def prompt_logprobs(
    text: TextCodec, scores: Sequence[Score], count: int
) -> list[dict[str, dict[str, Any]] | None]:
    """vLLM's: for each token of the prompt but the first, itself and the `count` most likely, by id."""

    def told(score: Score) -> dict[str, dict[str, Any]]:
        ranked = [(token, logprob, rank) for rank, (token, logprob) in enumerate(score.top[:count], 1)]
        own = (score.token_id, score.logprob, score.rank)
        return {
            str(token): {"logprob": logprob, "rank": rank, "decoded_token": text.token_text(token)}
            for token, logprob, rank in (own, *ranked)
        }

    return [None, *map(told, scores)]


def native_token(text: TextCodec, token: int, logprob: float) -> dict[str, Any]:
    """LoRAX's and TGI's. LoRAX's client wants to know whether it was skipped, by speculation."""
    return {
        "id": token,
        "text": text.token_text(token),
        "logprob": logprob,
        "special": text.is_special(token),
        "skipped": False,
    }


def native_prefill(text: TextCodec, prompt: Sequence[int], scores: Sequence[Score]) -> list[dict[str, Any]]:
    """TGI's list of the prompt's tokens, whose first has no likelihood."""
    logprobs = [None, *(score.logprob for score in scores)]
    return [
        {"id": token, "text": text.token_text(token), "logprob": logprob}
        for token, logprob in zip(prompt, logprobs, strict=True)
    ]
