"""One job from its files to an adapter that has been through the gate. See `worker` for the process."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

from lorikeet_adapters.base_model import BaseModel
from lorikeet_trainer.checkpoint import Checkpoints, refuse_changed
from lorikeet_trainer.course import Course, Marks
from lorikeet_trainer.curve import draw_curve
from lorikeet_trainer.device import refuse_missing
from lorikeet_trainer.equipment import refuse_unavailable
from lorikeet_trainer.export import save_adapter, seal
from lorikeet_trainer.gate import Gate, gate
from lorikeet_trainer.history import LOSS_FILE, LossPoint, final_loss, read_history, write_history
from lorikeet_trainer.judge import HeldBase
from lorikeet_trainer.material import Material, read_material
from lorikeet_trainer.messages import Began, Done, Message, Phase, Saved, Stepped, Warned
from lorikeet_trainer.output import whole_folder
from lorikeet_trainer.parentage import adopt, parent_of
from lorikeet_trainer.parity import Trace, measure, write_parity
from lorikeet_trainer.provenance import (
    Provenance,
    base_facts,
    data_facts,
    library_versions,
    tokenizer_facts,
)
from lorikeet_trainer.quiet import quiet_libraries
from lorikeet_trainer.recipe import Plan
from lorikeet_trainer.rendering import Renderer
from lorikeet_trainer.request import Request, as_plain
from lorikeet_trainer.stop import Signal
from lorikeet_trainer.train import open_base, resolve
from lorikeet_trainer.tuner import adapt, build_trainer
from lorikeet_trainer.validation import validate

ADAPTER_FOLDER = "adapter"
PLAN_FILE = "resolved.json"  # the recipe with nothing left open, for people
Say = Callable[[Message], None]


@dataclass
class Trained:
    """What training holds in memory; let go before the gate loads the base again."""

    base: BaseModel
    model: PeftModel
    plan: Plan
    provenance: Provenance
    history: list[LossPoint]


class Run:
    """The phases of one job, in `folder`. Calling `work` again after a kill goes on from the last checkpoint."""

    def __init__(self, folder: Path, request: Request, say: Say, stop: Signal) -> None:
        self._folder = folder
        self._request = request
        self._say = say
        self._stop = stop
        self._checkpoints = Checkpoints(folder)

    def work(self) -> Done:
        """Raises StopNow when told to end, RefusedError and TrainingFailed for what went wrong."""
        with quiet_libraries():
            return self._work()

    def _work(self) -> Done:
        self._say(Began(Phase.VALIDATING))
        refuse_missing(self._request.device)
        refuse_unavailable(self._request.recipe, self._request.device)
        renderer = Renderer.load(self._request.model, self._request.trust_remote_code)
        material = read_material(self._request, renderer, self._folder, lambda text: self._say(Warned(text)))
        traces, plan, metrics, history = self._learn(renderer, material)
        gc.collect()  # the base is loaded again, as the server loads it
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        verdict = self._judge(traces, plan, metrics)
        return Done(
            folder=ADAPTER_FOLDER,
            steps=history[-1].step,
            trained_tokens=history[-1].tokens,
            final_loss=metrics["train_loss"],
            quarantined=not verdict.passed,
            reason="; ".join(reason.message for reason in verdict.reasons),
        )

    def _learn(
        self, renderer: Renderer, material: Material
    ) -> tuple[tuple[Trace, ...], Plan, dict[str, Any], list[LossPoint]]:
        """Everything for which the training model must be in memory; it is let go when this returns."""
        self._say(Began(Phase.LOADING))
        trained = self._load(renderer, material)
        self._train(trained, renderer, material)
        self._say(Began(Phase.EVALUATING, trained.plan.steps))
        kept = self._checkpoints.best() if trained.plan.early_stopping else self._checkpoints.newest()
        assert kept is not None, "training ends with a checkpoint"
        _take_weights(trained.model, kept.folder)
        traces = measure(trained.model, material.judged_by)
        write_parity(self._folder, traces)
        self._say(Began(Phase.EXPORTING, trained.plan.steps))
        history = trained.history[: kept.step]
        self._export(trained, history)
        metrics = {"train_loss": final_loss(history), "valid_loss": kept.valid_loss, "step": kept.step}
        return traces, trained.plan, metrics, trained.history

    def _load(self, renderer: Renderer, material: Material) -> Trained:
        request = self._request
        base = open_base(
            request.model, request.recipe, request.device, trust_remote_code=request.trust_remote_code
        )
        recipe = request.recipe if request.parent is None else adopt(request.recipe, request.parent, base)
        plan = resolve(recipe, base, material.training, checked=request.parent is not None)
        (self._folder / PLAN_FILE).write_text(json.dumps(as_plain(plan), indent=2) + "\n")
        provenance = Provenance(
            base_facts(base),
            tokenizer_facts(renderer),
            data_facts(material.training),
            plan,
            0.0,
            library_versions(),
            parent_of(request.parent, request.parent_name) if request.parent else None,
        )
        return Trained(base, adapt(base, plan, request.parent), plan, provenance, [])

    def _train(self, trained: Trained, renderer: Renderer, material: Material) -> None:
        self._checkpoints.prepare()
        made_from = _made_from(trained, material)
        newest = self._checkpoints.newest()
        if newest is not None:
            refuse_changed(newest.made_from, made_from)
            trained.history += read_history(newest.folder / LOSS_FILE)
        self._say(Began(Phase.TRAINING, trained.plan.steps))
        if newest is not None and newest.finished:
            return
        trainer = build_trainer(
            trained.model,
            material.training,
            renderer.tokenizer,
            trained.plan,
            self._checkpoints.root,
            checkpointing=self._request.recipe.gradient_checkpointing,
            report_to=self._request.recipe.report_to,
        )
        held = material.held
        marks = Marks(
            said=_Speaker(self._say, trained.plan.steps, trained.history).step,
            validate=(lambda: validate(trainer, held, trained.plan.batch_size)) if held else (lambda: None),
            save=partial(self._save, trained, made_from),
            stop=self._stop,
            history=trained.history,
        )
        trainer.add_callback(Course(trained.plan, marks))
        self._stop.hold()
        trainer.train(resume_from_checkpoint=str(newest.folder) if newest else None)
        self._stop.release()

    def _save(self, trained: Trained, made_from: dict[str, Any], point: LossPoint, finished: bool) -> None:
        """The Trainer has written its part; ours takes the place of PEFT's files."""
        staging = self._checkpoints.staging(point.step)
        provenance = trained.provenance.after(final_loss(trained.history))
        save_adapter(staging, trained.model, trained.base.source, provenance, may_be_zero=True)
        write_history(staging / LOSS_FILE, trained.history)
        made = self._checkpoints.complete(point.step, made_from, point.valid_loss, finished=finished)
        self._checkpoints.prune()
        self._say(
            Saved(
                point.step,
                str(made.folder.relative_to(self._folder)),
                point.train_loss,
                point.train_accuracy,
                point.valid_loss,
                point.valid_accuracy,
            )
        )

    def _export(self, trained: Trained, history: list[LossPoint]) -> None:
        with whole_folder(self._folder / ADAPTER_FOLDER, force=True) as staging:
            provenance = trained.provenance.after(final_loss(history))
            save_adapter(staging, trained.model, trained.base.source, provenance)
            write_history(staging / LOSS_FILE, trained.history)
            if not draw_curve(staging, trained.history):
                self._say(
                    Warned("no loss.png was drawn: matplotlib is not installed; loss.csv has the numbers")
                )

    def _judge(self, traces: tuple[Trace, ...], plan: Plan, metrics: dict[str, Any]) -> Gate:
        self._say(Began(Phase.GATING, plan.steps))
        request = self._request
        verdict = gate(
            self._folder / ADAPTER_FOLDER,
            traces,
            HeldBase(request.model, plan.quantization, request.device, request.trust_remote_code),
            parent=request.parent,
            quality=request.quality_gate,
            beta=plan.beta or 0.1,
        )
        seal(self._folder / ADAPTER_FOLDER, metrics=metrics, gate=verdict.to_dict())
        return verdict


class _Speaker:
    """Steps as messages, with the speed since this process began to train."""

    def __init__(self, say: Say, total: int, history: list[LossPoint]) -> None:
        self._say = say
        self._total = total
        self._start = time.monotonic()
        self._before = history[-1].tokens if history else 0

    def step(self, point: LossPoint) -> None:
        speed = (point.tokens - self._before) / max(time.monotonic() - self._start, 1e-9)
        values = asdict(point)
        self._say(Stepped(**values, total_steps=self._total, tokens_per_second=speed))


def _made_from(trained: Trained, material: Material) -> dict[str, Any]:
    """As it comes back from a file."""
    record = trained.provenance
    facts = {
        "data": material.facts,
        "base": asdict(record.base),
        "tokenizer": asdict(record.tokenizer),
        "recipe": as_plain(trained.plan),
        "parent": asdict(record.parent) if record.parent else None,
    }
    known: dict[str, Any] = json.loads(json.dumps(facts))
    return known


def _take_weights(model: PeftModel, folder: Path) -> None:
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)))
