// One job, live: where it is, its curves, its checkpoints, what happened, and what came of it.

import { call, get, getText } from "../base/api.js";
import { html, Ask, Button, Problem, Table, Tag, useAction, useEffect, useMemo, usePolled, useState } from "../base/ui.js";
import { count, figure, moment } from "../base/words.js";
import { Curve } from "./curve.js";
import { curvesOf, isOver, pathOf, useFollowed } from "./follow.js";
import { State } from "./jobs.js";
import { Outcome } from "./outcome.js";
import { Fact } from "./report.js";

const POLL_MS = 2000;
const SHOWN = 100; // events
const ENDED_MS = 0; // asked once, as nothing changes any more

export function Job({ id, onChange }) {
  const [over, setOver] = useState(false);
  const [job, error, again] = usePolled((signal) => get(pathOf(id), signal), over ? ENDED_MS : POLL_MS, [id, over]);
  const [checkpoints, , look] = usePolled(async (signal) => (await get(`${pathOf(id)}/checkpoints?limit=100`, signal)).data, over ? ENDED_MS : POLL_MS, [id, over]);
  const [told, broken] = useFollowed(id);
  const said = told.findLast((each) => each.type === "message");
  useEffect(() => { if (said) { again(); look(); onChange(); } }, [said?.id]);
  useEffect(() => setOver(Boolean(job && isOver(job))), [job?.status]);
  if (!job || job.id !== id) return html`<section class="card" aria-label="Job"><h2>Job</h2><${Problem} error=${error} /></section>`;
  return html`<section class="card job" aria-label="Job">
    <${Head} job=${job} onMoved=${() => { again(); onChange(); }} />
    <${Problem} error=${error} />
    ${broken && html`<p class="notice warn" role="status">The stream of events is broken; it is taken up again. ${broken.message}</p>`}
    ${job.error && html`<p class="notice bad" role="alert">${job.error.message} <code>${job.error.code}</code>${job.error.param ? ` (${job.error.param})` : ""}</p>`}
    <${Curves} told=${told} />
    ${checkpoints?.length > 0 && html`<${Checkpoints} checkpoints=${checkpoints} />`}
    <${Outcome} job=${job} />
    <${Log} told=${told} />
  </section>`;
}

function Head({ job, onMoved }) {
  const { x_lorikeet: ours, status } = job;
  const [asking, setAsking] = useState(false);
  const [move, busy, error] = useAction(async (way) => { setAsking(false); await call("POST", `${pathOf(job.id)}/${way}`); onMoved(); });
  const paused = ["paused", "pausing"].includes(ours.phase);
  return html`<div class="row"><h2>Job <span class="mono">${job.id}</span></h2>
      ${!isOver(job) && html`<span class="row tight">
        ${paused ? html`<${Button} disabled=${busy} onClick=${() => move("resume")}>Resume<//>` : html`<${Button} disabled=${busy} onClick=${() => move("pause")}>Pause<//>`}
        <${Button} kind="danger" disabled=${busy} onClick=${() => setAsking(true)}>Cancel<//></span>`}</div>
    <p class="row"><span role="status"><${State} job=${job} /></span>
      ${ours.total_steps > 0 && html`<progress max=${ours.total_steps} value=${ours.step} aria-label="Steps"></progress> step ${count(ours.step)} of ${count(ours.total_steps)}`}</p>
    <${Problem} error=${error} />
    <dl class="numbers">
      <${Fact} name="From" value=${job.model} />
      <${Fact} name="Method" value=${job.method.type} />
      <${Fact} name="Training loss" value=${figure(ours.train_loss)} />
      <${Fact} name="Validation loss" value=${figure(ours.valid_loss)} />
      <${Fact} name="Tokens" value=${count(ours.tokens)} />
      <${Fact} name="Attempt" value=${count(ours.attempt + 1)} />
      <${Fact} name="Ordered" value=${moment(job.created_at)} />
      ${job.finished_at && html`<${Fact} name="Over" value=${moment(job.finished_at)} />`}
    </dl>
    ${job.result_files.map((file) => html`<${Download} key=${file} file=${file} job=${job.id} />`)}
    ${asking && html`<${Ask} title="Cancel this job?" yes="Cancel the job" no="Go on training" onYes=${() => move("cancel")} onNo=${() => setAsking(false)}>
      <p>It cannot be resumed then. Its checkpoints stay and can be served.</p><//>`}`;
}

// Asked for with the key, which a plain link would not send.
function Download({ file, job }) {
  const [fetchIt, busy, error] = useAction(async () => {
    const text = await getText(`v1/files/${encodeURIComponent(file)}/content`);
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    Object.assign(document.createElement("a"), { href: url, download: `${job}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  });
  return html`<p><${Button} kind="small" disabled=${busy} onClick=${fetchIt}>Download the figures of every step<//></p><${Problem} error=${error} />`;
}

function Curves({ told }) {
  const { steps, train, valid, rate, speed } = useMemo(() => curvesOf(told), [told]);
  return html`<div class="curves">
    <${Curve} title="Loss, nats a learned token" steps=${steps} show=${(value) => value.toPrecision(3)}
      series=${[{ name: "training", values: train }, { name: "validation", values: valid, points: true }]} />
    <${Curve} title="Learning rate" steps=${steps} show=${(value) => (value === 0 ? "0" : value.toExponential(1))} series=${[{ name: "rate", values: rate }]} />
    <${Curve} title="Speed, tokens/s" steps=${steps} show=${(value) => value.toFixed(0)} series=${[{ name: "tokens/s", values: speed }]} />
  </div>`;
}

const Checkpoints = ({ checkpoints }) => html`<${Table} caption="Checkpoints, each served already" head=${[["Step", "number"], ["Training loss", "number"], ["Validation loss", "number"], "Name", ""]}>
  ${checkpoints.map((each) => html`<tr key=${each.id}>
    <th scope="row" class="number">${count(each.step_number)}</th>
    <td class="number">${figure(each.metrics.train_loss)}</td>
    <td class="number">${figure(each.metrics.valid_loss)}</td>
    <td class="mono">${each.fine_tuned_model_checkpoint}</td>
    <td><a href="#/playground?with=${encodeURIComponent(each.fine_tuned_model_checkpoint)}" aria-label="Try step ${each.step_number} in the playground">Try it</a></td>
  </tr>`)}
<//>`;

function Log({ told }) {
  const said = told.filter((each) => each.type === "message" || each.level !== "info");
  const shown = said.slice(-SHOWN);
  return html`<details class="log" open><summary>What happened</summary>
    <ol role="log" aria-label="Events" tabindex="0">${shown.map((each) => html`<li key=${each.id}>
      <time>${new Date(each.created_at * 1000).toLocaleTimeString()}</time>
      ${each.level !== "info" && html`<${Tag} kind=${each.level === "error" ? "bad" : "warn"}>${each.level}<//>`} ${each.message}</li>`)}</ol>
    ${said.length > shown.length && html`<p class="quiet">${count(said.length - shown.length)} earlier ones are not shown.</p>`}
  </details>`;
}
