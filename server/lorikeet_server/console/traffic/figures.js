// What one moment's traffic was, in named numbers: for the figures, the charts and the alarms alike.

import { buckets, elapsed, increase, last, quantile, rate, value } from "./window.js";

const RATE_S = 10; // rates are of so long, so that a chart shows what changes
export const MINUTE_S = 60; // percentiles, and what alarms look at
const QUEUE_S = 30; // whether a queue grows

// A health check that says no is no refused request, and what every page of the console asks for is no traffic.
const ASIDE = new Set(["/metrics", "/info", "/console/{file:path}"]);
const isAsked = ({ route = "" }) => !route.startsWith("/health") && !ASIDE.has(route);
const answered = (...codes) => (labels) => isAsked(labels) && codes.includes(labels.code);
const isBroken = (labels) => isAsked(labels) && labels.code >= "500" && labels.code !== "503" && labels.code !== "504";
const hasFailed = ({ reason }) => reason === "failed";
const over = (part, whole) => (part === null || !whole ? null : part / whole);

// Null is what is not known, or not yet. Times are in seconds, what happens is a second, the names' ends say over how long.
export function figuresOf(ring) {
  const now = ring.at(-1);
  const short = last(ring, RATE_S);
  const minute = last(ring, MINUTE_S);
  const first = last(ring, QUEUE_S)[0];
  const waiting = value(now, "lorikeet_requests_waiting");
  const held = {
    running: value(now, "lorikeet_requests_running"),
    slots: value(now, "lorikeet_slots"),
    rowsUsed: value(now, "lorikeet_rank_rows_used"),
    rows: value(now, "lorikeet_rank_rows"),
    cache: value(now, "lorikeet_kv_cache_bytes"),
    cacheLimit: value(now, "lorikeet_kv_cache_limit_bytes"),
  };
  return {
    at: now.at,
    seen: elapsed(minute),
    ...held,
    slotsShare: over(held.running, held.slots),
    rowsShare: over(held.rowsUsed, held.rows),
    cacheShare: over(held.cache, held.cacheLimit),
    waiting,
    waitingAdapter: value(now, "lorikeet_requests_waiting", ({ reason }) => reason === "adapter"),
    waitingBefore: now.at - first.at >= QUEUE_S / 2 ? value(first, "lorikeet_requests_waiting") : null,
    stepAge: value(now, "lorikeet_step_age_seconds"),
    trainingStopped: value(now, "lorikeet_training_stopped") === 1,
    tokens: rate(short, "lorikeet_generated_tokens_total"),
    promptTokens: rate(short, "lorikeet_prompt_tokens_total"),
    requests: rate(short, "lorikeet_requests_total"),
    failures: rate(short, "lorikeet_requests_total", hasFailed),
    refused429: rate(short, "lorikeet_http_requests_total", answered("429")),
    refused503: rate(short, "lorikeet_http_requests_total", answered("503")),
    faults: rate(short, "lorikeet_http_requests_total", (labels) => isBroken(labels) || answered("504")(labels)),
    loads: rate(short, "lorikeet_adapter_loads_total"),
    returns: rate(short, "lorikeet_adapter_host_hits_total"),
    evictions: rate(short, "lorikeet_adapter_evictions_total"),
    ...percentiles(minute),
    ...counted(minute),
  };
}

function percentiles(minute) {
  const found = {};
  for (const [key, name] of [["ttft", "lorikeet_time_to_first_token_seconds"], ["itl", "lorikeet_inter_token_seconds"], ["queue", "lorikeet_queue_seconds"]]) {
    const observed = buckets(minute, name);
    found[`${key}Count`] = observed?.at(-1)?.[1] ?? null;
    for (const percent of [50, 90, 99]) found[`${key}${percent}`] = quantile(percent / 100, observed);
  }
  return found;
}

// What happened in the last minute, as whole numbers.
const counted = (minute) => ({
  ended: increase(minute, "lorikeet_requests_total"),
  failed: increase(minute, "lorikeet_requests_total", hasFailed),
  asked: increase(minute, "lorikeet_http_requests_total", isAsked),
  code429: increase(minute, "lorikeet_http_requests_total", answered("429")),
  code503: increase(minute, "lorikeet_http_requests_total", answered("503")),
  code504: increase(minute, "lorikeet_http_requests_total", answered("504")),
  broken: increase(minute, "lorikeet_http_requests_total", isBroken),
  evicted: increase(minute, "lorikeet_adapter_evictions_total"),
  loaded: increase(minute, "lorikeet_adapter_loads_total"),
  loadFailures: increase(minute, "lorikeet_adapter_load_failures_total"),
  preemptions: increase(minute, "lorikeet_preemptions_total"),
  workersLost: increase(minute, "lorikeet_training_workers_lost_total"),
  logDropped: increase(minute, "lorikeet_request_log_dropped_total"), // where requests are logged
});
