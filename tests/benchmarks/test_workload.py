"""What is sent is decided by the workload alone, and spreads as its name says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_bench.plan import PlanRefused
from lorikeet_bench.workload import Popularity, Workload

TEN = tuple(f"m{i}" for i in range(10))


@given(
    popularity=st.sampled_from(Popularity),
    requests=st.integers(1, 60),
    rate=st.none() | st.floats(0.01, 1e5),
    seed=st.integers(0, 2**32),
)
def test_a_workload_is_whole_in_order_and_always_the_same(
    popularity: Popularity, requests: int, rate: float | None, seed: int
) -> None:
    workload = Workload(TEN, requests, popularity=popularity, rate=rate, seed=seed, prompt_words=7)
    asks = workload.asks()
    assert asks == workload.asks()
    assert len(asks) == requests
    assert [each.at for each in asks] == sorted(each.at for each in asks)
    assert all(each.model in TEN and len(each.prompt.split()) == 7 for each in asks)
    assert rate is not None or {each.at for each in asks} == {0.0}


def test_a_nonce_begins_every_prompt_and_changes_nothing_else() -> None:
    plain, one, two = (Workload(TEN, 20, nonce=nonce).asks() for nonce in ("", "one", "two"))
    for a, b, c in zip(plain, one, two, strict=True):
        assert (b.prompt, c.prompt) == (f"one {a.prompt}", f"two {a.prompt}")
        assert replace(a, prompt="") == replace(b, prompt="") == replace(c, prompt="")


def test_prompts_for_warming_up_begin_no_other() -> None:
    workload = Workload(TEN, 40, nonce="one")
    warm, asks = workload.warm_up(3), workload.asks()
    assert Counter(each.model for each in warm) == dict.fromkeys(TEN, 3)
    assert len({each.prompt for each in warm}) == len(warm)
    assert not {each.prompt.split()[0] for each in warm} & {each.prompt.split()[0] for each in asks}


def counts(popularity: Popularity, skew: float | None = None) -> list[int]:
    asks = Workload(TEN, 20_000, popularity=popularity, skew=skew, prompt_words=1).asks()
    found = Counter(each.model for each in asks)
    return [found[name] for name in TEN]


def test_popularity_spreads_as_its_name_says() -> None:
    assert counts(Popularity.IDENTICAL) == [20_000] + [0] * 9
    assert counts(Popularity.DISTINCT) == [2_000] * 10
    assert all(1_800 < each < 2_200 for each in counts(Popularity.UNIFORM))
    total = sum(1 / i for i in range(1, 11))
    for place, each in enumerate(counts(Popularity.ZIPF, 1.0), 1):
        assert each == pytest.approx(20_000 / place / total, rel=0.15)
    # P(first of ten) = 1 - 0.9^skew
    assert counts(Popularity.POWER, 0.3)[0] == pytest.approx(20_000 * (1 - 0.9**0.3), rel=0.15)
    assert all(1_800 < each < 2_200 for each in counts(Popularity.POWER, 1.0))


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_of_the_rate_and_the_spread_of_the_burstiness(burstiness: float) -> None:
    times = [
        each.at for each in Workload(TEN, 20_000, rate=50.0, burstiness=burstiness, prompt_words=1).asks()
    ]
    gaps = [b - a for a, b in pairwise(times)]
    assert fmean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(burstiness**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("models", (), "--models"),
        ("models", ("a", "a"), "twice"),
        ("requests", 0, "--requests"),
        ("tokens", 1, "--tokens"),
        ("prompt_words", 0, "--prompt-words"),
        ("concurrency", 0, "--concurrency"),
        ("rate", 0.0, "--rate"),
        ("rate", float("nan"), "--rate"),
        ("burstiness", 0.0, "--burstiness"),
        ("skew", 1.0, "--skew"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_option(field: str, value: object, named: str) -> None:
    with pytest.raises(PlanRefused, match=named):
        replace(Workload(("a",)), **{field: value})
