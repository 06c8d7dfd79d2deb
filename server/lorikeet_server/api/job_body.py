"""The body of POST /v1/fine_tuning/jobs: OpenAI's fields, and what they cannot say under `x_lorikeet`."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from lorikeet_server.api.body import Body
from lorikeet_server.errors import RequestRefused
from lorikeet_trainer.jobs.job import AUTO, MAX_SUFFIX, Hyperparameters, Method, Order

T = TypeVar("T", int, float)
Auto = Literal["auto"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Key = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)]
FileId = Annotated[str, Field(min_length=1, max_length=64)]


class HyperparametersBody(Body):
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = AUTO
    learning_rate_multiplier: Auto | Rate = AUTO
    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = AUTO

    def value(self) -> Hyperparameters:
        return Hyperparameters(
            n_epochs=_said(self.n_epochs),
            batch_size=_said(self.batch_size),
            learning_rate_multiplier=_said(self.learning_rate_multiplier),
            beta=self.asked_beta,
        )

    @property
    def asked_beta(self) -> float | None:
        return None


class DpoHyperparametersBody(HyperparametersBody):
    beta: Auto | Annotated[float, Field(gt=0, le=10)] = AUTO

    @property
    def asked_beta(self) -> float | None:
        return _said(self.beta)


class SupervisedBody(Body):
    hyperparameters: HyperparametersBody = HyperparametersBody()


class DpoBody(Body):
    hyperparameters: DpoHyperparametersBody = DpoHyperparametersBody()


class MethodBody(Body):
    """OpenAI's third, `reinforcement`, is not built and refused by name."""

    type: Literal["supervised", "dpo"]
    supervised: SupervisedBody | None = None
    dpo: DpoBody | None = None

    def hyperparameters(self) -> Hyperparameters:
        """Raises RequestRefused for those of the other method."""
        other = "dpo" if self.type == "supervised" else "supervised"
        if getattr(self, other) is not None:
            raise RequestRefused(f"method.{other}: the method's type is {self.type}", param=f"method.{other}")
        part = self.supervised if self.type == "supervised" else self.dpo
        return Hyperparameters() if part is None else part.hyperparameters.value()


class RecipeBody(Body):
    """What OpenAI has no field for; absent is the trainer's choice."""

    rank: int | None = None
    alpha: Rate | None = None
    target_modules: list[Key] | None = Field(default=None, max_length=64)
    rslora: bool | None = None
    dora: bool | None = None
    learning_rate: Rate | None = None
    warmup_fraction: float | None = None
    max_steps: int | None = None
    max_length: int | None = None
    packing: bool | None = None
    checkpoint_steps: int | None = Field(default=None, ge=1)
    early_stopping: int | None = Field(default=None, ge=1)

    def value(self) -> dict[str, Any]:
        """As the recipe calls them."""
        return self.model_dump(exclude_none=True)


class JobBody(Body):
    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {"integrations": ([],)}
    KINDS: ClassVar[frozenset[str]] = frozenset({"literal['auto']", "constrained-int", "constrained-float"})
    model: str = Field(min_length=1, max_length=2048)
    training_file: FileId
    validation_file: FileId | None = None
    suffix: str = Field(default="", max_length=MAX_SUFFIX, pattern=r"^[A-Za-z0-9._-]*$")
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    method: MethodBody | None = None
    hyperparameters: HyperparametersBody | None = None  # OpenAI's older place for them
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    x_lorikeet: RecipeBody = RecipeBody()

    def order(self) -> Order:
        """Raises RequestRefused for what is said twice or for another method."""
        recipe, asked = self.x_lorikeet.value(), self._hyperparameters()
        for field, given in (
            ("learning_rate", asked.learning_rate_multiplier),
            ("max_steps", asked.n_epochs),
        ):
            if field in recipe and given is not None:
                raise RequestRefused(
                    f"x_lorikeet.{field}: the hyperparameters say the same already; give one of them",
                    param=f"x_lorikeet.{field}",
                )
        return Order(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            method=Method.SUPERVISED if self.method is None else Method(self.method.type),
            hyperparameters=asked,
            suffix=self.suffix,
            seed=secrets.randbits(31) if self.seed is None else self.seed,
            metadata=self.metadata,
            recipe=recipe,
        )

    def _hyperparameters(self) -> Hyperparameters:
        if self.method is None:
            return Hyperparameters() if self.hyperparameters is None else self.hyperparameters.value()
        if self.hyperparameters is not None:
            raise RequestRefused(
                f"hyperparameters: give them in method.{self.method.type} alone", param="hyperparameters"
            )
        return self.method.hyperparameters()


def _said(value: Auto | T) -> T | None:
    return None if isinstance(value, str) else value
