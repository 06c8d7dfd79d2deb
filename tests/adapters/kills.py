"""A process that changes a registry without end, killed at any moment, and what must be so afterwards.

Every change is announced before it begins and acknowledged after it. What a kill leaves must be one of two
states: every acknowledged change and nothing more, or that and the one change begun and not acknowledged,
whole.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store
from lorikeet_adapters.stored import Target
from tests.adapters.bundles import bundle, check_store

KEEP = 2
CHILD = """
import json, sys
from pathlib import Path
from lorikeet_adapters.registry import Registry
from lorikeet_adapters.store import Store
from tests.adapters.bundles import WordChecker
from tests.adapters.kills import KEEP, perform, steps

with Store(Path(sys.argv[1])) as store:
    registry = Registry(store, "base", WordChecker(), keep=KEEP)
    print("open", flush=True)
    for step in steps(int(sys.argv[2])):
        print(json.dumps(["begun", *step]), flush=True)
        perform(registry, step)
        print(json.dumps(["done", *step]), flush=True)
"""
Step = tuple[str, str, str]  # what, the name, words or the alias's target


def steps(seed: int) -> Iterator[Step]:
    """Changes that are all in order: names are replaced, aliased, unaliased and deleted again."""
    chance = random.Random(seed)
    for number in range(10**9):
        name = f"name-{seed}-{number}"
        yield ("register", name, f"{name} {number} " * chance.choice([1, 2000, 20_000]))
        yield ("register", name, f"{name} again {number}")
        yield ("alias", "stable", name)
        yield ("rollback", name, "")
        yield ("register", "latest", f"latest {seed} {number}")
        yield ("alias", "stable", "latest")
        if number % 2:
            yield ("delete", name, "")
        if number % 5 == 4:
            yield ("unalias", "stable", "")


def perform(registry: Registry, step: Step) -> None:
    what, name, words = step
    if what == "register":
        registry.register(name, bundle(words), replace=True)
    elif what == "rollback":
        registry.activate(name, registry.record(name).generations[1])
    elif what == "alias":
        registry.put_alias(name, [Target(words, None, 1.0)])
    elif what == "unalias":
        registry.delete_alias(name)
    else:
        registry.delete(name, timeout=0)


@dataclass
class Expected:
    """What names mean, in words."""

    names: dict[str, list[str]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def after(self, step: Step) -> Expected:
        what, name, words = step
        made = Expected(dict(self.names), dict(self.aliases))
        known = made.names.get(name, [])
        if what == "register":
            made.names[name] = [words, *(each for each in known if each != words)][:KEEP]
        elif what == "rollback":
            made.names[name] = [known[1], known[0]]
        elif what == "alias":
            made.aliases[name] = words
        elif what == "unalias":
            del made.aliases[name]
        else:
            del made.names[name]
        return made


def found_in(folder: Path) -> Expected:
    """Read back through a fresh start, which must leave a whole and tidy folder."""
    with Store(folder) as store:
        check_store(store, folder)
        generations = store.catalogue.generations()
        names = {
            each.name: [store.blobs.path(generations[key].weights).read_text() for key in each.generations]
            for each in store.catalogue.names()
        }
        aliases = {each.name: each.targets[0].name for each in store.catalogue.aliases()}
    return Expected(names, aliases)


def kill_and_check(folder: Path, turns: int, seed: int = 7) -> int:
    """Kill `turns` processes in turn over one folder; returns how many changes were acknowledged."""
    chance = random.Random(seed)
    expected = Expected()
    acknowledged = 0
    for turn in range(turns):
        with changing(folder, turn) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            said = [child.stdout.readline() for _ in range(chance.randrange(1, 80))]
            for _ in range(chance.randrange(0, 20_000)):
                pass  # somewhere in the middle of a change; how far it gets is up to the two processes
            child.kill()
            said += child.stdout.readlines()
        begun: Step | None = None
        for line in filter(lambda each: each.endswith("\n"), said):
            word, what, name, words = json.loads(line)
            begun = (what, name, words) if word == "begun" else None
            if word == "done":
                expected = expected.after((what, name, words))
                acknowledged += 1
        found = found_in(folder)
        assert found in (expected, expected.after(begun) if begun else expected), (turn, begun)
        expected = found
    return acknowledged


@contextmanager
def changing(folder: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).resolve().parents[2]
    paths = {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    command = [sys.executable, "-c", CHILD, str(folder), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **paths}) as child:
        try:
            yield child
        finally:
            child.kill()
