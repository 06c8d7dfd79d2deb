// Traffic: what is wrong first, then what the server does now and did in the last ten minutes, by its own metrics.

import { all, getText } from "../base/api.js";
import { Chart, plain } from "../base/chart.js";
import { html, Check, Notice, Problem, Table, Tag, useMemo, usePolled, useRef, useState } from "../base/ui.js";
import { count, seconds, share } from "../base/words.js";
import { findings } from "./alarms.js";
import { figuresOf } from "./figures.js";
import { parse } from "./prom.js";
import { Results } from "./results.js";
import { elapsed, EVERY_S, increases, last, push, scrapeOf, shares, value } from "./window.js";

const PATIENCE_MS = 5000; // a server that says nothing for so long is not there
const ADAPTERS_MS = 15000;
const GAP_S = 5 * EVERY_S; // between two scrapes; a line does not cross a longer one
const STILL = 5; // scrapes from one drawing of the charts to the next, where motion is not wanted
const CHARTS = [
  { title: "Tokens", unit: "a second", note: "Prompts count as their requests end.", series: [["generated", "tokens"], ["prompts", "promptTokens"]] },
  { title: "Requests", unit: "that ended, a second", series: [["all", "requests"], ["failed", "failures"]] },
  { title: "Turned away", unit: "answers a second", top: 0.1, series: [["429", "refused429"], ["503", "refused503"], ["other 5xx", "faults"]] },
  { title: "First token", unit: "of requests of the last minute", say: seconds, top: 0.02, series: [["p50", "ttft50"], ["p90", "ttft90"], ["p99", "ttft99"]] },
  { title: "Between tokens", unit: "in the last minute", say: seconds, top: 0.02, series: [["p50", "itl50"], ["p90", "itl90"], ["p99", "itl99"]] },
  { title: "Requests held", unit: "at that moment", top: 4, series: [["running", "running"], ["waiting", "waiting"]] },
  { title: "Taken", unit: "of what there is", say: (part) => (part === null ? "–" : `${Math.round(100 * part)} %`), top: 1, series: [["slots", "slotsShare"], ["rank rows", "rowsShare"], ["cache", "cacheShare"]] },
  { title: "Adapters coming and going", unit: "a second", note: "Returns are those that were still in memory.", series: [["disk reads", "loads"], ["returns", "returns"], ["evictions", "evictions"]] },
];

// Kept as long as the console is open: who looks at another page in between loses that time alone.
let kept = { ring: [], points: [], error: null };

async function scrape(signal, left) {
  try {
    const ring = push(kept.ring, scrapeOf(parse(await getText("metrics", signal)), Date.now() / 1000));
    const gap = kept.points.length && ring.at(-1).at - kept.points.at(-1).at > GAP_S;
    const begin = ring[0].at;
    kept = { ring, points: [...kept.points.filter((each) => each.at >= begin), ...(gap ? [{ at: ring.at(-1).at - EVERY_S }] : []), figuresOf(ring)], error: null };
  } catch (error) {
    if (left.aborted) throw error;
    kept = { ...kept, error };
  }
  return kept;
}

// Open to everybody; where something is wrong the answer is a refusal that says in its `status` what.
async function health(signal, left) {
  try {
    const answer = await fetch("health/ready", { signal });
    const said = await answer.json().catch(() => null);
    return said ? { reached: true, ...said } : { reached: false, message: `Something between answered ${answer.status}.` };
  } catch (error) {
    if (left.aborted) throw error;
    return { reached: false, message: signal.aborted ? `Nothing came within ${seconds(PATIENCE_MS / 1000)}.` : "Nothing listens at this address." };
  }
}

export function Traffic() {
  const [seen] = usePolled(async (left) => {
    const signal = AbortSignal.any([left, AbortSignal.timeout(PATIENCE_MS)]);
    const [state, metrics] = await Promise.all([health(signal, left), scrape(signal, left)]);
    return { state, metrics };
  }, EVERY_S * 1000);
  const [adapters, unread] = usePolled((signal) => all("v1/adapters?limit=1000", signal), ADAPTERS_MS);
  const [held, setHeld] = useState(false);
  const shown = useShown(seen?.metrics ?? null, held);
  if (!seen) return html`<h1>Traffic</h1><p class="quiet">Asking the server.</p>`;
  const { state, metrics } = seen;
  const now = metrics.error ? null : metrics.points.at(-1);
  return html`<h1>Traffic</h1>
    <${Alarms} found=${findings({ health: state, adapters, now })} blind=${metrics.error} unread=${unread} now=${now} />
    ${metrics.error && state.reached && html`<${Blind} error=${metrics.error} />`}
    ${shown && shown.ring.length > 0 && html`
      ${now && html`<${Figures} now=${now} />`}
      <p class="row"><small>Scraped every ${EVERY_S} s while this page is open: ${seconds(elapsed(shown.ring))} so far, ten minutes at most.</small>
        <${Check} label="Hold the charts and tables still" checked=${held} onValue=${setHeld} /></p>
      <${Charts} points=${shown.points} />
      <div class="grid"><${Adapters} ring=${shown.ring} /><${Codes} ring=${shown.ring} /></div>`}
    <${Results} />`;
}

// What charts and tables show of the metrics: the newest, unless they are held still or ought to move little.
function useShown(metrics, held) {
  const shown = useRef(null);
  const calm = useMemo(() => matchMedia("(prefers-reduced-motion: reduce)").matches, []);
  const newest = metrics?.points.at(-1)?.at ?? 0;
  const due = newest - (shown.current?.points.at(-1)?.at ?? -Infinity) >= (calm ? STILL * EVERY_S : 0);
  if (metrics && due && !held) shown.current = metrics;
  return shown.current;
}

function Alarms({ found, blind, unread, now }) {
  const wrong = found.filter((each) => each.level);
  const told = wrong.length ? `${wrong.length} ${wrong.length === 1 ? "thing needs" : "things need"} somebody: ${wrong.map((each) => each.what).join("; ")}.`
    : blind ? "Nothing is known to be wrong, but the metrics are not seen." : now?.seen ? "Nothing is wrong." : "Nothing is wrong at this moment; rates are known in a few seconds.";
  return html`<section class="card alarms" aria-label="What is wrong">
    <p class="told" role="status"><${Tag} kind=${wrong.length ? wrong[0].level : blind ? "warn" : "good"}>${wrong.length ? "look here" : blind ? "not seen" : "all well"}<//> ${told}</p>
    ${found.length > 0 && html`<ul>${found.map((each) => html`<li key=${each.id} class="notice ${each.level}">
      <strong>${WORDS[each.level]}${each.what}</strong>${each.much && html` <span class="much">${each.much}</span>`}
      <small>${each.todo}${each.page && html` <a href="#/${each.page}">See ${each.page}.</a>`}</small>
    </li>`)}</ul>`}
    ${unread && html`<small>The adapters' states are not seen: ${unread.message}</small>`}
  </section>`;
}

const WORDS = { bad: "Urgent: ", warn: "", "": "To know: " };

function Blind({ error }) {
  if (error.status !== 401 && error.status !== 403) return html`<${Problem} error=${error} />`;
  return html`<${Notice} kind="warn">The metrics are not shown: this key may not read them. Enter a key with the scope <code>metrics</code>, made by <code>lorikeet keys new --scopes generate,admin,metrics</code>, or start the server with <code>--open-metrics</code>.<//>`;
}

function Figures({ now }) {
  const pair = (one, other) => `${seconds(one)} / ${seconds(other)}`;
  const part = (used, whole) => `${plain(used)} of ${plain(whole)}`;
  const shown = [
    ["Tokens a second", plain(now.tokens)],
    ["Requests running", plain(now.running)],
    ["Requests waiting", plain(now.waiting)],
    ["First token, p50 / p99", pair(now.ttft50, now.ttft99)],
    ["Between tokens, p50 / p99", pair(now.itl50, now.itl99)],
    ["Slots used", part(now.running, now.slots)],
    ["Rank rows used", part(now.rowsUsed, now.rows)],
    ["Cache used", share(now.cacheShare)],
  ];
  return html`<dl class="figures" aria-label="Now">${shown.map(([name, text]) => html`<div key=${name} class="card"><dt>${name}</dt><dd>${text}</dd></div>`)}</dl>`;
}

function Charts({ points }) {
  return html`<div class="grid charts">${CHARTS.map((each) => html`<${Line} key=${each.title} points=${points} ...${each} />`)}</div>`;
}

function Line({ points, series, ...rest }) {
  const data = useMemo(() => [points.map((each) => each.at), ...series.map(([, key]) => points.map((each) => each[key] ?? null))], [points]);
  return html`<section class="card"><${Chart} ...${rest} series=${series.map(([label]) => ({ label }))} data=${data} /></section>`;
}

const Share = ({ of, part }) => html`<meter min="0" max="1" value=${part} aria-label="Share of ${of}">${share(part)}</meter> ${share(part)}`;

// Who is asked for. The base alone is what had no adapter in its mix.
function Adapters({ ring }) {
  const total = (name, label) => new Map((ring.at(-1).by.get(name) ?? []).map((each) => [each.labels[label], each.value]));
  const ended = total("lorikeet_adapter_requests_total", "adapter");
  const tokens = new Map(shares(ring, "lorikeet_adapter_tokens_total", "adapter", { where: ({ kind }) => kind === "generated", rest: "_other" }).map(([name, ...rest]) => [name, rest]));
  const asked = new Map(shares(ring, "lorikeet_adapter_requests_total", "adapter", { rest: "_other" }).map(([name, ...rest]) => [name, rest]));
  const rows = [...ended].filter(([, amount]) => amount > 0)
    .sort(([left, before], [right, after]) => (asked.get(right)?.[0] ?? 0) - (asked.get(left)?.[0] ?? 0) || after - before);
  const bare = value(ring.at(-1), "lorikeet_mix_size_bucket", ({ le }) => Number(le) === 0);
  return html`<section class="card"><h2>Adapters</h2>
    ${rows.length === 0 ? html`<p class="quiet">No request has named an adapter since the server started.</p>` : html`<${Table} class="shares"
      caption="By adapter: requests that ended and tokens they generated in these ${seconds(elapsed(ring))}, and requests since the server started. A blend counts for each of its adapters."
      head=${["Adapter", "Requests", "Tokens", "Since the start"]}>
      ${rows.map(([name, amount]) => html`<tr key=${name}>
        <th scope="row">${titleOf(name)}</th>
        <td>${asked.has(name) ? html`<${Share} of="the requests, ${titleOf(name)}" part=${asked.get(name)[1]} /><small>${count(asked.get(name)[0])}</small>` : "–"}</td>
        <td>${tokens.has(name) ? html`<${Share} of="the tokens, ${titleOf(name)}" part=${tokens.get(name)[1]} /><small>${count(tokens.get(name)[0])}</small>` : "–"}</td>
        <td class="number">${count(amount)}</td>
      </tr>`)}
    <//>`}
    ${bare > 0 && html`<p class="quiet">${count(bare)} requests since the start had no adapter.</p>`}
  </section>`;
}

const titleOf = (name) => ({ _other: "all others", _private: "tenants' own" })[name] ?? name;

function Codes({ ring }) {
  const code = (labels) => labels.code;
  const minute = increases(last(ring, 60), "lorikeet_http_requests_total", code);
  const whole = new Map();
  for (const { labels, value: amount } of ring.at(-1).by.get("lorikeet_http_requests_total") ?? []) whole.set(labels.code, (whole.get(labels.code) ?? 0) + amount);
  const rows = [...whole].sort(([left], [right]) => (left < right ? -1 : 1));
  return html`<section class="card"><h2>Answers by status</h2>
    <${Table} class="codes" caption="HTTP answers of every route, this page's own requests among them." head=${["Status", "Last minute", "Since the start"]}>
      ${rows.map(([key, amount]) => html`<tr key=${key}><th scope="row"><${Tag} kind=${kindOf(key)}>${key}<//> ${MEANINGS[key] ?? ""}</th>
        <td class="number">${count(minute?.get(key) ?? null)}</td><td class="number">${count(amount)}</td></tr>`)}
    <//></section>`;
}

const kindOf = (code) => (code >= "500" ? "bad" : code >= "400" ? "warn" : code < "300" ? "good" : "");
const MEANINGS = {
  200: "answered", 201: "made", 204: "done", 304: "not changed", 400: "refused", 401: "no valid key", 403: "not this key's to do", 404: "unknown",
  405: "no such method", 408: "too slow", 409: "conflict", 412: "conflict", 413: "too large", 422: "refused", 429: "a tenant's bound", 499: "the client left",
  500: "our fault", 503: "turned away", 504: "over its time",
};
