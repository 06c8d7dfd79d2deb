"""Runs batches on the model: slots, prompts under way and rank rows live here. One thread only."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from lorikeet_adapters.base_model import BaseModel
from lorikeet_adapters.mix import Mix
from lorikeet_adapters.native.linears import NativeLinears
from lorikeet_adapters.rank_rows.kernels import AUTO, NATIVE
from lorikeet_adapters.rank_rows.rows import RankRows
from lorikeet_adapters.record import Memory
from lorikeet_adapters.weights import AdapterWeights
from lorikeet_server.engine.batch import Batch, DecodeRow, PrefillChunk, Sampled, StepOutput
from lorikeet_server.engine.draw import Draw
from lorikeet_server.engine.failures import is_out_of_memory
from lorikeet_server.engine.geometry import Geometry
from lorikeet_server.engine.guides import Guides
from lorikeet_server.engine.padding import CPU_FORWARD_COST, CUDA_FORWARD_COST, padded, row_of, together
from lorikeet_server.engine.prefix_store import PrefixStore
from lorikeet_server.engine.request import Request
from lorikeet_server.engine.sampler import Sampler
from lorikeet_server.engine.scorer import PIECE, Scorer
from lorikeet_server.engine.segments import segmented
from lorikeet_server.engine.slot_cache import SlotCache

log = logging.getLogger(__name__)


class Runner:
    """Carries out `Batch` values on one resident model.

    `geometry` bounds the KV cache, `rows` the ranks of the resident adapters together; `eos` are the
    tokens that end an answer.
    """

    def __init__(
        self,
        base: BaseModel,
        geometry: Geometry,
        rows: int,
        kernel: str = AUTO,
        eos: frozenset[int] = frozenset(),
    ) -> None:
        self.rank_rows = RankRows(base, rows, kernel)
        self._linears = NativeLinears(base.model if self.rank_rows.kernel == NATIVE else None)
        self._model: PreTrainedModel = base.model
        self._device = base.device
        self._cache = SlotCache(base.model.config.get_text_config().num_hidden_layers, geometry)
        self._prefixes = PrefixStore()
        self._sampler = Sampler(eos)
        self._scorer = Scorer()
        self.guides = Guides()
        self._order: list[str] = []  # request of each slot row
        self._prefilling: dict[str, DynamicCache] = {}
        self._host: dict[str, AdapterWeights] = {}
        accepted = inspect.signature(base.model.forward).parameters
        self._forward_cost = CUDA_FORWARD_COST if base.device.type == "cuda" else CPU_FORWARD_COST
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @property
    def slots_used(self) -> int:
        return len(self._order) + len(self._prefilling)

    @property
    def cache_bytes(self) -> int:
        return self._cache.bytes

    @property
    def kernel_bytes(self) -> int:
        """Copies of the base's weights, in the form that the native kernels read."""
        return self._linears.bytes

    def hold(self, generation: str, weights: AdapterWeights) -> None:
        """Keep an adapter's host tensors until a batch inserts or evicts it."""
        self._host[generation] = weights

    def held(self, generation: str) -> Memory:
        """What an adapter takes now, rows or host tensors."""
        host = self._host.get(generation)
        return Memory(self.rank_rows.bytes_of(generation), host.bytes if host is not None else 0)

    @torch.no_grad()
    def execute(self, batch: Batch) -> StepOutput:
        """Carry out one step, or as much of it as there is memory for."""
        sampled: dict[str, Sampled] = {}
        prefilled: list[PrefillChunk] = []
        try:
            self.move(batch)
            if batch.decode:
                draws = [self._draw(row.request, row.index + 1, row.generated) for row in batch.decode]
                sampled |= self._sample(self.decode(batch.decode), draws)
            began = time.perf_counter()
            for chunks in together(batch.prefill, self._forward_cost):
                logits = self.prefill(*chunks)
                prefilled.extend(chunks)
                sampled |= self._first(chunks, logits)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            log.error(
                "out of memory, giving back keys and values: %s", (str(error) or repr(error)).splitlines()[0]
            )
        else:
            return StepOutput(sampled, tuple(prefilled), prefill_seconds=time.perf_counter() - began)
        # Not in the handler: while it runs, the traceback holds what the step had made until it failed.
        self._clear()
        not_inserted = tuple(each for each in batch.insert if each in self._host)
        return StepOutput(sampled, tuple(prefilled), out_of_memory=True, not_inserted=not_inserted)

    def move(self, batch: Batch) -> None:
        """Give back and insert what the batch says, before anything is computed.

        All is given back before anything is allocated: when memory runs out on the way, adapters not yet
        inserted are still held on the host, and what was given back is accounted for.
        """
        for request_id in batch.leave:
            self._leave(request_id)
        reused = [(each.request.id, self._prefixes.find(each.keys)) for each in batch.reuse]
        self._prefixes.forget(batch.forget)
        for generation in batch.evict:
            if self._host.pop(generation, None) is None:
                self.rank_rows.evict(generation)
        for generation in batch.insert:
            self.rank_rows.insert(generation, self._host[generation])
            del self._host[generation]
        for request_id, blocks in reused:
            self._prefilling[request_id] = self._prefixes.begin(blocks)

    @torch.no_grad()
    def decode(self, rows: Sequence[DecodeRow]) -> torch.Tensor:
        """One token for every running request; logits[len(rows), V] in the order of `rows`."""
        by_id = {row.request.id: row for row in rows}
        assert by_id.keys() == set(self._order), "every running request decodes in every step"
        ordered = [by_id[request_id] for request_id in self._order]
        cache = self._cache
        cache.open_column()
        lengths = torch.tensor(cache.lengths, device=self._device)[:, None]
        columns = torch.arange(cache.window, device=self._device)[None]
        mask = (columns >= cache.window - 1 - lengths).long()
        tokens = torch.tensor([[row.token] for row in ordered], device=self._device)
        mixes = [row.request.mix for row in ordered]
        widths = [length + 1 for length in cache.lengths]
        with self.rank_rows.step(mixes), segmented(widths, self._device):
            logits = self._forward(tokens, mask, lengths, cache)[:, -1]
        cache.close_column()
        position = {request_id: row for row, request_id in enumerate(self._order)}
        places = [position[row.request.id] for row in rows]
        return logits if places == [*range(len(places))] else logits[places]

    @torch.no_grad()
    def prefill(self, *chunks: PrefillChunk) -> torch.Tensor:
        """Compute one chunk, or several that `together` allows; logits[chunks, V] of their last tokens.

        A request's last chunk takes a slot.
        """
        logits = self._prefill_alone(*chunks) if len(chunks) == 1 else self._prefill_together(chunks)
        caches = [self._prefilling[chunk.request.id] for chunk in chunks]
        for chunk, cache in zip(chunks, caches, strict=True):
            if chunk.is_last:
                self._cache.join(cache)
                self._order.append(chunk.request.id)
                del self._prefilling[chunk.request.id]
        # Last: when memory runs out before, nothing is kept that nobody knows of.
        self._prefixes.keep(zip((chunk.keep for chunk in chunks), caches, strict=True))
        return logits

    def detach(self) -> None:
        """Take every hook off the base."""
        self.rank_rows.detach()
        self._linears.detach()

    def logprobs(self, prompt: Sequence[int], completion: Sequence[int], mix: Mix) -> torch.Tensor:
        """Teacher-forced log-probability of each completion token, [len(completion)]."""
        chosen = torch.tensor(completion, device=self._device)[:, None]
        return self.distributions(prompt, completion, mix).gather(-1, chosen)[:, 0]

    @torch.no_grad()
    def distributions(self, prompt: Sequence[int], completion: Sequence[int], mix: Mix) -> torch.Tensor:
        """Log-probabilities of every token where each of the completion's stands, fp32 [len(completion), V].

        In a forward of its own.
        """
        tokens = torch.tensor([[*prompt, *completion]], device=self._device)
        with self.rank_rows.step([mix]), self._linears.on():
            mask = torch.ones_like(tokens)
            logits = self._model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[0].float()
        return torch.log_softmax(logits[len(prompt) - 1 : -1], -1)

    def _draw(self, request: Request, index: int, generated: tuple[int, ...]) -> Draw:
        return Draw(request, index, generated, self.guides.allowed(request))

    def _sample(self, logits: torch.Tensor, draws: Sequence[Draw]) -> dict[str, Sampled]:
        rows = zip(draws, self._sampler.sample(logits, draws), strict=True)
        return {draw.request.id: self.guides.follow(draw.request, sampled) for draw, sampled in rows}

    def _first(self, chunks: Sequence[PrefillChunk], logits: torch.Tensor) -> dict[str, Sampled]:
        """The token after each prompt that is complete, with the prompt's scores where they are asked for."""
        last = [(row, chunk) for row, chunk in enumerate(chunks) if chunk.is_last]
        if not last:
            return {}
        draws = [self._draw(chunk.request, chunk.index, chunk.generated) for _, chunk in last]
        sampled = self._sample(logits[[row for row, _ in last]], draws)
        scored = [chunk.request.id for _, chunk in last if chunk.is_scored]
        return sampled | {each: self._with_scores(each, sampled[each]) for each in scored}

    def _with_scores(self, request_id: str, sampled: Sampled) -> Sampled:
        scores = self._scorer.take(request_id)
        if not all(math.isfinite(each.logprob) for each in scores):
            return Sampled(None, math.nan)
        return replace(sampled, prompt=scores)

    def _prefill_alone(self, chunk: PrefillChunk) -> torch.Tensor:
        cache = self._prefilling.setdefault(chunk.request.id, DynamicCache())
        assert cache.get_seq_length() == chunk.start, "chunks follow one another"
        tokens = torch.tensor([chunk.tokens], device=self._device)
        if chunk.is_scored:
            return self._score(cache, tokens, chunk.request)
        return self._extend(cache, tokens, chunk.request.mix)[:, -1]

    def _prefill_together(self, chunks: Sequence[PrefillChunk]) -> torch.Tensor:
        tokens, mask, positions = padded(chunks, self._device)
        cache = DynamicCache()
        mixes = [chunk.request.mix for chunk in chunks]
        with self.rank_rows.step(mixes, span=tokens.shape[1]):
            logits = self._forward(tokens, mask, positions, cache)[:, -1]
        for row, chunk in enumerate(chunks):
            self._prefilling[chunk.request.id] = row_of(cache, row, len(chunk.tokens))
        return logits

    def _score(self, cache: DynamicCache, tokens: torch.Tensor, request: Request) -> torch.Tensor:
        """Compute and score in pieces, because each needs the logits of all its positions; logits[1, V] of the last."""
        for piece in torch.split(tokens, PIECE, dim=1):
            start = cache.get_seq_length()
            logits = self._extend(cache, piece, request.mix, last_only=False)
            self._scorer.add(request, start, logits[0])
        return logits[:, -1]

    def _extend(
        self, cache: DynamicCache, tokens: torch.Tensor, mix: Mix, last_only: bool = True
    ) -> torch.Tensor:
        start = cache.get_seq_length()
        mask = torch.ones(1, start + tokens.shape[1], dtype=torch.long, device=self._device)
        positions = torch.arange(start, start + tokens.shape[1], device=self._device)[None]
        with self.rank_rows.step([mix]):
            return self._forward(tokens, mask, positions, cache, last_only)

    def _forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: SlotCache | DynamicCache,
        last_only: bool = True,
    ) -> torch.Tensor:
        """logits[B, T, V]; `last_only` spares those of other positions than the last where the model can."""
        where = {"position_ids": positions} if self._takes_positions else {}
        with self._linears.on():
            output = self._model(
                input_ids=tokens,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **where,
                **(self._last_only if last_only else {}),
            )
        logits: torch.Tensor = output.logits
        return logits

    def _clear(self) -> None:
        """Give back every slot and prompt under way; what ran must be computed again."""
        self._order.clear()
        self._prefilling.clear()
        self._sampler.clear()
        self._scorer.clear()
        self._cache.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _leave(self, request_id: str) -> None:
        self._sampler.forget(request_id)
        self._scorer.forget(request_id)
        if self._prefilling.pop(request_id, None) is not None:
            return
        if request_id not in self._order:
            return  # it left before its first chunk was computed, or memory ran out
        row = self._order.index(request_id)
        moved = self._cache.leave(row)
        self._order[row] = self._order[moved]
        self._order.pop()
