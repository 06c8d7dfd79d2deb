// Quantities below each other on one scale: a bar to the value, ticks for single rounds, a whisker for the interval.
// What is drawn stands beside it in figures, too.

import { html } from "../base/ui.js";

const ROOM = 1.05; // past what is largest
const MIDDLE = 8; // of a row's height of 16
const CAP = 4;

// A row is {label, value, low, high, samples}; all but the label may be null. `reference` is {value, label}, a line through all rows.
export function Intervals({ title, note, rows, say, log = false, reference = null }) {
  const drawn = rows.filter((each) => each.value !== null);
  const scale = scaleOf(drawn, log, reference);
  return html`<figure class="intervals">
    <figcaption><strong>${title}</strong>${note && html`<small>${note}</small>`}${reference && html`<small>The dashed line is ${reference.label}.</small>`}</figcaption>
    <ul>${drawn.map((row, place) => html`<li key=${place}>
      <span class="of">${row.label}</span>
      <${Bar} row=${row} scale=${scale} reference=${reference} />
      <span class="figure">${say(row.value)}${row.low !== null && html` <small>${say(row.low)} to ${say(row.high)}</small>`}</span>
    </li>`)}</ul>
  </figure>`;
}

// Gives where a value lies, from 0 to 100. On a logarithmic scale the foot is a power of ten below the least.
function scaleOf(rows, log, reference) {
  const all = rows.flatMap((each) => [each.value, each.low, each.high, ...each.samples]).filter((each) => each !== null);
  const most = ROOM * Math.max(...all, reference?.value ?? 0, 1e-12);
  if (!log) return (value) => Math.max(0, (100 * value) / most);
  const least = 10 ** (Math.floor(Math.log10(Math.min(...all.filter((each) => each > 0), most))) - 1);
  return (value) => (value > 0 ? Math.max(0, (100 * Math.log(value / least)) / Math.log(most / least)) : 0);
}

function Bar({ row, scale, reference }) {
  const interval = row.low !== null && row.high !== null;
  return html`<svg viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">
    <rect class="bar" x="0" y="3" width=${scale(row.value)} height="10" />
    ${reference && html`<${Stroke} kind="reference" x=${scale(reference.value)} from=${0} to=${16} />`}
    ${row.samples.map((each, place) => html`<${Stroke} key=${place} kind="round" x=${scale(each)} from=${5} to=${11} />`)}
    ${interval && html`<line class="whisker" x1=${scale(row.low)} x2=${scale(row.high)} y1=${MIDDLE} y2=${MIDDLE} />
      ${[row.low, row.high].map((end, place) => html`<${Stroke} key=${place} kind="whisker" x=${scale(end)} from=${MIDDLE - CAP} to=${MIDDLE + CAP} />`)}`}
  </svg>`;
}

const Stroke = ({ kind, x, from, to }) => html`<line class=${kind} x1=${x} x2=${x} y1=${from} y2=${to} />`;
