// Everything known about one adapter, and what can be done with it.

import { call, get, segment } from "../base/api.js";
import { html, Ask, Button, Notice, Problem, Table, useAction, usePolled, useState } from "../base/ui.js";
import { count, moment, short, size } from "../base/words.js";
import { Findings } from "./findings.js";

const EVENTS = 20;

export function Details({ record, onChange }) {
  const [asks, setAsks] = useState(false);
  const [told, setTold] = useState("");
  const path = `v1/adapters/${segment(record.id)}`;
  const [pin, pinning, pinError] = useAction(async () => { await call("PATCH", path, { pinned: !record.pinned }); onChange(); });
  const [remove, removing, removeError] = useAction(async () => {
    setAsks(false);
    await call("DELETE", path);
    onChange();
  });
  return html`<section class="card" aria-label="Adapter ${record.id}">
    <div class="row"><h2>${record.id}</h2>
      <a href="#/playground?with=${encodeURIComponent(record.id)}">Try it</a>
      <${Button} onClick=${pin} disabled=${pinning}>${record.pinned ? "Let it be evicted" : "Pin to the device"}<//>
      <${Button} kind="danger" onClick=${() => setAsks(true)} disabled=${removing}>${removing ? "Deleting" : "Delete"}<//>
    </div>
    <${Problem} error=${pinError ?? removeError} />
    ${told && html`<${Notice} kind="good">${told}<//>`}
    <${Findings} findings=${record.findings} title="Why it is not served" />
    ${record.warnings.map((each) => html`<${Notice} key=${each} kind="warn">${each}<//>`)}
    <${Facts} record=${record} />
    <${History} record=${record} onDone=${(words) => { setTold(words); onChange(); }} />
    ${asks && html`<${Ask} title="Delete ${record.id}?" yes="Delete" onYes=${remove} onNo=${() => setAsks(false)}>
      <p>Requests that run finish; then the name and its bytes are gone. Aliases that name it keep it from being deleted.</p><//>`}
  </section>`;
}

function Facts({ record }) {
  const ranks = Object.entries(record.ranks);
  const facts = [
    ["Generation", html`<code>${record.generation}</code>`],
    ["Base", record.base],
    ["Modules", `${count(ranks.length)}: ${record.targets.join(", ")}`],
    ["Rank", ranks.every(([, rank]) => rank === record.rank) ? record.rank : `up to ${record.rank}, by module`],
    ["Bytes", `${size(record.bytes)} (${count(record.bytes)})`],
    ["Registered", moment(record.created)],
    ["Last used", moment(record.last_used)],
    ["For", record.tenants ? record.tenants.join(", ") : "everyone"],
    ["Source", html`<code>${JSON.stringify(record.source)}</code>`],
    ...Object.entries(record.metadata).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)]),
  ];
  return html`<dl class="facts-list">${facts.map(([key, value]) => html`<dt>${key}</dt><dd>${value}</dd>`)}</dl>
    ${record.provenance && html`<details><summary>Provenance</summary>
      <pre tabindex="0" aria-label="Provenance of ${record.id}">${JSON.stringify(record.provenance, null, 2)}</pre></details>`}`;
}

// What happened to the name, and a way back to what is kept.
function History({ record, onDone }) {
  const [page, error] = usePolled((signal) => get(`v1/adapters/history/${segment(record.id)}?limit=${EVENTS}`, signal), 0, [record.generation]);
  const [back, busy, failed] = useAction(async (generation) => {
    await call("POST", `v1/adapters/activate/${segment(record.id)}`, { generation });
    onDone(`${record.id} means ${short(generation)} again.`);
  });
  return html`<${Problem} error=${error ?? failed} />
    ${page && html`<${Table} caption="What happened to this name, the newest first" head=${["When", "Event", "Generation", ""]}>
      ${page.data.map((each) => html`<tr key=${each.id}><td>${moment(each.created)}</td><td>${each.event.replaceAll("_", " ")}</td>
        <td><code>${short(each.generation)}</code></td>
        <td>${each.generation && each.generation !== record.generation && record.generations.includes(each.generation)
          && html`<${Button} kind="small" disabled=${busy} onClick=${() => back(each.generation)} aria-label="Roll back to ${short(each.generation)}">Roll back to it<//>`}</td></tr>`)}
    <//>`}`;
}
