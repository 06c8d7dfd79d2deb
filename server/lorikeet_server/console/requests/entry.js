// One request of the log: the whole of it, how good the answer was, and what it should have been.

import { call, segment } from "../base/api.js";
import { html, Area, Ask, Button, Problem, useAction, useState } from "../base/ui.js";
import { count, moment, seconds, short } from "../base/words.js";

export function Entry({ entry, onChange }) {
  const path = `v1/requests/${segment(entry.id)}`;
  const [correction, setCorrection] = useState(entry.correction ?? entry.answer);
  const [asks, setAsks] = useState(false);
  const [change, busy, error] = useAction(async (fields) => { onChange(await call("PATCH", path, fields)); });
  const [remove, , removeError] = useAction(async () => { setAsks(false); await call("DELETE", path); onChange(null); });
  const rate = (rating) => change({ rating: entry.rating === rating ? "none" : rating });
  return html`<section class="card" aria-label="Request ${entry.id}">
    <div class="row"><h2>${entry.model}, ${moment(entry.created)}</h2>
      <${Button} aria-pressed=${entry.rating === "up"} disabled=${busy} onClick=${() => rate("up")}>Good<//>
      <${Button} aria-pressed=${entry.rating === "down"} disabled=${busy} onClick=${() => rate("down")}>Bad<//>
      <${Button} kind="danger" onClick=${() => setAsks(true)}>Delete<//></div>
    <p class="quiet">${entry.route}, ${count(entry.prompt_tokens)} and ${count(entry.completion_tokens)} tokens, ${seconds(entry.total_s)}, ended by ${entry.finish_reason}
      ${entry.key && `, key ${entry.key}`}${entry.tenant && `, tenant ${entry.tenant}`}
      ${entry.mix.map(({ generation, weight }) => html`, <code key=${generation}>${short(generation)}</code> × ${weight}`)}</p>
    ${entry.messages
      ? html`<ol class="turns" aria-label="Messages">${entry.messages.map((each, place) => html`<li key=${place}><strong>${each.role}</strong> ${each.content}</li>`)}</ol>`
      : html`<pre tabindex="0" aria-label="Prompt">${entry.prompt}</pre>`}
    <h3>Answer</h3>
    <pre tabindex="0" aria-label="Answer">${entry.answer}</pre>
    <${Area} label="What it should have been" value=${correction} onValue=${setCorrection} rows="4" />
    <p class="row"><${Button} disabled=${busy || correction === (entry.correction ?? entry.answer)} onClick=${() => change({ correction })}>Save the correction<//>
      ${entry.correction !== null && html`<${Button} disabled=${busy} onClick=${() => { setCorrection(entry.answer); change({ correction: "" }); }}>Drop the correction<//>`}</p>
    <${Problem} error=${error ?? removeError} />
    ${asks && html`<${Ask} title="Delete this request?" yes="Delete" onYes=${remove} onNo=${() => setAsks(false)}><p>It is gone from the log; training sets made of it stay.</p><//>`}
  </section>`;
}
