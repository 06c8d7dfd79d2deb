"""Which tokens an answer adds to its prompt, and whether they are those that a model would generate.

    prompt   <|user|> Hi <|end|> <|assistant|>
    whole    <|user|> Hi <|end|> <|assistant|> Hello! <|end|> \\n
    learned                                    ^^^^^^^^^^^^^^

The end-of-turn token is learned, or the adapter would never stop; what a template puts behind it is
not, because nobody generates it.
"""

from __future__ import annotations

from lorikeet_trainer.encoding import Ids
from lorikeet_trainer.finding import RowFinding
from lorikeet_trainer.row import Turn


def find_turn(line: int, field: str, prompt: Ids, whole: Ids, ends: frozenset[int]) -> Turn | RowFinding:
    """The learned span of `whole`, once its tokens after the prompt are those that would be generated."""
    start = len(prompt)
    if not prompt or whole[:start] != prompt:
        message = "prompt and answer share a token, so the answer's first token is never generated"
        fix = "let no blank or line break stand where prompt and answer meet"
        return RowFinding(line, field, "prompt_not_a_prefix", message, fix)
    found = [index for index in range(start, len(whole)) if whole[index] in ends]
    if not found:
        message = "no end-of-turn token follows the answer, so the adapter would never learn to stop"
        fix = "choose a base whose chat template ends turns with a token that ends generation"
        return RowFinding(line, field, "end_of_turn_not_learned", message, fix)
    if len(found) > 1:
        message = "the answer's text contains an end-of-turn token"
        return RowFinding(line, field, "end_of_turn_in_text", message, "remove the token from the text")
    if found[0] == start:
        message = "the answer has no token before its end"
        return RowFinding(line, field, "no_learned_token", message, "drop the row or fill the answer in")
    return Turn(start, found[0] + 1)
