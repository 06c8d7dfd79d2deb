// What each kind of result of `lorikeet bench` shows: which of its own figures, as which plots, in which table.
// Nothing is computed here that the file does not say; a curve of samples is the samples in their order.

import { LOG, NUMBER, plain } from "../base/chart.js";

const TARGET = ["name", "wanted", "standing"];

// A view is {title, facts, settings, plots, columns, rows, targets, notes}. Throws for what is no result, with the reason.
export function viewOf(document) {
  if (document === null || typeof document !== "object" || Array.isArray(document)) throw new Error("it is no object");
  const kind = Object.hasOwn(KINDS, document.benchmark) ? KINDS[document.benchmark] : null;
  if (!kind) throw new Error(`its "benchmark" is ${JSON.stringify(document.benchmark) ?? "missing"}; known are ${Object.keys(KINDS).join(", ")}`);
  if (document.benchmark !== "serving") rowsOf(document, "results");
  const targets = document.targets === undefined ? null : rowsOf(document, "targets");
  for (const each of targets ?? []) for (const key of TARGET) if (typeof each[key] !== "string") throw new Error(`a target has no "${key}"`);
  return {
    title: `${document.benchmark}: ${text(document.model_id ?? document.url ?? document.results.map((each) => text(each.url)).join(" against "))}`,
    facts: factsOf(document),
    settings: Object.entries(document).filter(([, value]) => value === null || typeof value !== "object").map(([key, value]) => [key, text(value)]),
    plots: kind.plots(document).filter(hasPoints),
    columns: kind.columns,
    rows: (kind.rows ?? ((each) => each.results))(document),
    targets,
    notes: [...(kind.notes?.(document) ?? []), ...(Array.isArray(document.left_out) ? document.left_out.map(text) : [])],
  };
}

function rowsOf(document, key) {
  const rows = document[key];
  if (!Array.isArray(rows) || rows.some((each) => each === null || typeof each !== "object")) throw new Error(`its "${key}" is no list of rows`);
  return rows;
}

const hasPoints = ({ rows, series }) => (rows ? rows.some((each) => each.value !== null) : series.length > 0);
export const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const numbers = (value) => (Array.isArray(value) ? value.map(number).filter((each) => each !== null) : []);

export function text(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.map(text).join(", ");
  if (typeof value === "object") return Object.entries(value).map(([key, each]) => `${key} ${text(each)}`).join(", ");
  return String(value);
}

// A value of a row with what the row says of its interval, and its rounds.
const measured = (label, row, key, samples = null) =>
  ({ label, value: number(row[key]), low: number(row[`${key}_low`]), high: number(row[`${key}_high`]), samples: numbers(row[samples]) });

const ms = (value) => `${plain(value)} ms`;
const times = (value) => (value === null ? "–" : `${value.toFixed(3)} ×`);
const tokens = (value) => `${plain(value)} tok/s`;
const unique = (values) => [...new Set(values)].sort((left, right) => left - right);
const ranks = (row) => (Array.isArray(row.ranks) ? row.ranks : []);
const spread = (all) => (all.length === 0 ? "" : Math.min(...all) === Math.max(...all) ? `${all[0]}` : `${Math.min(...all)} to ${Math.max(...all)}`);
const armOf = (row) => [text(row.arm), ranks(row).length > 1 ? `×${ranks(row).length}` : "", ranks(row).length ? `rank ${spread(ranks(row))}` : ""].filter(Boolean).join(" ");
const REFERENCE = { value: 1, label: "no difference" };

function latency(document) {
  const rows = document.results;
  const batches = unique(rows.map((each) => each.batch));
  const plots = batches.map((batch) => {
    const mine = rows.filter((each) => each.batch === batch);
    const base = number(mine.find((each) => each.arm === "base")?.median_tpot_ms);
    return {
      title: `Time per token at batch ${text(batch)}: shorter is better`, note: "Bars are medians, ticks are rounds.", say: ms,
      reference: base === null ? null : { value: base, label: "the base" },
      rows: mine.map((each) => measured(armOf(each), each, "median_tpot_ms", "samples_tpot_ms")),
    };
  });
  const ratios = ["base", "merged"].flatMap((other) => batches.map((batch) => ({
    title: `Time per token over ${other === "base" ? "the base's" : "merged weights'"} at batch ${text(batch)}: shorter is better`, note: "Whiskers are 95 % intervals.", say: times, reference: REFERENCE,
    rows: rows.filter((each) => each.batch === batch && number(each[`tpot_ratio_to_${other}`]) !== null).map((each) => measured(armOf(each), each, `tpot_ratio_to_${other}`)),
  })));
  const byRank = {
    title: "What one unmerged adapter adds, by its rank: lower is better", note: "Time per token over merged weights', 95 % intervals.", x: NUMBER, xTitle: "rank", say: times, base: null,
    series: batches.map((batch) => ({ label: `batch ${text(batch)}`, points: pointsOf(rows.filter((each) => each.arm === "adapter" && each.batch === batch), "rank", "tpot_ratio_to_merged") })),
  };
  const byAdapters = {
    title: "Many adapters in one batch: higher is better", x: NUMBER, xTitle: "distinct adapters in the batch; 0 is the base", say: tokens,
    series: unique(rows.flatMap((each) => ranks(each).slice(0, 1))).flatMap((first) => batches.map((batch) => ({
      label: `rank ${first}, batch ${text(batch)}`, least: 3,
      points: pointsOf(rows.filter((each) => each.batch === batch && (each.arm === "base" || (["adapter", "mixed"].includes(each.arm) && ranks(each)[0] === first))), "adapters", "output_throughput"),
    }))),
  };
  return [...plots, ...ratios, lined(byRank), lined(byAdapters)];
}

const pointsOf = (rows, x, y) => rows.map((each) => [number(each[x]), number(each[y]), number(each[`${y}_low`]), number(each[`${y}_high`])])
  .filter(([at, value]) => at !== null && value !== null).sort(([left], [right]) => left - right);

// Only series with enough points to tell something.
const lined = (plot) => ({ ...plot, series: plot.series.filter((each) => each.points.length >= (each.least ?? 2)) });

const prefix = ({ results }) => [
  { title: "First token of a prompt never seen, and of one that was kept: shorter is better", note: "Bars are medians, ticks are rounds.", say: ms,
    rows: results.flatMap((each) => ["fresh", "kept"].map((arm) => measured(`${text(each.mix)}, ${arm}`, each, `median_${arm}_ttft_ms`, `samples_${arm}_ttft_ms`))) },
  { title: "Fresh over kept: longer is better", note: "Whiskers are 95 % intervals.", say: times, reference: REFERENCE, rows: results.map((each) => measured(text(each.mix), each, "ttft_ratio_fresh_to_kept")) },
];

const SCALE_ARMS = { all: "rows for all", few: "rows for a few", "few, read": "rows for a few, read from the disk" };

const scale = ({ results }) => [
  lined({ title: "Zipf traffic over ever more adapters: higher is better, flat is free", x: LOG, xTitle: "adapters that requests may name", say: tokens,
    series: [...new Set(results.map((each) => each.arm))].map((arm) => ({ label: SCALE_ARMS[arm] ?? text(arm), least: 1, points: pointsOf(results.filter((each) => each.arm === arm), "names", "output_throughput") })) }),
  { title: "Throughput over the first line's: longer is better", note: "Whiskers are 95 % intervals.", say: times, reference: REFERENCE,
    rows: results.map((each) => measured(`${text(each.names)} names, ${SCALE_ARMS[each.arm] ?? text(each.arm)}`, each, "throughput_ratio")) },
];

const SWAP = {
  read: "file to host tensors", cold: "first token, adapter on the disk", warm: "first token, adapter on the device",
  gap: "others' usual gap", beside: "others' longest gap, newcomer on the device", stall: "others' longest gap, newcomer on the disk",
};

const swap = ({ results }) => [{
  title: "An adapter comes: what it waits for, and whom it delays; shorter is better", note: "Bars are medians, ticks are rounds.", say: ms,
  rows: results.map((each) => measured(SWAP[each.figure] ?? text(each.figure), each, "median_ms", "samples_ms")),
}];

const fidelity = ({ results }) => [{
  title: "How far the outputs move from the exact adapter's: shorter is better", note: "Mean KL in nats, on a logarithmic scale.", say: (value) => value.toExponential(1), log: true,
  rows: results.map((each) => measured(`${text(each.arm)}, ${text(each.quantization)}`, each, "mean_kl")),
}];

const COMPARED = { output_throughput: ["Tokens a second: longer is better", tokens], median_tpot_ms: ["Time per token: shorter is better", ms], median_ttft_ms: ["First token: shorter is better", ms] };

const versus = (document) => [
  ...Object.entries(COMPARED).map(([key, [title, say]]) => ({
    title, say, note: "Bars are medians, ticks are rounds.", rows: document.results.map((each) => measured(`${text(each.url)} ${text(each.model_id ?? "")}`, each, key, `samples_${key}`)),
  })),
  { title: "The first server's over the second's", note: "Whiskers are 95 % intervals. More is better for tokens a second, less for times.", say: times, reference: REFERENCE,
    rows: Object.keys(COMPARED).filter((key) => document.ratios?.[key]).map((key) => {
      const { value, low, high } = document.ratios[key];
      return { label: { output_throughput: "tokens a second", median_tpot_ms: "time per token", median_ttft_ms: "first token" }[key], value: number(value), low: number(low), high: number(high), samples: [] };
    }) },
];

const SERVED = [["ttft", "first token"], ["tpot", "per token"], ["e2el", "whole answer"]];

const serving = (document) => [
  lined({ title: "Latency over HTTP: further left is better", x: LOG, xTitle: "milliseconds", say: (value) => (value === null ? "–" : `${plain(value)} %`), note: "Percent of answers at most this slow.",
    series: SERVED.map(([key, label]) => {
      const found = numbers(document[`samples_${key}_ms`]).filter((each) => each > 0).sort((left, right) => left - right);
      return { label, dots: false, points: found.map((each, place) => [each, (100 * (place + 1)) / found.length, null, null]) };
    }) }),
  { title: "Answers by model", say: plain, rows: Object.entries(document.completed_by_model ?? {}).map(([label, value]) => ({ label, value: number(value), low: null, high: null, samples: [] })) },
];

const servingRows = (document) => ["ttft", "tpot", "itl", "e2el"].map((name) =>
  ({ figure: `${name.toUpperCase()} ms`, ...Object.fromEntries(["mean", "p50", "p90", "p95", "p99"].map((kind) => [kind, document[`${kind}_${name}_ms`]])) }));

function servingNotes(document) {
  const said = [`${text(document.completed)} answers, ${text(document.failed)} failed; ${plain(number(document.request_throughput))} requests/s, ${plain(number(document.output_throughput))} tokens/s generated.`];
  if (number(document.request_goodput) !== null) said.push(`${plain(document.request_goodput)} requests/s kept their objectives (${text(document.goodput_objectives_ms)}, in ms).`);
  for (const [error, times_] of Object.entries(document.errors ?? {})) said.push(`Failed, ${text(times_)} times: ${error}`);
  return said;
}

// [heading, key, how a number is written]; a ratio brings its interval with it.
const fixed = (digits) => (value) => value.toFixed(digits);
const KINDS = {
  latency: { plots: latency, columns: [["Batch", "batch"], ["Arm", "arm"], ["Ranks", "ranks"], ["Adapters", "adapters"], ["TPOT ms", "median_tpot_ms", fixed(2)], ["Tok/s", "output_throughput", fixed(1)], ["TTFT ms", "median_ttft_ms", fixed(1)], ["TPOT / base", "tpot_ratio_to_base", fixed(3)], ["TPOT / merged", "tpot_ratio_to_merged", fixed(3)], ["Copy GB/s beside it", "median_bandwidth_gb_s", fixed(1)]] },
  prefix: { plots: prefix, columns: [["Mix", "mix"], ["TTFT fresh ms", "median_fresh_ttft_ms", fixed(2)], ["TTFT kept ms", "median_kept_ttft_ms", fixed(2)], ["Fresh / kept", "ttft_ratio_fresh_to_kept", fixed(2)]] },
  scale: { plots: scale, columns: [["Names", "names"], ["Rows for", "arm"], ["Tok/s", "output_throughput", fixed(1)], ["TTFT p50 ms", "p50_ttft_ms", fixed(1)], ["TTFT p99 ms", "p99_ttft_ms", fixed(1)], ["Asked for in a pass", "touched_a_pass", fixed(0)], ["Back from memory in a pass", "returns_a_pass", fixed(0)], ["Read in a pass", "loads_a_pass", fixed(0)], ["Evicted in a pass", "evictions_a_pass", fixed(0)], ["Tok/s over the first", "throughput_ratio", fixed(2)]] },
  swap: { plots: swap, columns: [["What", "figure"], ["Median ms", "median_ms", fixed(1)], ["Longest ms", "max_ms", fixed(1)]] },
  fidelity: { plots: fidelity, columns: [["Arm", "arm"], ["Held as", "quantization"], ["Mean KL", "mean_kl", (value) => value.toExponential(1)], ["p99 KL", "p99_kl", (value) => value.toExponential(1)], ["Top-1 the same", "top1_agreement", (value) => `${(100 * value).toFixed(2)} %`]] },
  versus: { plots: versus, columns: [["Server", "url"], ["Model", "model_id"], ["Asked for", "models"], ["Tok/s", "output_throughput", fixed(1)], ["TPOT ms", "median_tpot_ms", fixed(1)], ["TTFT ms", "median_ttft_ms", fixed(1)], ["Completed", "completed"], ["Failed", "failed"]] },
  serving: { plots: serving, rows: servingRows, notes: servingNotes, columns: [["Time", "figure"], ["Mean", "mean", fixed(1)], ["p50", "p50", fixed(1)], ["p90", "p90", fixed(1)], ["p95", "p95", fixed(1)], ["p99", "p99", fixed(1)]] },
};

export function cellOf(row, [, key, form]) {
  const value = row[key];
  if (typeof value !== "number" || !form) return value === null || value === undefined ? "" : Array.isArray(value) ? value.map(text).join("+") : text(value);
  const [low, high] = [number(row[`${key}_low`]), number(row[`${key}_high`])];
  return form(value) + (low === null || high === null ? "" : ` [${form(low)}, ${form(high)}]`);
}

// What the figures were measured on. Of a server that was asked over HTTP only the client's machine is known.
function factsOf(document) {
  const side = document.benchmark === "serving" ? "client_" : "";
  const at = (key) => document[`${side}${key}`];
  const commit = at("commit");
  const whose = side ? "Client" : "Machine";
  const facts = [
    ["Measured", text(document.date)],
    ["Model", document.model_id && `${text(document.model_id)}${document.quantization ? ` as ${text(document.quantization)}` : ""}`],
    ["Asked", document.url && text(document.url)],
    ["Server", document.server && (text(document.server) || "says nothing of itself")],
    ["Device", document.device && `${text(document.device)}${document.kernel ? `, kernel ${text(document.kernel)}` : ""}`],
    [whose, at("cpu_model") && `${text(at("cpu_model"))}, ${text(at("cpu_count"))} cores, ${text(at("threads"))} threads, ${text(at("platform"))}`],
    ["Load average at the start", number(at("load_average")) !== null && at("load_average").toFixed(1)],
    ["Versions", at("lorikeet_version") && `lorikeet ${text(at("lorikeet_version"))}, torch ${text(at("torch_version"))}, transformers ${text(at("transformers_version"))}, python ${text(at("python_version"))}`],
    ["Commit", commit ? `${text(commit).slice(0, 12)}${text(commit).endsWith("-dirty") ? ", with changes that were not committed" : ""}` : "unknown"],
  ];
  return facts.filter(([, said]) => said);
}
