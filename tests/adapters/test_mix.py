"""A mix has one form: whatever way it was written, equal mixes are equal values with equal digests."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lorikeet_adapters.errors import MixRefused
from lorikeet_adapters.mix import BASE_MIX, MAX_TERMS, MAX_WEIGHT, Mix, Term, parse_mix
from lorikeet_adapters.names import check_name

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,8}(/[A-Za-z0-9][A-Za-z0-9._:-]{0,4})?", fullmatch=True)
WEIGHTS = st.floats(-MAX_WEIGHT, MAX_WEIGHT, allow_nan=False)


def parse(text: str, *names: str) -> tuple[Term, ...]:
    return parse_mix(text, frozenset(names).__contains__)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("a", [("a", 1.0)]),
        ("a:0.7", [("a", 0.7)]),
        ("a:.5", [("a", 0.5)]),
        ("a:2.", [("a", 2.0)]),
        ("a:-0.25", [("a", -0.25)]),
        ("a:0.7+b:0.3", [("a", 0.7), ("b", 0.3)]),
        ("a+b", [("a", 1.0), ("b", 1.0)]),
        ("a:0.7 + b:0.3", [("a", 0.7), ("b", 0.3)]),
        (" a", [(" a", 1.0)]),
        ("a+b:-2", [("a", 1.0), ("b", -2.0)]),
        ("a+a:0.5", [("a", 1.0), ("a", 0.5)]),
        ("owner/a.v-1_x:0.5", [("owner/a.v-1_x", 0.5)]),
        ("unknown", [("unknown", 1.0)]),
        ("unknown+a", [("unknown", 1.0), ("a", 1.0)]),
    ],
)
def test_the_forms(text: str, terms: list[tuple[str, float]]) -> None:
    assert parse(text, "a", "b", "owner/a.v-1_x") == tuple(Term(*each) for each in terms)


def test_an_exact_name_wins_over_parsing() -> None:
    assert parse("gemma:7", "gemma:7", "gemma") == (Term("gemma:7", 1.0),)
    assert parse("gemma:7:0.5", "gemma:7", "gemma") == (Term("gemma:7", 0.5),)
    assert parse("gemma:7+gemma:7:2", "gemma:7", "gemma") == (Term("gemma:7", 1.0), Term("gemma:7", 2.0))
    assert parse("gemma:7", "gemma") == (Term("gemma", 7.0),)


def test_a_lone_unknown_name_with_a_colon_is_a_name_not_a_broken_mix() -> None:
    """So that the answer is 404 for the whole name, as for any other name nobody registered."""
    assert parse("ft:gpt:org", "a") == (Term("ft:gpt:org", 1.0),)
    assert parse("ft:", "a") == (Term("ft:", 1.0),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "a+",
        "+a",
        "a++b",
        "a:",
        "a:x",
        "a:1e5",
        "a:0x1",
        "a:1_0",
        "a: 1",
        "a + ",
        "a:nan",
        "a:inf",
        "a:٣",
        "a:0.5+b:",
    ],
)
def test_what_is_no_mix_is_refused(text: str) -> None:
    with pytest.raises(MixRefused):
        parse(text, "a", "b")


@given(st.text(alphabet="ab:+-.0123456789e /", max_size=24) | st.text(max_size=12))
def test_parsing_raises_nothing_but_a_refusal(text: str) -> None:
    try:
        terms = parse(text, "a", "b", "a:0")
        Mix.of(terms)
    except MixRefused:
        pass
    else:
        assert terms


@given(st.dictionaries(NAMES, WEIGHTS, min_size=1, max_size=5))
def test_a_mix_written_out_reads_back_the_same(weights: dict[str, float]) -> None:
    terms = [Term(check_name(name), weight) for name, weight in weights.items()]
    written = "+".join(f"{term.adapter}:{term.weight:.400f}" for term in terms)
    # A name registered beside them that equals a whole term would win; that is another text's meaning.
    assume(not any(part in weights for part in written.split("+")))
    read = parse(written, *weights)
    assert [term.adapter for term in read] == [term.adapter for term in terms]
    assert Mix.of(read).adapters == Mix.of(terms).adapters
    for one, other in zip(Mix.of(read).terms, Mix.of(terms).terms, strict=True):
        assert one.weight == pytest.approx(other.weight, abs=1e-300)


def test_equal_adapters_are_summed_and_zeros_dropped() -> None:
    mix = Mix.of([Term("b", 0.5), Term("a", 1), Term("b", 0.25), Term("c", 0), Term("d", 2), Term("d", -2)])
    assert mix == Mix((Term("a", 1.0), Term("b", 0.75)))
    assert mix.adapters == ("a", "b")
    assert isinstance(mix.terms[0].weight, float)


def test_nothing_is_the_base() -> None:
    assert Mix.of([]) == Mix.of([Term("a", 0.0)]) == Mix.of([Term("a", 1), Term("a", -1)]) == BASE_MIX
    assert Mix.of([Term("a", -0.0)]).digest == BASE_MIX.digest


@given(st.lists(st.builds(Term, st.sampled_from("abc"), st.floats(-9, 9)), max_size=8), st.randoms())
def test_the_order_of_terms_changes_nothing(terms: list[Term], chance: object) -> None:
    shuffled = list(terms)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Mix.of(shuffled) == Mix.of(terms)
    assert Mix.of(shuffled).digest == Mix.of(terms).digest


def test_a_sum_does_not_depend_on_its_order() -> None:
    """0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in floating point."""
    parts = [Term("a", 0.1), Term("a", 0.2), Term("a", 0.3)]
    assert Mix.of(parts).digest == Mix.of(parts[::-1]).digest


def test_a_digest_tells_mixes_apart() -> None:
    nearly = math.nextafter(0.7, 1)
    mixes = [
        BASE_MIX,
        Mix.of([Term("a", 0.7)]),
        Mix.of([Term("a", nearly)]),
        Mix.of([Term("b", 0.7)]),
        Mix.of([Term("a", 0.7), Term("b", 0.3)]),
        Mix.of([Term("a", 0.3), Term("b", 0.7)]),
    ]
    assert len({mix.digest for mix in mixes}) == len(mixes)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 100.001, -100.001, 1e300])
def test_a_weight_out_of_bounds(weight: float) -> None:
    with pytest.raises(MixRefused, match="`a`"):
        Mix.of([Term("b", 1.0), Term("a", weight)])


def test_a_weight_of_countless_digits() -> None:
    with pytest.raises(MixRefused):
        Mix.of(parse("a:" + "9" * 1000, "a"))
    with pytest.raises(MixRefused):
        Mix.of(parse("a:1000000000", "a"))


def test_a_sum_is_bounded_like_a_weight() -> None:
    assert Mix.of([Term("a", 50.0), Term("a", 50.0)]).terms == (Term("a", 100.0),)
    with pytest.raises(MixRefused):
        Mix.of([Term("a", 100.0)] * 2)


def test_at_most_sixteen_adapters() -> None:
    terms = [Term(f"a{each}", 1.0) for each in range(MAX_TERMS)]
    assert len(Mix.of(terms * 3).terms) == MAX_TERMS
    with pytest.raises(MixRefused, match="17"):
        Mix.of([*terms, Term("one_more", 1.0)])
