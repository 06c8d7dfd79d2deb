"""`lorikeet train`: from a file of rows to a name that requests can use. Nothing heavy is imported here."""

from __future__ import annotations

import inspect
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lorikeet_adapters.base_source import check_source
from lorikeet_adapters.errors import RefusedError
from lorikeet_adapters.names import check_name
from lorikeet_server.flags import DATA_DIR, DataDir, Url
from lorikeet_trainer.cli import Model, Threads, Where
from lorikeet_trainer.device import Device
from lorikeet_trainer.errors import DatasetRefused
from lorikeet_trainer.messages import EXIT_STOPPED, Done, Failed, Message, Stopped
from lorikeet_trainer.recipe_flags import flags_of, recipe_parameters
from lorikeet_trainer.saying import refuse_unreadable, show_findings

WORK = Path("lorikeet-training")
FILE_CODES = ("invalid_training_file", "invalid_validation_file")

Rows = Annotated[Path | None, typer.Argument(help="JSONL; `lorikeet data validate` says what it takes.")]
Name = Annotated[str, typer.Option(help="The adapter's name.")]
Held = Annotated[
    Path | None, typer.Option(help="Held-out rows. Default: a share of the rows, by their content.")
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="TOML or YAML; flags go before it.")]
Parent = Annotated[Path | None, typer.Option(help="Folder of an adapter to go on from.")]
Work = Annotated[Path | None, typer.Option(help="The run's folder. Default: lorikeet-training/NAME.")]
Out = Annotated[Path | None, typer.Option(help="Write the adapter here and register it nowhere.")]
Register = Annotated[
    bool, typer.Option("--register/--no-register", help="--no-register: only --out, by default NAME.")
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Give NAME to it even if another adapter has it now.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in the folder, as it was asked for.")
]
Force = Annotated[bool, typer.Option("--force", help="Drop an unfinished run, and replace --out.")]
Quality = Annotated[
    bool,
    typer.Option("--quality-gate/--no-quality-gate", help="Must it be no worse than what it started from?"),
]
PrintResolved = Annotated[
    bool, typer.Option("--print-resolved", help="Print the recipe as JSON, and train nothing.")
]
Schema = Annotated[
    bool, typer.Option("--schema", help="Print a recipe file's JSON Schema, and train nothing.")
]


def train_command() -> Callable[..., None]:
    """A function for Typer: our parameters, then one for each field of a recipe."""

    def train(**values: Any) -> None:
        _train(Asked(**{key: values[key] for key in own}), flags_of(values))

    fixed = list(inspect.signature(Asked, eval_str=True).parameters.values())
    own = [each.name for each in fixed]
    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*fixed, *recipe_parameters())
    ]
    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train.__annotations__ = {each.name: each.annotation for each in parameters}
    train.__doc__ = "Train a LoRA adapter on the base as it is served, and register it."
    return train


@dataclass(frozen=True)
class Asked:
    """The command line but for the recipe."""

    data: Rows = None
    name: Name = ""
    validation: Held = None
    recipe: RecipeFile = None
    parent: Parent = None
    model: Model = "demo"
    device: Where = Device.CPU
    threads: Threads = 0
    register: Register = True
    replace: Replace = False
    out: Out = None
    work: Work = None
    resume: Resume = False
    force: Force = False
    quality_gate: Quality = True
    data_dir: DataDir = DATA_DIR
    url: Url = ""
    print_resolved: PrintResolved = False
    schema: Schema = False

    @property
    def folder(self) -> Path:
        return self.work or WORK / self.name

    @property
    def kept_in(self) -> Path | None:
        """Where the adapter is written to; None where it is registered instead."""
        return self.out or (None if self.register else Path(self.name))

    @property
    def again(self) -> str:
        """The command that goes on with a run that was stopped."""
        words = ["lorikeet", "train", "--resume", "--name", self.name]
        if self.work:
            words += ["--work", str(self.work)]
        if self.kept_in:
            words += ["--out", str(self.kept_in)]
        if self.kept_in and self.force:
            words += ["--force"]
        if self.replace:
            words += ["--replace"]
        if self.data_dir != DATA_DIR:
            words += ["--data-dir", str(self.data_dir)]
        if self.url:
            words += ["--url", self.url]
        return shlex.join(words)


def _train(asked: Asked, flags: dict[str, Any]) -> None:
    if asked.schema:
        from lorikeet_trainer.recipe_file import recipe_schema

        typer.echo(json.dumps(recipe_schema(), indent=2))
        return
    if asked.print_resolved:
        from lorikeet_trainer.recipe_file import make_recipe
        from lorikeet_trainer.request import as_plain

        typer.echo(json.dumps(as_plain(make_recipe(asked.recipe, flags)), indent=2))
        return
    if not asked.name:
        raise typer.BadParameter("name the adapter", param_hint="--name")
    check_name(asked.name)
    if asked.resume:
        _refuse_new_words(asked, flags)
    elif asked.data is None:
        raise typer.BadParameter("name a file of rows, or say --resume", param_hint="DATA")
    _prepare(asked, flags)
    _finish(asked, _attend(asked))


def _refuse_new_words(asked: Asked, flags: dict[str, Any]) -> None:
    settings = ("data", "validation", "recipe", "parent", "model", "device", "threads", "quality_gate")
    changed = [each for each in settings if getattr(asked, each) != getattr(Asked, each)] + list(flags)
    if changed:
        raise typer.BadParameter(
            f"goes on with the run as it was asked for; leave out {', '.join(changed)}", param_hint="--resume"
        )
    if not (asked.folder / "request.json").is_file():
        raise RefusedError(f"there is no run in `{asked.folder}` to go on with; name its folder with --work")


def _refuse_taken(asked: Asked) -> None:
    """Before any work is spent."""
    if asked.kept_in is not None:
        from lorikeet_trainer.output import refuse_taken

        refuse_taken(asked.kept_in, force=asked.force)
    else:
        _shelf(asked).refuse_taken()


def _prepare(asked: Asked, flags: dict[str, Any]) -> None:
    """The run's folder with its request; what can be refused cheaply is refused before there is one."""
    if asked.resume or asked.data is None:
        _refuse_taken(asked)
        return
    from lorikeet_trainer.recipe_file import make_recipe
    from lorikeet_trainer.request import Request
    from lorikeet_trainer.room import make_room

    for file in filter(None, (asked.data, asked.validation)):
        refuse_unreadable(file)
    check_source(asked.model)
    recipe = make_recipe(asked.recipe, flags)
    request = Request(
        name=asked.name,
        training_file=_there(asked.data),
        model=asked.model if not Path(asked.model).is_dir() else str(Path(asked.model).resolve()),
        validation_file=_there(asked.validation) if asked.validation else None,
        parent=_there(asked.parent) if asked.parent else None,
        device=asked.device,
        threads=asked.threads,
        quality_gate=asked.quality_gate,
        recipe=recipe,
    )
    _refuse_taken(asked)
    make_room(asked.folder, asked.again, force=asked.force)
    request.write(asked.folder)


def _there(path: Path) -> Path:
    if not path.exists():
        raise RefusedError(f"`{path}` does not exist")
    return path.resolve()


def _attend(asked: Asked) -> Message | None:
    from rich.console import Console

    from lorikeet_trainer.progress import display_on
    from lorikeet_trainer.session import attend

    console = Console(stderr=True)

    def note(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    return attend(asked.folder, display_on(console), note)


def _finish(asked: Asked, last: Message | None) -> None:
    from lorikeet_trainer.material import read_findings

    findings = read_findings(asked.folder)
    show_findings(findings)
    if isinstance(last, Failed):
        if last.code in FILE_CODES and findings:
            name = next((each for each in (asked.data, asked.validation) if each), Path("the file")).name
            raise RefusedError(DatasetRefused(name, findings).summary)
        raise RefusedError(last.message)
    if isinstance(last, Stopped):
        typer.echo(f"stopped after step {last.step}; go on with: {asked.again}")
        raise typer.Exit(EXIT_STOPPED)
    if not isinstance(last, Done):
        raise RefusedError(f"the worker was killed; go on with: {asked.again}")
    _hand_over(asked, last)


def _hand_over(asked: Asked, done: Done) -> None:
    made = asked.folder / done.folder
    typer.echo(f"{made}: {done.steps} steps, loss {done.final_loss:.4f}, {done.trained_tokens} tokens")
    if done.quarantined:
        raise RefusedError(f"it did not pass its gate and is registered nowhere: {done.reason}")
    if asked.kept_in is None:
        address = _shelf(asked).register(made)
        typer.echo(f"registered as {asked.name}" + (f" at {address}" if address else f" in {asked.data_dir}"))
        return
    from lorikeet_trainer.output import whole_folder

    with whole_folder(asked.kept_in, force=asked.force) as staging:
        shutil.copytree(made, staging, dirs_exist_ok=True)
    folder, name = shlex.quote(str(asked.kept_in)), shlex.quote(asked.name)
    typer.echo(f"register it: lorikeet adapters add {folder} --name {name}")


def _shelf(asked: Asked) -> Any:
    from lorikeet_trainer.registering import Shelf

    return Shelf(asked.name, asked.data_dir, asked.url, asked.replace)
