// Curves over the steps of a job: uPlot draws, this says what the lines mean and what they come to, in words.

import uPlot from "uplot";
import { html, useEffect, useRef, useState } from "../base/ui.js";

const HEIGHT = 220;
const DASHES = [[], [7, 4], [2, 3]]; // by these, too, lines are told apart

// uPlot's own style sheet, once.
function dress() {
  const href = "console/vendor/uplot.css";
  if (document.querySelector(`link[href="${href}"]`)) return;
  document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
}

// Counts up when the colours of the page change: by the page's own choice, or by the system's.
function useTheme() {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const change = () => setTurn((now) => now + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    const page = new MutationObserver(change);
    page.observe(document.documentElement, { attributes: true, attributeFilter: ["style"] });
    system.addEventListener("change", change);
    return () => { page.disconnect(); system.removeEventListener("change", change); };
  }, []);
  return turn;
}

// What a canvas needs in words of its own: a variable with two forms is no colour there.
function colourOf(box, name) {
  const probe = box.appendChild(document.createElement("span"));
  probe.className = name;
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

// `series` are {name, values, points}: `values` beside `steps`, null where there is none; `show` writes one.
export function Curve({ title, steps, series, show }) {
  const box = useRef();
  const plot = useRef(null);
  const [place, setPlace] = useState(null);
  const theme = useTheme();
  const data = [steps, ...series.map((each) => each.values)];
  const latest = useRef(data);
  latest.current = data;
  const empty = steps.length === 0;
  useEffect(() => {
    if (empty) return;
    dress();
    const here = box.current;
    const made = new uPlot(settings(here, series, show, setPlace), latest.current, here);
    plot.current = made;
    // It also hears of its own removal, which may come before this effect is undone.
    const watch = new ResizeObserver(() => here.isConnected && made.setSize({ width: here.clientWidth, height: HEIGHT }));
    watch.observe(here);
    return () => { watch.disconnect(); made.destroy(); plot.current = null; };
  }, [theme, empty, series.length]);
  useEffect(() => { plot.current?.setData(data); }, [steps, ...series.map((each) => each.values)]);
  return html`<figure class="curve" aria-label=${title}>
    <figcaption><strong>${title}</strong>${series.map((each, line) => html` <${Value} key=${each.name} line=${line} name=${each.name}
      at=${at(each.values, place)} step=${place === null ? null : steps[place]} show=${show} />`)}</figcaption>
    ${empty ? html`<p class="quiet">Nothing measured yet.</p>` : html`<div class="plot" ref=${box} aria-hidden="true"></div>`}
  </figure>`;
}

// The value at a place, or the last one there is.
function at(values, place) {
  if (place !== null) return values[place] ?? null;
  return values.findLast((each) => each !== null) ?? null;
}

const Value = ({ line, name, at, step, show }) => html`<span class="reading">
  <svg class="line-${line}" width="26" height="8" aria-hidden="true"><line x1="0" y1="4" x2="26" y2="4" stroke="currentColor" stroke-width="2.5"
    stroke-dasharray=${DASHES[line].join(" ") || null} /></svg>
  ${name} <b>${at === null ? "–" : show(at)}</b>${step === null ? "" : ` at step ${step}`}</span>`;

function settings(box, series, show, setPlace) {
  const ink = colourOf(box, "quiet");
  const grid = { stroke: colourOf(box, "line-grid"), width: 1 };
  const axis = { stroke: ink, grid, ticks: grid, font: "12px system-ui, sans-serif" };
  return {
    width: box.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    scales: { x: { time: false } },
    axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }, { ...axis, size: 62, values: (_, ticks) => ticks.map(show) }],
    series: [{}, ...series.map((each, line) => {
      const stroke = colourOf(box, `line-${line}`);
      return { label: each.name, stroke, width: 2, dash: DASHES[line], spanGaps: true, points: { show: Boolean(each.points), size: 7, stroke, fill: stroke } };
    })],
    hooks: { setCursor: [(plot) => setPlace(plot.cursor.idx ?? null)] },
  };
}
