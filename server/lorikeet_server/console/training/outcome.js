// What came of a job: the gate's verdict and figures and the training's, as they stand beside the adapter for good.

import { get, segment } from "../base/api.js";
import { html, Notice, Problem, Table, useEffect, useState } from "../base/ui.js";
import { count, figure, share, short } from "../base/words.js";

const nats = (value) => figure(value, 4);
const tiny = (value) => (value === null ? "–" : value.toExponential(2));
// Of the gate's figures: how each is written, and what it means.
const FIGURES = [
  ["rows", count, "Rows that the adapter was judged by."],
  ["tokens", count, "Tokens of them."],
  ["difference", tiny, "Between the log-probabilities served and those seen in training: the mean, in nats."],
  ["largest_difference", tiny, "The largest of these differences."],
  ["base_difference", tiny, "The same mean for the base alone: what rounding makes."],
  ["decode_difference", tiny, "Between tokens generated in a mixed batch and the same tokens scored as a prompt."],
  ["effect", nats, "What the adapter changes in a token's log-probability, on average, in nats."],
  ["strength", (value) => figure(value, 3), "How much of the change seen in training is served: 1 is all of it."],
  ["end_probability", share, "Of the end of the turn where it belongs: the median."],
  ["end_gain", nats, "What the adapter adds to the log-probability there."],
  ["answer_gain", nats, "What it adds on the answer's other tokens."],
  ["loss", nats, "Of the held-out answers as they are served, in nats a token; for pairs DPO's."],
  ["parent_loss", nats, "The same without the adapter: of the model that it went on from."],
];
const METRICS = [
  ["step", count, "The step whose adapter was kept."],
  ["train_loss", nats, "Training loss of that step, in nats a learned token."],
  ["valid_loss", nats, "Loss of the rows held out, in nats a learned token."],
];

export function Outcome({ job }) {
  const { generation, quarantined } = job.x_lorikeet;
  const name = job.fine_tuned_model;
  const [record, setRecord] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    setRecord(null);
    setError(null);
    if (!generation) return;
    const stop = new AbortController();
    get(`v1/adapters/${segment(name ?? generation)}`, stop.signal).then(setRecord, (reason) => !stop.signal.aborted && setError(reason));
    return () => stop.abort();
  }, [generation, name]);
  if (!generation) return null;
  return html`<section class="outcome" aria-label="Outcome">
    <h3>What came of it</h3>
    ${quarantined && html`<${Notice} kind="warn">The adapter is quarantined: it has no name but its generation, ${short(generation)}.<//>`}
    <${Problem} error=${error} />
    ${record && html`<${Verdict} provenance=${record.provenance} />`}
    ${name && html`<p class="row">
      <a href="#/playground?with=${encodeURIComponent(name)}">Try ${name} in the playground</a>
      <a href="#/adapters?name=${encodeURIComponent(name)}">Its page among the adapters</a></p>`}
  </section>`;
}

function Verdict({ provenance }) {
  const { gate = null, metrics = null, data = null } = provenance ?? {};
  return html`${gate ? html`<${Notice} kind=${gate.passed ? "good" : "bad"}>${gate.passed
      ? "The gate has passed it: served, it is what was trained." : "The gate has refused it."}<//>
      ${gate.reasons.length > 0 && html`<ul>${gate.reasons.map((each) => html`<li key=${each.code}><code>${each.code}</code> ${each.message}</li>`)}</ul>`}`
    : html`<p class="quiet">Its record says nothing of a gate.</p>`}
    ${data && html`<p>Trained on ${count(data.rows)} rows, ${count(data.learned_tokens)} of ${count(data.tokens)} tokens learned in one pass.</p>`}
    ${gate?.figures && html`<${Figures} caption="What the gate measured" listed=${FIGURES} values=${gate.figures} />`}
    ${metrics && html`<${Figures} caption="What training measured" listed=${METRICS} values=${metrics} />`}`;
}

// Figures that have no meaning written here are shown all the same.
function Figures({ caption, listed, values }) {
  const known = new Set(listed.map(([key]) => key));
  const more = Object.keys(values).filter((key) => !known.has(key)).map((key) => [key, String, ""]);
  return html`<${Table} caption=${caption} head=${["Figure", ["Value", "number"], "What it means"]}>
    ${[...listed, ...more].filter(([key]) => key in values).map(([key, show, meaning]) => html`<tr key=${key}>
      <th scope="row">${key.replaceAll("_", " ")}</th><td class="number">${values[key] === null ? "–" : show(values[key])}</td><td class="words">${meaning}</td></tr>`)}
  <//>`;
}
