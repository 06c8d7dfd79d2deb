// Names that send requests to adapters, in shares: set them with sliders, see what they were, go back.

import { call, get, segment } from "../base/api.js";
import { html, Ask, Button, Choice, Notice, Problem, Table, Text, useAction, useId, usePolled, useState } from "../base/ui.js";
import { moment, share, short } from "../base/words.js";

const MOST = 100;

export function Aliases({ aliases, names, error, onChange }) {
  const [adds, setAdds] = useState(false);
  const [told, setTold] = useState("");
  const changed = (words) => { setTold(words); setAdds(false); onChange(); };
  return html`<section class="card" aria-label="Aliases">
    <div class="row"><h2>Aliases</h2><${Button} onClick=${() => setAdds(!adds)} aria-expanded=${adds}>New alias<//></div>
    <p class="quiet">A name of its own whose requests go to one adapter or are split between several.</p>
    <${Problem} error=${error} />
    ${told && html`<${Notice} kind="good">${told}<//>`}
    ${adds && html`<${Editor} names=${names} targets=${[]} onSaved=${changed} />`}
    ${aliases.map((each) => html`<${Alias} key=${each.id} alias=${each} names=${names} onChange=${changed} />`)}
  </section>`;
}

function Alias({ alias, names, onChange }) {
  const [asks, setAsks] = useState(false);
  const path = `v1/aliases/${segment(alias.id)}`;
  const [remove, , error] = useAction(async () => {
    setAsks(false);
    await call("DELETE", path);
    onChange(`${alias.id} is removed.`);
  });
  return html`<details class="alias">
    <summary>${alias.id} <span class="quiet">${spelled(alias.targets)}</span></summary>
    <${Editor} key=${alias.updated + spelled(alias.targets)} name=${alias.id} names=${names} targets=${alias.targets} onSaved=${onChange} />
    <${Past} alias=${alias} path=${path} onChange=${onChange} />
    <p><${Button} kind="danger" onClick=${() => setAsks(true)}>Remove ${alias.id}<//></p>
    <${Problem} error=${error} />
    ${asks && html`<${Ask} title="Remove ${alias.id}?" yes="Remove" onYes=${remove} onNo=${() => setAsks(false)}>
      <p>Requests that name it are answered 404 from then on. The adapters stay.</p><//>`}
  </details>`;
}

function Editor({ name, names, targets, onSaved }) {
  const [own, setOwn] = useState(name ?? "");
  const [parts, setParts] = useState(() => inHundred(targets));
  const [save, saving, error] = useAction(async () => {
    await call("PUT", `v1/aliases/${segment(own)}`, { targets: parts });
    onSaved(`${own} means ${spelled(parts)}.`);
  });
  const total = parts.reduce((sum, each) => sum + each.weight, 0);
  const left = names.filter((each) => !parts.some((part) => part.name === each));
  const put = (place, change) => setParts(parts.map((each, at) => (at === place ? { ...each, ...change } : each)));
  return html`<div class="editor" role="group" aria-label=${name ? `Targets of ${name}` : "New alias"}>
    ${!name && html`<${Text} label="Alias" value=${own} onValue=${setOwn} />`}
    ${parts.map((part, place) => html`<${Share} key=${`${part.name}@${part.generation}`} part=${part} total=${total}
      onWeight=${(weight) => put(place, { weight })} onDrop=${() => setParts(parts.filter((_, at) => at !== place))} />`)}
    ${left.length > 0 && html`<${Choice} label="Add a target" value="" options=${[["", "none"], ...left.map((each) => [each, each])]}
      onValue=${(each) => each && setParts([...parts, { name: each, generation: null, weight: parts.length ? 0 : MOST }])} />`}
    <${Problem} error=${error} />
    <p><${Button} kind="main" onClick=${save} disabled=${saving || !own || !parts.length}>Save ${own}<//></p>
  </div>`;
}

// The same shares with weights that come to a hundred, so that a slider has room for them.
function inHundred(targets) {
  const total = targets.reduce((sum, each) => sum + each.weight, 0);
  return total > 0 ? targets.map((each) => ({ ...each, weight: (MOST * each.weight) / total })) : targets;
}

function Share({ part, total, onWeight, onDrop }) {
  const id = useId();
  const words = part.generation ? `${part.name} at ${short(part.generation)}` : part.name;
  return html`<div class="slider">
    <label for=${id}>${words}</label>
    <input type="range" id=${id} min="0" max=${MOST} step="any" value=${part.weight} onInput=${(event) => onWeight(Number(event.target.value))} />
    <output for=${id}>${share(total ? part.weight / total : NaN)}</output>
    <${Button} kind="small quiet" onClick=${onDrop} aria-label="Take ${part.name} out">×<//>
  </div>`;
}

function Past({ alias, path, onChange }) {
  const [full, failed] = usePolled((signal) => get(path, signal), 0, [alias.updated, spelled(alias.targets)]);
  const [back, busy, error] = useAction(async (targets) => {
    await call("PUT", path, { targets });
    onChange(`${alias.id} means ${spelled(targets)} again.`);
  });
  const past = (full?.history ?? []).filter((each) => each.targets);
  const now = JSON.stringify(alias.targets);
  return html`<${Problem} error=${failed ?? error} />
    ${past.length > 0 && html`<${Table} caption="What ${alias.id} has meant, the newest first" head=${["Since", "Targets", ""]}>
      ${past.map((each) => html`<tr key=${each.id}><td>${moment(each.created)}</td><td class="words">${spelled(each.targets)}</td>
        <td>${JSON.stringify(each.targets) === now ? "now" : html`<${Button} kind="small" disabled=${busy} onClick=${() => back(each.targets)}
          aria-label="Roll ${alias.id} back to ${spelled(each.targets)}">Roll back to it<//>`}</td></tr>`)}
    <//>`}`;
}

function spelled(targets) {
  const total = targets.reduce((sum, each) => sum + each.weight, 0);
  return targets.map((each) => `${each.name}${each.generation ? `@${short(each.generation)}` : ""}${targets.length > 1 ? ` ${share(each.weight / total)}` : ""}`).join(", ");
}
