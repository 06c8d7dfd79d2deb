// An answer, token by token: coloured by how likely each was, underlined where another answer has others.

import { html, useEffect, useRef, useState } from "../base/ui.js";
import { share } from "../base/words.js";

// By probability, the surest last. The same five words stand in the legend.
const LEVELS = [[0.05, "p0", "under 5 %"], [0.2, "p1", "5 to 20 %"], [0.5, "p2", "20 to 50 %"], [0.9, "p3", "50 to 90 %"], [Infinity, "p4", "over 90 %"]];
const levelOf = (logprob) => (logprob === null ? "" : LEVELS.find(([bound]) => Math.exp(logprob) < bound)[1]);

// `same` says of each token whether the first column has it, too; null for nothing to compare with.
export function Tokens({ label, tokens, same, coloured, busy }) {
  const [chosen, setChosen] = useState(null);
  const box = useRef();
  useEffect(() => setChosen(null), [tokens.length === 0]);
  const step = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") setChosen(null);
    if (!by || !tokens.length) return;
    event.preventDefault();
    setChosen((now) => Math.min(tokens.length - 1, Math.max(0, now === null ? 0 : now + by)));
  };
  const point = (event) => {
    const place = event.target.dataset?.place;
    if (place !== undefined) setChosen(Number(place));
  };
  return html`<div class="answer">
    <div class="tokens ${coloured ? "coloured" : ""}" ref=${box} tabindex="0" role="group" aria-busy=${busy}
        aria-label="${label}; the arrow keys go from token to token" onKeyDown=${step} onClick=${point}>
      ${tokens.map((token, place) => html`<span key=${place} data-place=${place}
        class="token ${levelOf(token.logprob)} ${same && same[place] === false ? "other" : ""} ${place === chosen ? "chosen" : ""}">${token.text}</span>`)}
      ${busy && html`<span class="caret" aria-hidden="true"></span>`}
    </div>
    <${Alternatives} token=${chosen === null ? null : tokens[chosen]} />
  </div>`;
}

function Alternatives({ token }) {
  if (!token || token.logprob === null) return null;
  return html`<div class="alternatives" role="status">
    <strong><code>${shown(token.text)}</code> ${share(Math.exp(token.logprob))}</strong>
    <ol>${token.top.map(([text, logprob], place) => html`<li key=${place}>
      <meter min="0" max="1" value=${Math.exp(logprob)} aria-label="probability of ${shown(text)}"></meter>
      <code>${shown(text)}</code> ${share(Math.exp(logprob))}</li>`)}</ol>
  </div>`;
}

const shown = (text) => (text === "" ? "(nothing)" : text.replaceAll("\n", "↵").replaceAll(" ", "␣"));

export const Legend = () => html`<p class="legend" role="note" aria-label="What the marks mean">
  ${LEVELS.map(([, name, words]) => html`<span key=${name}><span class="token coloured-key ${name}" aria-hidden="true">a</span> ${words}</span>`)}
  <span><span class="token other" aria-hidden="true">a</span> not in the first answer</span>
</p>`;
