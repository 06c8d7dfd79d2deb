// A picture of numbers over time or over another number, drawn by uPlot, with its values as a table: the table is the legend,
// and what is read out. Each line has a colour and a pattern of dashes of its own.

import uPlot from "uplot";
import { html, useEffect, useRef, useState } from "./ui.js";

const HEIGHT = 180;
const FOOT = 28; // of the axis below
const LEAST_WIDTH = 200;
const DASHES = [[], [8, 4], [2, 3], [12, 3, 2, 3], [5, 2], [1, 5]];
const COLOURS = 6; // --line-1 to --line-6
const LEAST_TIME_S = 60; // so that the first points are no wall
const WHOLE = Array.from({ length: 9 }, (_, power) => [1, 2, 5].map((each) => each * 10 ** power)).flat(); // steps of an axis that counts
const FONT = "12px system-ui, sans-serif";
const STYLE = "console/vendor/uplot.css";

export const TIME = "time";
export const NUMBER = "number";
export const LOG = "log";

let styled = false;

function addStyle() {
  if (styled) return;
  styled = true;
  document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: STYLE }));
}

// `data` is [xs, ys of the first series, ...], null where there is no point. A series is {label, low, high}: with `low` and
// `high` every point has its interval. `say` writes a value; `top` is the least height of the vertical axis, `base` its foot.
// `table` is false where the caller shows the values in a table of its own.
export function Chart({ title, note, series, data, unit = "", x = TIME, xTitle = "", say = plain, top = 1, base = 0, table = true }) {
  const figure = useRef();
  const holder = useRef();
  const plot = useRef(null);
  const theme = useTheme();
  const [chosen, setChosen] = useState(null); // the point under the pointer, or under the arrow keys
  const shape = JSON.stringify([x, top, base, series.map((each) => each.label)]);
  const drawn = useRef();
  drawn.current = { series, say };

  useEffect(() => {
    addStyle();
    const made = new uPlot(options(figure.current, drawn, { x, top, base }, setChosen), data, holder.current);
    plot.current = made;
    const here = holder.current;
    // It also hears of its own removal, which may come before this effect is undone.
    const fit = new ResizeObserver(() => here.isConnected && made.setSize({ width: widthOf(here), height: HEIGHT }));
    fit.observe(here);
    return () => { fit.disconnect(); made.destroy(); plot.current = null; };
  }, [shape, theme]);
  useEffect(() => plot.current?.setData(data), [data]);

  const [xs] = data;
  const place = chosen !== null && chosen < xs.length ? chosen : null;
  const move = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !xs.length) return;
    event.preventDefault();
    setChosen(Math.min(xs.length - 1, Math.max(0, (place ?? xs.length - 1) + step)));
  };
  const at = place === null ? null : x === TIME ? clock(xs[place]) : plain(xs[place]);
  return html`<figure class="chart" ref=${figure}>
    <figcaption><strong>${title}</strong>${unit && html`<span class="quiet">, ${unit}</span>`}${note && html`<small>${note}</small>`}</figcaption>
    <div class="plot" ref=${holder} tabindex="0" role="group" aria-label="${title}: the arrow keys go through its points"
      onKeyDown=${move} onBlur=${() => setChosen(null)}></div>
    ${xTitle && html`<small class="x-title">${xTitle}</small>`}
    ${table ? html`<${Values} title=${title} series=${series} data=${data} place=${place} at=${at} say=${say} />`
      : html`<ul class="keys">${series.map((each, number) => html`<li key=${each.label}><${Key} number=${number} /> ${each.label}</li>`)}</ul>`}
  </figure>`;
}

// The legend, with the value at the chosen point or the last one, and the extremes of what is drawn.
function Values({ title, series, data, place, at, say }) {
  return html`<table class="values" aria-label="Values of ${title}">
    <thead><tr><th scope="col"><span class="unseen">line</span></th><th scope="col" class="number">${at ?? "now"}</th><th scope="col" class="number">least</th><th scope="col" class="number">most</th></tr></thead>
    <tbody>${series.map((each, number) => {
      const known = data[number + 1].filter((value) => value !== null);
      const now = data[number + 1][place ?? data[0].length - 1];
      return html`<tr key=${each.label}><th scope="row"><${Key} number=${number} /> ${each.label}</th>
        <td class="number">${say(now ?? null)}</td>
        <td class="number">${say(known.length ? Math.min(...known) : null)}</td><td class="number">${say(known.length ? Math.max(...known) : null)}</td></tr>`;
    })}</tbody>
  </table>`;
}

const Key = ({ number }) => html`<svg class="key line-${number % COLOURS + 1}" width="30" height="8" aria-hidden="true">
  <line x1="0" y1="4" x2="30" y2="4" stroke="currentColor" stroke-width="2.5" stroke-dasharray=${dashOf(number).join(" ")} /></svg>`;

const dashOf = (number) => DASHES[number % DASHES.length];
const widthOf = (element) => Math.max(LEAST_WIDTH, element.clientWidth);

export function plain(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${shorter(value / 1e6)} M`;
  if (size >= 1e4) return `${shorter(value / 1e3)} k`;
  return shorter(value);
}

const shorter = (value) => {
  const size = Math.abs(value);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 4)));
};

export const clock = (epoch) => new Date(epoch * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

// Changes whenever colours do: by the page's own choice, or by the system's.
function useTheme() {
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const changed = () => setTheme((now) => now + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const chosen = new MutationObserver(changed);
    chosen.observe(document.documentElement, { attributes: true, attributeFilter: ["style"] });
    dark.addEventListener("change", changed);
    return () => { chosen.disconnect(); dark.removeEventListener("change", changed); };
  }, []);
  return theme;
}

// A variable may be one colour in light and another in dark: only as some element's colour is it the one that is seen.
function coloursOf(element, names) {
  const probe = element.appendChild(document.createElement("span"));
  const found = names.map((name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  });
  probe.remove();
  return found;
}

function options(element, drawn, { x, top, base }, setChosen) {
  const [ink, line, ...colours] = coloursOf(element, ["--quiet", "--line", ...Array.from({ length: COLOURS }, (_, number) => `--line-${number + 1}`)]);
  const axis = { stroke: ink, font: FONT, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 } };
  const series = drawn.current.series;
  return {
    width: widthOf(element.querySelector(".plot")),
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
    scales: { x: xScale(x), y: { range: (plot, least, most) => yRange(plot, drawn.current.series, { least, most, top, base }) } },
    axes: [
      { ...axis, size: FOOT, ...xAxis(x) },
      { ...axis, size: (plot, values) => 14 + 7.5 * Math.max(2, ...(values ?? []).map((each) => each.length)), values: (plot, splits) => splits.map((each) => drawn.current.say(each)) },
    ],
    series: [{}, ...series.map((each, number) => ({
      label: each.label, stroke: colours[number % COLOURS], width: 2, dash: dashOf(number),
      spanGaps: x !== TIME, points: { show: Boolean(each.points), size: 6, fill: colours[number % COLOURS] },
    }))],
    hooks: {
      setCursor: [(plot) => setChosen(plot.cursor.left >= 0 ? plot.cursor.idx : null)],
      draw: [(plot) => drawn.current.series.forEach((each, number) => each.low && drawIntervals(plot, each, colours[number % COLOURS]))],
    },
  };
}

function xScale(x) {
  if (x === TIME) return { time: true, range: (plot, least, most = null) => { const end = most ?? Date.now() / 1000; return [Math.min(least ?? end, end - LEAST_TIME_S), end]; } };
  if (x === LOG) return { time: false, distr: 3 };
  return { time: false, range: (plot, least, most) => [least - 0.05 * (most - least || 1), most + 0.05 * (most - least || 1)] };
}

const xAxis = (x) => (x === TIME
  ? { space: 90, values: (plot, splits) => splits.map(clock) }
  : { space: 40, incrs: WHOLE, values: (plot, splits) => splits.map((each) => (each === null ? "" : plain(each))) });

// From `base` to what is highest, intervals and all; where `base` is null, only what is there.
function yRange(plot, series, { least, most, top, base }) {
  const ends = series.flatMap((each) => [...(each.low ?? []), ...(each.high ?? [])]).filter((each) => each !== null);
  const low = Math.min(least ?? 0, ...ends);
  const high = Math.max(most ?? 0, ...ends);
  if (base === null) return [low - 0.1 * (high - low || 1), high + 0.1 * (high - low || 1)];
  return [base, Math.max(high * 1.08, top)];
}

function drawIntervals(plot, { low, high }, colour) {
  const { ctx } = plot;
  const cap = 4 * devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.setLineDash([]);
  ctx.beginPath();
  plot.data[0].forEach((value, place) => {
    if (low[place] === null || high[place] === null) return;
    const [left, from, to] = [plot.valToPos(value, "x", true), plot.valToPos(low[place], "y", true), plot.valToPos(high[place], "y", true)];
    ctx.moveTo(left, from);
    ctx.lineTo(left, to);
    for (const end of [from, to]) { ctx.moveTo(left - cap, end); ctx.lineTo(left + cap, end); }
  });
  ctx.stroke();
  ctx.restore();
}
