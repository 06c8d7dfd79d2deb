// Result files of `lorikeet bench`, read in this browser and sent nowhere: as plots, as a table, with what they were measured
// on and which targets they met or missed.

import { Chart } from "../base/chart.js";
import { html, Button, Drop, Problem, Table, Tag, useMemo, useState } from "../base/ui.js";
import { size } from "../base/words.js";
import { Intervals } from "./intervals.js";
import { cellOf, number, viewOf } from "./kinds.js";

const MOST_BYTES = 20_000_000;
let numbered = 0; // files, each with a number of its own
const KIND = { met: "good", MISSED: "bad", undecided: "warn" };

// Throws with the file's name and the reason where it is no result.
export async function readResult(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} has ${size(file.size)}; a result has at most ${size(MOST_BYTES)}.`);
  const content = await file.text();
  let document;
  try {
    document = JSON.parse(content);
  } catch {
    throw new Error(`${file.name} is not JSON. Take the file that --out wrote.`);
  }
  try {
    return { name: file.name, ...viewOf(document) };
  } catch (error) {
    throw new Error(`${file.name} is no result of lorikeet bench: ${error.message}.`);
  }
}

export function Results() {
  const [views, setViews] = useState([]);
  const [refused, setRefused] = useState([]);
  const take = async (files) => {
    const read = await Promise.allSettled(files.map(readResult));
    const taken = read.filter((each) => each.status === "fulfilled").map((each) => ({ key: (numbered += 1), ...each.value }));
    setViews((now) => [...taken, ...now]);
    setRefused(read.filter((each) => each.status === "rejected").map((each) => each.reason));
  };
  const drop = (view) => setViews((now) => now.filter((each) => each !== view));
  return html`<section class="card results" aria-label="Benchmark results">
    <h2>Benchmark results</h2>
    <${Drop} label="Files that lorikeet bench wrote with --out" multiple accept=".json,application/json" onFiles=${take} hint="They are read in this browser and sent nowhere." />
    ${refused.map((error) => html`<${Problem} key=${error.message} error=${error} />`)}
    ${views.map((view) => html`<${Result} key=${view.key} view=${view} onRemove=${() => drop(view)} />`)}
  </section>`;
}

function Result({ view, onRemove }) {
  return html`<article class="result" aria-label=${view.name}>
    <header class="row"><h2>${view.title} <small>${view.name}</small></h2><${Button} kind="small" onClick=${onRemove} aria-label="Take ${view.name} away">Take away<//></header>
    ${view.targets && html`<${Targets} name=${view.name} targets=${view.targets} />`}
    ${view.notes.map((note) => html`<p key=${note} class="quiet">${note}</p>`)}
    <div class="plots">${view.plots.map((plot) => (plot.rows ? html`<${Intervals} key=${plot.title} ...${plot} />` : html`<${Lines} key=${plot.title} plot=${plot} />`))}</div>
    <${Table} caption="Figures of ${view.name}; in brackets are 95 % intervals." head=${view.columns.map(([heading]) => heading)}>
      ${view.rows.map((row, place) => html`<tr key=${place}>${view.columns.map((column) => html`<td key=${column[0]} class=${column[2] ? "number" : ""}>${cellOf(row, column)}</td>`)}</tr>`)}
    <//>
    <h3>Measured on</h3>
    <dl class="facts-list">${view.facts.map(([name, said]) => html`<dt key=${name}>${name}</dt><dd>${said}</dd>`)}</dl>
    <details><summary>Every setting</summary>
      <dl class="facts-list">${view.settings.map(([name, said]) => html`<dt key=${name}><code>${name}</code></dt><dd>${said}</dd>`)}</dl></details>
  </article>`;
}

// What the file says of its targets, the missed first; a target is undecided where its bound lies within the interval.
function Targets({ name, targets }) {
  if (!targets.length) return html`<p class="quiet">This run was held to no target.</p>`;
  const many = (standing) => targets.filter((each) => each.standing === standing).length;
  const order = ["MISSED", "undecided", "met"];
  const sorted = [...targets].sort((left, right) => order.indexOf(left.standing) - order.indexOf(right.standing));
  return html`<p><strong>${many("met")} of ${targets.length} targets met, ${many("MISSED")} missed, ${many("undecided")} undecided.</strong></p>
    <${Table} caption="Targets of ${name}" head=${["Standing", "Target", "Wanted", "Measured"]}>
      ${sorted.map((each) => html`<tr key=${each.name}><td><${Tag} kind=${KIND[each.standing] ?? ""}>${each.standing.toLowerCase()}<//></td><td class="words">${each.name}</td><td>${each.wanted}</td>
        <td class="number">${said(each.value)} [${said(each.low)}, ${said(each.high)}]</td></tr>`)}
    <//>`;
}

const said = (value) => number(value)?.toFixed(3) ?? "–";

// Series of points with places of their own, brought onto one axis; the table of the result has their values.
function Lines({ plot }) {
  const [data, series] = useMemo(() => {
    const xs = [...new Set(plot.series.flatMap((each) => each.points.map(([x]) => x)))].sort((left, right) => left - right);
    const column = (points, place) => { const at = new Map(points.map((each) => [each[0], each[place]])); return xs.map((x) => at.get(x) ?? null); };
    const marked = plot.series.map(({ label, points, dots = true }) => ({
      label, points: dots, ...(points.some((each) => each[2] !== null) ? { low: column(points, 2), high: column(points, 3) } : {}),
    }));
    return [[xs, ...plot.series.map(({ points }) => column(points, 1))], marked];
  }, [plot]);
  return html`<${Chart} title=${plot.title} note=${plot.note} x=${plot.x} xTitle=${plot.xTitle} say=${plot.say} base=${plot.base === undefined ? 0 : plot.base} top=${0} series=${series} data=${data} table=${false} />`;
}
