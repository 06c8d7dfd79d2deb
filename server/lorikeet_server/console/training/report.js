// What the server says of a file: its numbers, its findings line by line, and a row as it is trained on.

import { get } from "../base/api.js";
import { html, Notice, Number_, Problem, Table, Tag, useEffect, useState } from "../base/ui.js";
import { count, share } from "../base/words.js";

const SETTLE_MS = 300; // after the last key in the number of a line

export const checkPath = (id, line = null) => `v1/files/${encodeURIComponent(id)}/check${line === null ? "" : `?line=${line}`}`;

export function Report({ id, report }) {
  const { is_usable: isUsable, name } = report;
  const errors = report.findings.filter((each) => each.severity === "error");
  const words = isUsable ? `${name} can be trained on.` : `${name} cannot be trained on: ${sum(errors.map((each) => report.counts[each.code] && each.code), report.counts)}.`;
  return html`<${Notice} kind=${isUsable ? "good" : "bad"}>${words}<//>
    <${Numbers} report=${report} />
    ${report.findings.length > 0 && html`<${Findings} report=${report} />`}
    <div class="grid">
      ${report.lengths.length > 0 && html`<${Lengths} report=${report} />`}
      ${Object.keys(report.labels).length > 0 && html`<${Labels} labels=${report.labels} />`}
    </div>
    ${report.sample && html`<${Mask} key=${id} id=${id} first=${report.sample} />`}`;
}

// "3 errors (not_json, no_answer)".
function sum(codes, counts) {
  const kinds = [...new Set(codes)];
  const total = kinds.reduce((all, code) => all + counts[code], 0);
  return `${count(total)} ${total === 1 ? "error" : "errors"} (${kinds.join(", ")})`;
}

const Numbers = ({ report }) => html`<dl class="numbers">
  <${Fact} name="Format" value=${report.format ?? "unknown"} />
  <${Fact} name="Rows" value=${count(report.rows)} />
  <${Fact} name="Usable" value=${count(report.usable)} />
  <${Fact} name="Tokens a pass" value=${count(report.tokens)} />
  <${Fact} name="Learned of them" value=${`${count(report.learned_tokens)} (${share(report.tokens ? report.learned_tokens / report.tokens : 0)})`} />
  <${Fact} name="Longest row / limit" value=${`${count(report.longest)} / ${count(report.limit)}`} />
</dl>`;

export const Fact = ({ name, value }) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`;

function Findings({ report }) {
  const listed = {};
  for (const each of report.findings) listed[each.code] = (listed[each.code] ?? 0) + each.times;
  const rest = Object.entries(report.counts).filter(([code, times]) => times > (listed[code] ?? 0));
  return html`<${Table} caption="Findings, in the order of the file" head=${["Severity", ["Line", "number"], "Field", "Code", "What is wrong", "What to do"]} class="findings">
      ${report.findings.map((each, place) => html`<tr key=${place}>
        <td><${Tag} kind=${each.severity === "error" ? "bad" : "warn"}>${each.severity}<//></td>
        <td class="number">${each.line || "file"}</td>
        <td><code>${each.field}</code></td>
        <td><code>${each.code}</code></td>
        <td class="words">${each.message}</td>
        <td class="words">${each.fix}</td>
      </tr>`)}
    <//>
    ${rest.length > 0 && html`<p class="quiet">Not listed: ${rest.map(([code, times]) => `${count(times - (listed[code] ?? 0))} more of ${code}`).join(", ")}.</p>`}`;
}

function Lengths({ report }) {
  const most = Math.max(...report.lengths.map((each) => each.rows));
  return html`<${Table} caption="How long the rows are" head=${["Tokens, at most", ["Rows", "number"], ""]}>
    ${report.lengths.map(({ tokens, rows }) => html`<${Bar} key=${tokens} name=${count(tokens)} rows=${rows} most=${most} />`)}
  <//>`;
}

function Labels({ labels }) {
  const listed = Object.entries(labels).sort((left, right) => right[1] - left[1]);
  return html`<${Table} caption="Labels" head=${["Label", ["Rows", "number"], ""]}>
    ${listed.map(([label, rows]) => html`<${Bar} key=${label} name=${label} rows=${rows} most=${listed[0][1]} />`)}
  <//>`;
}

const Bar = ({ name, rows, most }) => html`<tr><th scope="row">${name}</th><td class="number">${count(rows)}</td>
  <td><meter min="0" max=${Math.max(most, 1)} value=${rows} aria-hidden="true"></meter></td></tr>`;

// The loss mask. What is learned is underlined and framed as well as coloured, and said in words to who cannot see it.
function Mask({ id, first }) {
  const [line, setLine] = useState(first.line);
  const [sample, setSample] = useState(first);
  const [error, setError] = useState(null);
  useEffect(() => {
    if (line === null || line === sample?.line) return;
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setError(null);
        setSample((await get(checkPath(id, line), stop.signal)).sample);
      } catch (reason) {
        if (!stop.signal.aborted) setError(reason);
      }
    }, SETTLE_MS);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [id, line]);
  return html`<section class="mask-of" aria-label="Loss mask">
    <div class="row"><h3>What is learned of a row</h3>
      <${Number_} label="Line" value=${line} min="1" step="1" onValue=${setLine} /></div>
    <${Problem} error=${error} />
    <div aria-live="polite">${sample ? html`<${Sample} sample=${sample} />` : html`<p class="quiet">On line ${line} is no row that can be trained on.</p>`}</div>
  </section>`;
}

function Sample({ sample }) {
  const { spans, served, same_prompt: same } = sample;
  const learned = spans.filter((each) => each.learned).reduce((all, each) => all + each.tokens, 0);
  const whole = spans.reduce((all, each) => all + each.tokens, 0);
  return html`<p>${count(learned)} of ${count(whole)} tokens of line ${sample.line} are learned: those <mark class="learned">marked like this</mark>.</p>
    <div class="columns many-2">
      <figure><figcaption>As it is trained on</figcaption>
        <pre class="mask" tabindex="0">${spans.map((span, place) => (span.learned
          ? html`<mark key=${place} class="learned" title="${span.tokens} tokens, learned">${span.text}</mark>`
          : html`<span key=${place} title="${span.tokens} tokens, not learned">${span.text}</span>`))}</pre></figure>
      <figure><figcaption class="row"><span>The prompt that the server renders</span>
          ${served !== null && (same ? html`<${Tag} kind="good">the same tokens<//>` : html`<${Tag} kind="bad">other tokens<//>`)}</figcaption>
        ${served === null ? html`<p class="quiet">Plain text has no prompt: all of it is learned.</p>` : html`<pre class="mask" tabindex="0">${served}</pre>`}</figure>
    </div>`;
}
