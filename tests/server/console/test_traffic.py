"""The page that shows what the server does: its readers and sums against Python's, and the page in a browser."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

RESULTS = sorted((Path(__file__).parents[3] / "docs" / "benchmarks" / "results").glob("*.json"))
TRAFFIC = "/console/traffic"
MANY = settings(max_examples=150, deadline=None)
# JSON has neither of these three.
AS_TEXT = "(key, value) => typeof value === 'number' && !Number.isFinite(value) ? String(value) : value"
WELL = {"reached": True, "status": "ok"}


@pytest.fixture(scope="module")
def module(browser: Browser, demo_url: str) -> Iterator[Page]:
    """A page whose modules can be imported: the console's own, for names like `preact` are its to resolve."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{demo_url}/#/traffic")
    page.get_by_role("heading", name="Traffic").wait_for()
    yield page
    context.close()


def parsed(page: Page, text: str) -> list[dict[str, Any]]:
    code = f"async (text) => JSON.stringify((await import('{TRAFFIC}/prom.js')).parse(text), {AS_TEXT})"
    found: list[dict[str, Any]] = json.loads(page.evaluate(code, text))
    return [{**each, "value": float(each["value"])} for each in found]


def of_python(text: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, dict(sample.labels), float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def assert_same(page: Page, text: str) -> None:
    for ours, (name, labels, value) in zip(parsed(page, text), of_python(text), strict=True):
        assert (ours["name"], ours["labels"]) == (name, labels)
        assert ours["value"] == value or (math.isnan(ours["value"]) and math.isnan(value))


WORD = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
ANYTHING = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12) | st.sampled_from(
    ["", "\n", "\\", '"', "\\n", 'a"b\\c\nd', "}", ",", "# x", "=", "__proto__"]
)
VALUE = st.floats().map(
    lambda value: {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, repr(value)).replace("nan", "NaN")
)


@st.composite
def lines(draw: st.DrawFn) -> str:
    labels = draw(st.dictionaries(WORD | st.just("constructor"), ANYTHING, max_size=4))
    escaped = {
        key: text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for key, text in labels.items()
    }
    inside = ",".join(f'{key}="{text}"' for key, text in escaped.items())
    braces = f"{{{inside}}}" if labels or draw(st.booleans()) else ""
    at = f" {draw(st.integers(0, 2**50))}" if draw(st.booleans()) else ""
    return f"m{draw(WORD)}{braces} {draw(VALUE)}{at}"


@MANY
@given(found=st.lists(lines() | st.just("") | st.just("# HELP m of a metric"), max_size=8))
def test_metrics_are_read_as_prometheus_reads_them(module: Page, found: list[str]) -> None:
    text = "".join(f"{line}\n" for line in found)
    # Python's reader sorts samples into families by their names; one line at a time keeps them in their order.
    whole = parsed(module, text)
    single = [each for line in found for each in of_python(f"{line}\n")]
    assert [(each["name"], each["labels"]) for each in whole] == [
        (name, labels) for name, labels, _ in single
    ]
    assert [repr(each["value"]) for each in whole] == [
        repr(value + 0.0) for _, _, value in single
    ]  # JSON has no -0


def test_the_servers_own_metrics_are_read_as_prometheus_reads_them(module: Page, demo_url: str) -> None:
    assert_same(module, httpx.get(f"{demo_url}/metrics").text)


@pytest.mark.parametrize(
    "line", ["m", "m{a=1} 2", 'm{a="1 2', 'm{a="b"', "m{} x", "m 1 2 3", "{} 1", 'm{"a"} 1']
)
def test_what_is_no_metric_is_refused_with_its_line(module: Page, line: str) -> None:
    code = f"async (text) => {{ try {{ (await import('{TRAFFIC}/prom.js')).parse(text) }} catch (error) {{ return error.message }} }}"
    assert "line 2 of the metrics" in (module.evaluate(code, f"m 1\n{line}\n") or "")


def test_a_label_may_be_called_anything(module: Page) -> None:
    (sample,) = parsed(module, 'm{__proto__="a",constructor="b"} 1\n')
    assert sample["labels"] == {"__proto__": "a", "constructor": "b"}


def test_a_hostile_line_is_read_in_the_time_of_its_length(module: Page) -> None:
    text = 'm{a="' + "\\" * 400_000 + '"} 1\nm{' + " " * 400_000 + "} 1\n"
    assert len(parsed(module, text)) == 2


def scrapes(*texts: str, every: float = 2.0) -> list[dict[str, Any]]:
    return [{"at": 1000 + place * every, "text": text} for place, text in enumerate(texts)]


def window(page: Page, found: Sequence[dict[str, Any]], code: str) -> Any:
    """What an expression over `ring` and the module `it` says."""
    script = f"""async (found) => {{
      const it = await import('{TRAFFIC}/window.js');
      const {{ figuresOf }} = await import('{TRAFFIC}/figures.js');
      const {{ parse }} = await import('{TRAFFIC}/prom.js');
      const ring = found.reduce((ring, each) => it.push(ring, it.scrapeOf(parse(each.text), each.at)), []);
      return {code};
    }}"""
    return page.evaluate(script, list(found))


def test_a_counter_that_was_reset_counts_from_zero(module: Page) -> None:
    found = scrapes("c 100\n", "c 110\n", "c 4\n", "c 10\n")
    assert window(module, found, "it.increase(ring, 'c')") == 20
    assert window(module, found, "it.rate(ring, 'c')") == 20 / 6


def test_a_series_that_is_new_counts_from_zero(module: Page) -> None:
    found = scrapes('c{k="a"} 5\n', 'c{k="a"} 5\nc{k="b"} 3\n')
    assert window(module, found, "[...it.increases(ring, 'c', (labels) => labels.k)]") == [["a", 0], ["b", 3]]


def test_one_scrape_has_no_rate_and_no_metric_is_no_zero(module: Page) -> None:
    assert window(module, scrapes("c 1\n"), "it.rate(ring, 'c')") is None
    assert window(module, scrapes("c 1\n", "c 2\n"), "it.rate(ring, 'other')") is None


def test_the_ring_forgets_after_ten_minutes(module: Page) -> None:
    found = scrapes(*(f"c {number}\n" for number in range(400)))
    assert window(module, found, "[ring.length, it.elapsed(ring), it.increase(it.last(ring, 60), 'c')]") == [
        301,
        600,
        30,
    ]


def test_a_stretch_does_not_reach_over_a_gap(module: Page) -> None:
    found = [{"at": at, "text": f"c {at}\n"} for at in (100, 400, 402)]
    assert window(module, found, "it.last(ring, 60).map((each) => each.at)") == [400, 402]


def test_shares_take_no_fold_for_traffic(module: Page) -> None:
    """A name that is given up moves what it had to `_other`."""
    found = scrapes('c{k="_other"} 1\nc{k="a"} 50\nc{k="b"} 10\n', 'c{k="_other"} 53\nc{k="b"} 16\n')
    assert window(module, found, "it.shares(ring, 'c', 'k', { rest: '_other' })") == [
        ["b", 6, 0.75],
        ["_other", 2, 0.25],
    ]


def quantile(share: float, bounds: Sequence[float], values: Sequence[float]) -> float:
    """Linear inside a bucket; beyond the last finite bound, that bound."""
    counts = [sum(value <= bound for value in values) for bound in (*bounds, math.inf)]
    rank = share * counts[-1]
    place = next(number for number, count in enumerate(counts) if count >= rank)
    if place == len(bounds):
        return bounds[-1]
    lower, below = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0)
    return lower + (bounds[place] - lower) * (rank - below) / (counts[place] - below)


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_those_of_histogram_quantile(module: Page, seed: int) -> None:
    draw = random.Random(seed)
    bounds = sorted({round(draw.uniform(0.001, 4), 3) for _ in range(8)})
    before, new = ([draw.expovariate(1) for _ in range(many)] for many in (30, 50))

    def text(values: Sequence[float]) -> str:
        counts = {**{str(b): sum(v <= b for v in values) for b in bounds}, "+Inf": len(values)}
        return "".join(f'h_bucket{{le="{le}"}} {count}\n' for le, count in counts.items())

    found = scrapes(text(before), text([*before, *new]))
    for share in (0.5, 0.9, 0.99):
        told = window(module, found, f"it.quantile({share}, it.buckets(ring, 'h'))")
        assert told == pytest.approx(quantile(share, bounds, new))


def test_of_nothing_there_is_no_percentile(module: Page) -> None:
    text = 'h_bucket{le="1.0"} 5\nh_bucket{le="+Inf"} 5\n'
    assert window(module, scrapes(text, text), "it.quantile(0.5, it.buckets(ring, 'h'))") is None


def findings(page: Page, **given: Any) -> list[tuple[str, str]]:
    code = f"async (given) => (await import('{TRAFFIC}/alarms.js')).findings(given)"
    found = page.evaluate(code, {"health": WELL, "adapters": [], "now": None, **given})
    assert all(each["what"] and each["todo"] for each in found)
    return [(each["id"], each["level"]) for each in found]


BUSY = {
    "seen": 60,
    "ended": 100,
    "asked": 100,
    "running": 16,
    "slots": 16,
    "rowsShare": 0.5,
    "cacheShare": 0.5,
}


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({}, []),
        ({"stepAge": 9}, []),
        ({"stepAge": 10}, [("step", "warn")]),
        ({"stepAge": 60}, [("step", "bad")]),
        ({"failed": 4}, [("failed", "warn")]),
        ({"failed": 5}, [("failed", "bad")]),
        ({"broken": 5}, [("broken", "bad")]),
        ({"code503": 1}, [("refused-503", "warn")]),
        ({"code503": 5}, [("refused-503", "bad")]),
        ({"code429": 50}, [("refused-429", "warn")]),
        ({"code504": 1}, [("late", "warn")]),
        ({"waiting": 30, "waitingBefore": 30}, []),
        ({"waiting": 30, "waitingBefore": 20}, [("queue-grows", "warn")]),
        ({"waiting": 7, "waitingBefore": 0}, []),
        ({"waiting": 30, "waitingBefore": None}, []),
        ({"queue99": 10}, [("wait", "warn")]),
        ({"evicted": 12, "loaded": 3, "rowsShare": 0.9}, [("thrash", "warn")]),
        ({"evicted": 12, "loaded": 3, "rowsShare": 0.5}, []),
        ({"preemptions": 1, "cacheShare": 1}, [("preempted", "")]),
        ({"preemptions": 6}, [("preempted", "warn")]),
        ({"cacheShare": 0.96}, [("cache", "")]),
        ({"ttft50": 0.1, "ttft99": 1, "ttftCount": 20}, [("tail", "warn")]),
        ({"ttft50": 0.1, "ttft99": 1, "ttftCount": 19}, []),
        ({"ttft50": 0.01, "ttft99": 0.9, "ttftCount": 90}, []),
        ({"loadFailures": 1}, [("load-failures", "warn")]),
        ({"workersLost": 1}, [("workers", "warn")]),
        ({"logDropped": 1}, [("log", "")]),
        ({"trainingStopped": True}, [("training", "warn")]),
        (
            {"logDropped": 1, "code429": 1, "stepAge": 70},
            [("step", "bad"), ("refused-429", "warn"), ("log", "")],
        ),
    ],
)
def test_figures_become_findings(module: Page, now: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert findings(module, now={**BUSY, **now}) == found


@pytest.mark.parametrize(
    ("health", "found"),
    [
        ({"reached": False, "message": "gone"}, [("unreachable", "bad")]),
        ({"reached": True, "status": "dead"}, [("dead", "bad")]),
        ({"reached": True, "status": "hangs"}, [("hangs", "bad")]),
        ({"reached": True, "status": "draining"}, [("draining", "bad")]),
        ({"reached": True, "status": "ok", "training": "stopped"}, [("training", "warn")]),
    ],
)
def test_health_becomes_findings(module: Page, health: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert findings(module, health=health) == found


def test_adapters_become_findings(module: Page) -> None:
    states = ["device", "failed", "incompatible", "failed"]
    adapters = [{"id": f"a{number}", "state": state} for number, state in enumerate(states)]
    assert findings(module, adapters=adapters) == [("failed-adapters", "warn"), ("incompatible", "")]


def test_a_probe_that_says_no_is_no_refused_request(module: Page) -> None:
    text = 'lorikeet_http_requests_total{route="%s",code="503"} %d\n'
    found = scrapes(text % ("/health/ready", 1), text % ("/health/ready", 9) + text % ("/v1/completions", 2))
    assert window(module, found, "figuresOf(ring).code503") == 2


def ask(url: str, name: str) -> None:
    body = {"model": name, "prompt": "Order 99389.", "max_tokens": 8}
    httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status()


def test_traffic_is_seen_as_it_comes(page: Page, demo_url: str) -> None:
    from playwright.sync_api import expect

    page.goto(f"{demo_url}/#/traffic")
    now = page.get_by_label("Now", exact=True)
    expect(now).to_contain_text("Tokens a second0", timeout=15_000)  # two scrapes, and nothing between them
    for number in range(30):
        ask(demo_url, ("formal", "friendly")[number % 2])
    expect(now.locator("dd").first).to_have_text(re.compile("[1-9]"), timeout=15_000)
    expect(page.get_by_role("status").filter(has_text="Nothing is wrong.")).to_be_visible()
    for name in ("formal", "friendly"):
        # Half of them each, give or take one that an earlier page left behind.
        expect(page.get_by_role("row", name=name)).to_contain_text(
            re.compile(r"(4[5-9]|5[0-5])\.\d %"), timeout=15_000
        )
    chart = page.get_by_role("table", name="Values of Tokens")
    expect(chart.get_by_role("row", name="generated")).to_be_visible()
    expect(page.locator("canvas")).to_have_count(8)


def test_a_chart_is_read_with_the_arrow_keys(page: Page, demo_url: str) -> None:
    from playwright.sync_api import expect

    page.goto(f"{demo_url}/#/traffic")
    page.get_by_role("group", name=re.compile("^Tokens:")).focus()
    values = page.get_by_role("table", name="Values of Tokens")
    expect(values.get_by_role("columnheader").nth(1)).to_have_text("now")
    page.keyboard.press("ArrowLeft")
    expect(values.get_by_role("columnheader").nth(1)).to_contain_text(":")


def test_what_is_wrong_is_said_first(page: Page, demo_url: str) -> None:
    from playwright.sync_api import expect

    told = httpx.get(f"{demo_url}/metrics").text + "lorikeet_step_age_seconds 75\n"
    page.route("**/metrics", lambda route: route.fulfill(body=told, content_type="text/plain"))
    page.goto(f"{demo_url}/#/traffic")
    wrong = page.get_by_role("region", name="What is wrong")
    expect(wrong).to_contain_text("A step of the engine takes long", timeout=10_000)
    expect(wrong).to_contain_text("75.0 s")


def test_a_server_that_says_nothing_is_not_all_well(page: Page, demo_url: str) -> None:
    from playwright.sync_api import expect

    # The page's patience is a quarter of what it is for others.
    page.add_init_script(
        "const whole = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (ms) => whole(ms / 4)"
    )
    page.goto(f"{demo_url}/#/traffic")
    wrong = page.get_by_role("region", name="What is wrong")
    expect(wrong).to_contain_text("Nothing is wrong")
    page.route(re.compile("/metrics$|/health/ready$"), lambda route: None)
    expect(wrong).to_contain_text("The server does not answer", timeout=10_000)
    expect(wrong).not_to_contain_text("all well")


def test_a_key_without_the_scope_is_told_what_it_lacks(page: Page, demo_url: str) -> None:
    from playwright.sync_api import expect

    refusal = json.dumps({"error": {"message": "no", "code": "insufficient_scope"}})
    page.add_init_script(
        "window.fetched = fetch; window.fetch = (path, ...rest) => path === 'metrics' ? "
        f"Promise.resolve(new Response('{refusal}', {{ status: 403 }})) : fetched(path, ...rest)"
    )
    page.goto(f"{demo_url}/#/traffic")
    expect(page.get_by_text("Enter a key with the scope")).to_be_visible()
    expect(page.get_by_text("the metrics are not seen")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_goes_sideways_on_a_telephone(browser: Browser, demo_url: str, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{demo_url}/#/traffic")
    page.get_by_role("table", name="Values of Tokens").wait_for()
    page.locator("input[type=file]").set_input_files(RESULTS)
    page.get_by_role("article").nth(len(RESULTS) - 1).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


def test_colours_follow_the_theme(page: Page, demo_url: str) -> None:
    page.goto(f"{demo_url}/#/traffic")
    page.locator("canvas").first.wait_for()
    seen = "() => document.querySelector('canvas').toDataURL()"
    page.get_by_label("Hold the charts").check()
    before = page.evaluate(seen)
    page.get_by_label("Colours").select_option("dark")
    page.wait_for_function(f"(before) => ({seen})() !== before", arg=before)


def test_every_published_result_is_shown(page: Page, demo_url: str) -> None:
    from playwright.sync_api import expect

    assert len(RESULTS) > 10
    page.goto(f"{demo_url}/#/traffic")
    page.locator("input[type=file]").set_input_files(RESULTS)
    for path in RESULTS:
        check_result(page.get_by_role("article", name=path.name, exact=True), json.loads(path.read_text()))
    expect(page.get_by_role("alert")).to_have_count(0)


def check_result(shown: Locator, document: dict[str, Any]) -> None:
    from playwright.sync_api import expect

    expect(shown.get_by_role("heading", level=2)).to_contain_text(document["benchmark"])
    expect(shown.locator("figure").first).to_be_visible()
    rows = len(document["results"]) if "results" in document else 4
    expect(shown.get_by_role("table", name="Figures of").get_by_role("row")).to_have_count(rows + 1)
    for standing in ("met", "MISSED", "undecided"):
        many = sum(each["standing"] == standing for each in document.get("targets", []))
        expect(shown.locator(".tag", has_text=standing)).to_have_count(many)
    intervals = sum("tpot_ratio_to_base_low" in row for row in document.get("results", []))
    if intervals:
        expect(
            shown.locator(".intervals", has_text="over the base's").locator(".whisker[y1='8'][y2='8']")
        ).to_have_count(intervals)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no JSON", "is not JSON"),
        ("[]", "it is no object"),
        ('{"benchmark": "other"}', 'its "benchmark" is "other"'),
        ('{"benchmark": "__proto__"}', 'its "benchmark" is'),
        ('{"benchmark": "latency"}', 'its "results" is no list'),
        ('{"benchmark": "swap", "results": [], "targets": [{}]}', 'a target has no "name"'),
    ],
)
def test_what_is_no_result_is_refused(page: Page, demo_url: str, content: str, reason: str) -> None:
    from playwright.sync_api import expect

    page.goto(f"{demo_url}/#/traffic")
    file: Any = {"name": "x.json", "mimeType": "application/json", "buffer": content.encode()}
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text(reason)
    expect(page.get_by_role("article")).to_have_count(0)


def test_what_a_result_says_is_never_markup(page: Page, demo_url: str) -> None:
    from playwright.sync_api import expect

    evil = "<img src=x onerror=alert(1)>"
    document = {
        "benchmark": "swap",
        "model_id": evil,
        "results": [{"figure": evil, "median_ms": 1.0, "samples_ms": [1.0]}],
        "left_out": [evil],
    }
    page.goto(f"{demo_url}/#/traffic")
    file: Any = {"name": "x.json", "mimeType": "application/json", "buffer": json.dumps(document).encode()}
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_role("article").get_by_role("heading", level=2)).to_contain_text(evil)
    expect(page.locator("article img")).to_have_count(0)
