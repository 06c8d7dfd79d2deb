// One answer beside others: its mix with a slider for each adapter, its tokens, and what it took.

import { html, Button, Choice, Problem, Tag, useId } from "../base/ui.js";
import { figure, seconds, short } from "../base/words.js";
import { LEAST, MOST, titleOf } from "./mix.js";
import { Tokens } from "./tokens.js";

export function Column({ place, column, base, names, same, coloured, isOld, onTerms, onRemove, onKeep, onGenerate }) {
  const { terms, tokens, busy, error, end } = column;
  const title = titleOf(base, terms);
  const left = names.filter((name) => !terms.some((term) => term.name === name));
  const change = (name, weight) => onTerms(terms.map((term) => (term.name === name ? { name, weight } : term)));
  return html`<section class="column card" aria-label="Answer ${place + 1}">
    <header class="row">
      <h2><span class="number">${place + 1}</span> ${title}</h2>
      ${onRemove && html`<${Button} kind="small" onClick=${onRemove} aria-label="Remove answer ${place + 1}">Remove<//>`}
    </header>
    ${terms.map((term) => html`<${Slider} key=${term.name} term=${term}
      onWeight=${(weight) => change(term.name, weight)} onDrop=${() => onTerms(terms.filter((each) => each !== term))} />`)}
    ${left.length > 0 && html`<${Choice} label=${terms.length ? "Add another adapter" : "Add an adapter"} value=""
      options=${[["", terms.length ? "none" : "none: the base answers alone"], ...left.map((name) => [name, name])]}
      onValue=${(name) => name && onTerms([...terms, { name, weight: terms.length ? 0.5 : 1 }])} />`}
    <${Tokens} label="Answer ${place + 1}" tokens=${tokens} same=${same} coloured=${coloured} busy=${busy} />
    <${Problem} error=${error} />
    ${end && html`<${Facts} end=${end} tokens=${tokens} />`}
    ${isOld && !busy && html`<p class="facts"><${Tag} kind="warn">old<//> It answered what was asked before a change.</p>`}
    <p class="row">
      <${Button} kind="small" onClick=${onGenerate} aria-label="Generate answer ${place + 1} again">Again<//>
      ${end && onKeep && html`<${Button} kind="small" onClick=${onKeep} aria-label="Go on from answer ${place + 1}">Go on from here<//>`}
    </p>
  </section>`;
}

function Slider({ term, onWeight, onDrop }) {
  const id = useId();
  const read = (event) => {
    const weight = Number(event.target.value);
    if (event.target.value !== "" && Number.isFinite(weight)) onWeight(weight);
  };
  return html`<div class="slider">
    <label for=${id}>${term.name}</label>
    <input type="range" id=${id} min=${LEAST} max=${MOST} step="0.05" value=${term.weight} onInput=${read} list="weights" />
    <input type="number" min=${LEAST} max=${MOST} step="0.05" value=${term.weight} onChange=${read} aria-label="Weight of ${term.name}" />
    <${Button} kind="small quiet" onClick=${onDrop} aria-label="Take ${term.name} out">×<//>
  </div>`;
}

function Facts({ end, tokens }) {
  const { timing, reason } = end;
  const known = tokens.filter((token) => token.logprob !== null);
  const mean = known.reduce((sum, token) => sum + token.logprob, 0) / Math.max(known.length, 1);
  const rate = timing && timing.total_s > timing.first_token_s ? (end.tokens - 1) / (timing.total_s - timing.first_token_s) : null;
  return html`<p class="facts">
    ${end.tokens} tokens, ${reason === "length" ? html`<${Tag} kind="warn">cut at max tokens<//>` : "ended by itself"}.
    ${timing && ` First after ${seconds(timing.first_token_s)}, all after ${seconds(timing.total_s)}${rate ? `, ${rate.toFixed(0)} tokens/s` : ""}.`}
    ${known.length > 0 && ` ${figure(-mean, 3)} nats a token.`}
    ${end.mix.map(({ generation, weight }) => html` <code key=${generation} title=${generation}>${short(generation)}</code>${weight === 1 ? "" : ` × ${weight}`}`)}
  </p>`;
}
