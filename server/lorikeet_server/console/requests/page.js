// The request log, where the operator has it on: find what was asked, rate and correct answers, make a training set.

import { call, get } from "../base/api.js";
import { html, Button, Check, Choice, Notice, Problem, Table, Tag, Text, useAction, useEffect, usePolled, useRef, useState } from "../base/ui.js";
import { moment, seconds } from "../base/words.js";
import { Entry } from "./entry.js";

const PAGE = 20;
const PAUSE_MS = 300; // after the last key of a search
const RATINGS = [["", "any rating"], ["up", "good"], ["down", "bad"], ["none", "not rated"]];
const MARKS = { up: ["good", "good"], down: ["bad", "bad"] };

export function Requests() {
  const [filter, setFilter] = useState({ q: "", model: "", rating: "" });
  const asked = useLate(filter, PAUSE_MS);
  const [after, setAfter] = useState([]); // the last id of each page before this one
  const [chosen, setChosen] = useState(null);
  const [picked, setPicked] = useState(new Set());
  useEffect(() => setAfter([]), [asked]);
  const query = queryOf({ ...asked, limit: PAGE, after: after.at(-1) });
  const [page, error, again] = usePolled((signal) => get(`v1/requests?${query}`, signal), asked.q ? 0 : 5000, [query]); // a search can take the server seconds
  if (error?.code === "request_log_off") return html`<h1>Requests</h1><${Off} />`;
  const pick = (id, on) => setPicked((now) => { const next = new Set(now); if (on) next.add(id); else next.delete(id); return next; });
  // Kept when newer ones push it off the page, or what it says no longer fits the search: somebody may be typing.
  const seen = useRef(null);
  seen.current = page?.data.find((each) => each.id === chosen) ?? (seen.current?.id === chosen ? seen.current : null);
  const entry = seen.current;
  return html`<h1>Requests</h1>
    <p class="quiet">What was asked and answered, as far as the operator keeps it. Whoever has an admin key reads it here.</p>
    <form class="card settings" aria-label="Search" onSubmit=${(event) => event.preventDefault()}>
      <${Text} label="Text in message or answer" type="search" value=${filter.q} onValue=${(q) => setFilter({ ...filter, q })} />
      <${Text} label="Model" value=${filter.model} onValue=${(model) => setFilter({ ...filter, model })} hint="As the client named it." />
      <${Choice} label="Rating" value=${filter.rating} options=${RATINGS} onValue=${(rating) => setFilter({ ...filter, rating })} />
    </form>
    <${Problem} error=${error} />
    ${page && html`<${List} page=${page} chosen=${chosen} onChoose=${setChosen} picked=${picked} onPick=${pick} />`}
    <p class="row">
      ${after.length > 0 && html`<${Button} onClick=${() => setAfter(after.slice(0, -1))}>Newer<//>`}
      ${page?.has_more && html`<${Button} onClick=${() => setAfter([...after, page.data.at(-1).id])}>Older<//>`}
    </p>
    ${entry && html`<${Entry} key=${entry.id} entry=${entry} onChange=${(changed) => { seen.current = changed; if (!changed) setChosen(null); again(); }} />`}
    <${Dataset} picked=${picked} filter=${asked} onDone=${() => setPicked(new Set())} />`;
}

const Off = () => html`<${Notice}>The request log is off. Started with --request-log the server keeps what is asked and answered in its data folder, for --request-log-days days.<//>`;

function List({ page, chosen, onChoose, picked, onPick }) {
  if (!page.data.length) return html`<${Notice}>Nothing here is like that.<//>`;
  return html`<${Table} caption="Requests, the newest first" head=${["Take", "When", "Model", "Asked", "Answered", ["Took", "number"], "Rating"]}>
    ${page.data.map((each) => html`<tr key=${each.id} class=${each.id === chosen ? "chosen" : ""}>
      <td><input type="checkbox" aria-label="Take ${each.id}" checked=${picked.has(each.id)} onChange=${(event) => onPick(each.id, event.target.checked)} /></td>
      <td class="when"><${Button} kind="small" aria-expanded=${each.id === chosen} onClick=${() => onChoose(each.id === chosen ? null : each.id)}>${moment(each.created)}<//></td>
      <td>${each.model}</td>
      <td class="words">${cut(askedOf(each))}</td>
      <td class="words">${cut(each.answer)}</td>
      <td class="number">${seconds(each.total_s)}</td>
      <td>${each.rating && html`<${Tag} kind=${MARKS[each.rating][0]}>${MARKS[each.rating][1]}<//>`}${each.correction !== null && html` <${Tag}>corrected<//>`}</td></tr>`)}
  <//>`;
}

const askedOf = (entry) => (entry.messages ? entry.messages.at(-1).content : entry.prompt);
const cut = (text) => (text.length > 120 ? `${text.slice(0, 120)}…` : text);

// The chosen ones, or all that the search finds, as a file to train on.
function Dataset({ picked, filter, onDone }) {
  const [name, setName] = useState("requests.jsonl");
  const [whole, setWhole] = useState(false);
  const [made, setMade] = useState(null);
  const [make, busy, error] = useAction(async () => {
    const found = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    setMade(null);
    setMade(await call("POST", "v1/datasets", { filename: name, ...(whole ? found : { ids: [...picked] }) }));
    onDone();
  });
  const left = Object.entries(made?.left_out ?? {}).filter(([, times]) => times);
  return html`<section class="card" aria-label="Training set">
    <h2>Make a training set</h2>
    <p class="quiet">Corrected answers take the place of those that were given; bad ones without a correction are left out.</p>
    <${Text} label="File name" value=${name} onValue=${setName} />
    <p class="row"><${Check} label="All that the search above finds, not only those taken" checked=${whole} onValue=${setWhole} />
    <${Button} kind="main" onClick=${make} disabled=${busy || (!whole && !picked.size)}>${whole ? "Make it of all found" : `Make it of ${picked.size}`}<//></p>
    <${Problem} error=${error} />
    ${made && html`<${Notice} kind="good">${made.rows} rows in ${made.file.filename}${left.map(([reason, times]) => `; left out ${times}: ${reason}`)}.<//>
      <p><a href="#/training?file=${encodeURIComponent(made.file.id)}">Train on it</a></p>`}
  </section>`;
}

function queryOf(fields) {
  const said = Object.entries(fields).filter(([, value]) => value !== "" && value !== undefined);
  return new URLSearchParams(said).toString();
}

// A value once it has stayed the same for so long.
function useLate(value, ms) {
  const [late, setLate] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setLate(value), ms);
    return () => clearTimeout(timer);
  }, [value]);
  return late;
}
