// What an evaluation found: scores beside each other, who was taken for whom, and where the models differ.

import { html, Choice, Notice, Table, useState } from "../base/ui.js";
import { count, share } from "../base/words.js";
import { isRight, labelScores, labelsOf, scoresOf } from "./scores.js";

const SHOWN = 20; // rows in which models differ

export function Found({ found, labels, left }) {
  const names = Object.keys(found);
  const classes = labels ? [...new Set(labels.map((each) => each.trim()))] : labelsOf(found[names[0]].map((each) => each.expected));
  const scores = names.map((name) => [name, scoresOf(found[name])]);
  const rates = classes && names.map((name) => [name, labelScores(classes, found[name].map(({ expected, answer }) => [expected.trim(), answer.trim()]))]);
  const failed = names.flatMap((name) => found[name].filter((each) => each.failed).map((each) => `${name}, line ${each.line}: ${each.failed}`));
  return html`<${Scores} scores=${scores} rates=${rates} />
    ${labels && html`<p class="quiet">Answers were held to the labels token by token; <code>lorikeet eval</code> takes a row for the label that is the likeliest as a whole, its end included, which for a model that was not trained on them can be another one.</p>`}
    ${failed.length > 0 && html`<${Notice} kind="warn">${count(failed.length)} requests failed and count as wrong. The first: ${failed[0]}<//>`}
    ${left.length > 0 && html`<p class="quiet">${count(left.length)} rows were not asked. The first: line ${left[0].line}, ${left[0].why}.</p>`}
    ${rates && html`<${Confusion} rates=${rates} />`}
    ${names.length > 1 && html`<${Differences} found=${found} names=${names} />`}`;
}

function Scores({ scores, rates }) {
  const wantsJson = scores[0][1].json !== null;
  const numbers = ["Rows", "Exact match", ...(wantsJson ? ["Valid JSON"] : []), "Ended by itself", ...(rates ? ["Accuracy", "Precision", "Recall", "F1"] : [])];
  return html`<${Table} caption=${rates ? "Scores; precision, recall and F1 are means over the labels" : "Scores"} head=${["Model", ...numbers.map((each) => [each, "number"])]}>
    ${scores.map(([name, each], place) => html`<tr key=${name}><th scope="row">${name}</th>
      <${Cell} value=${count(each.rows)} /><${Cell} value=${share(each.exact)} />
      ${wantsJson && html`<${Cell} value=${share(each.json)} />`}<${Cell} value=${share(each.stopped)} />
      ${rates && [rates[place][1].accuracy, ...Object.values(rates[place][1].macro)].map((value, at) => html`<${Cell} key=${at} value=${share(value)} />`)}</tr>`)}
  <//>`;
}

const Cell = ({ value }) => html`<td class="number">${value}</td>`;

// Rows are what it is, columns what it was taken for. What is right is framed, what is not is shaded by how often.
function Confusion({ rates }) {
  const [chosen, setChosen] = useState(null);
  const best = rates.reduce((one, other) => (other[1].accuracy > one[1].accuracy ? other : one));
  const [name, { classes, table }] = rates.find((each) => each[0] === chosen) ?? best;
  const hasOther = table.some((row) => row.at(-1) > 0);
  const taken = [...classes.map((each) => each.label), ...(hasOther ? ["something else"] : [])];
  return html`<section aria-label="Confusion matrix">
    ${rates.length > 1 && html`<${Choice} label="Confusion matrix of" value=${name} options=${rates.map(([each]) => [each, each])} onValue=${setChosen} />`}
    <div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix of ${name}"><table class="confusion">
      <caption>${name}: rows by label, columns by what they were taken for</caption>
      <thead><tr><th scope="col">Label</th>${taken.map((each) => html`<th scope="col" class="number" key=${each}>${each}</th>`)}
        <th scope="col" class="number">Precision</th><th scope="col" class="number">Recall</th><th scope="col" class="number">F1</th></tr></thead>
      <tbody>${classes.map((each, row) => html`<tr key=${each.label}><th scope="row">${each.label}</th>
        ${taken.map((label, column) => html`<td key=${label} class="number ${kindOf(table[row][column], row === column, each.support)}">${table[row][column]}</td>`)}
        <${Cell} value=${share(each.precision)} /><${Cell} value=${share(each.recall)} /><${Cell} value=${share(each.f1)} /></tr>`)}</tbody>
    </table></div></section>`;
}

function kindOf(times, isSame, support) {
  if (isSame) return "right";
  if (!times) return "none";
  return times / support > 0.25 ? "wrong much" : "wrong";
}

function Differences({ found, names }) {
  const rows = found[names[0]].map((_, place) => names.map((name) => found[name][place]))
    .filter((row) => new Set(row.map((each) => each.answer.trim())).size > 1);
  if (!rows.length) return html`<p>All models give the same answer to every row.</p>`;
  return html`<${Table} caption="Rows in which the models differ: ${count(rows.length)}" head=${[["Line", "number"], "Expected", ...names]}>
      ${rows.slice(0, SHOWN).map((row) => html`<tr key=${row[0].line}><th scope="row" class="number">${row[0].line}</th><td class="words">${row[0].expected}</td>
        ${row.map((each, at) => html`<td key=${names[at]} class="words">${isRight(each) ? html`<span class="verdict good" title="as expected">✓</span>` : html`<span class="verdict bad" title="not as expected">✗</span>`} ${each.answer}</td>`)}</tr>`)}
    <//>
    ${rows.length > SHOWN && html`<p class="quiet">The first ${SHOWN} are shown.</p>`}`;
}
