"""Which tokens the rows with penalties have seen, as tensors beside the logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorikeet_server.engine.draw import Draw


class History:
    """The distinct tokens of one request's prompt and answer: `ids`[K], and in `counts`[K] how often in the answer.

    Ids that the embeddings know and the head does not are left out.
    """

    def __init__(self, prompt: Sequence[int], like: torch.Tensor) -> None:
        self._known = range(like.shape[-1])
        known = dict.fromkeys(token for token in prompt if token in self._known)
        self._place = {token: place for place, token in enumerate(known)}
        self._folded = 0  # tokens of the answer that are in
        self.ids = torch.tensor(list(known), dtype=torch.long, device=like.device)
        self.counts = torch.zeros(len(known), device=like.device)

    def fold(self, generated: Sequence[int]) -> None:
        """Take in what is new of the answer."""
        tokens = [token for token in generated[self._folded :] if token in self._known]
        self._folded = len(generated)
        new = [token for token in dict.fromkeys(tokens) if token not in self._place]
        if new:
            self._place |= {token: place for place, token in enumerate(new, len(self._place))}
            self.ids = torch.cat((self.ids, self.ids.new_tensor(new)))
            self.counts = torch.cat((self.counts, self.counts.new_zeros(len(new))))
        places = self.ids.new_tensor([self._place[token] for token in tokens])
        self.counts.index_add_(0, places, self.counts.new_ones(len(tokens)))


class Histories:
    """Made when a request is first asked about, then kept up by the tokens that are new.

    Nothing here is the only copy: a request whose history was forgotten is asked about with all its tokens.
    """

    def __init__(self) -> None:
        self._known: dict[str, History] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, draw: Draw, like: torch.Tensor) -> History:
        """What the row has seen, for logits `like`[.., V]."""
        assert len(draw.generated) == draw.index, "a row that looks back is told what it generated"
        if draw.request.id not in self._known:
            self._known[draw.request.id] = History(draw.request.prompt, like)
        history = self._known[draw.request.id]
        history.fold(draw.generated)
        return history

    def forget(self, request_id: str) -> None:
        self._known.pop(request_id, None)

    def clear(self) -> None:
        self._known.clear()
