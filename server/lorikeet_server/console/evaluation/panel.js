// Models judged on held-out rows, in the browser: every row is asked, greedily, and the answers are compared.

import { all, getText } from "../base/api.js";
import { html, Button, Check, Choice, Drop, Notice, Number_, Problem, useEffect, usePolled, useRef, useState } from "../base/ui.js";
import { count } from "../base/words.js";
import { evaluate } from "./evaluate.js";
import { readRows } from "./rows.js";
import { Found } from "./tables.js";

const MOST = 4; // models
const FILES_MS = 10000;
const DROPPED = "dropped";
const IDLE = { busy: false, done: 0, total: 0, error: null, stopped: false };

// `names` are the models that can be judged, the base first.
export function Evaluation({ names }) {
  const [files, lost] = usePolled((signal) => all("v1/files?purpose=fine-tune", signal), FILES_MS);
  const [dropped, setDropped] = useState(null);
  const [source, setSource] = useState("");
  const [chosen, setChosen] = useState(names.slice(0, 1));
  const [most, setMost] = useState(null);
  const [state, setState] = useState(IDLE);
  const [outcome, setOutcome] = useState(null);
  const going = useRef(null);
  useEffect(() => () => going.current?.abort(), []);
  const picked = chosen.filter((name) => names.includes(name));
  const known = files ?? [];
  const from = source === DROPPED || known.some((file) => file.id === source) ? source : known[0]?.id ?? "";
  const run = async () => {
    const stop = new AbortController();
    going.current = stop;
    setState({ ...IDLE, busy: true });
    setOutcome(null);
    try {
      const text = from === DROPPED ? await dropped.text() : await getText(`v1/files/${encodeURIComponent(from)}/content`, stop.signal);
      const { rows, left, labels } = readRows(text);
      const asked = rows.slice(0, most ?? rows.length);
      const total = asked.length * picked.length;
      setState({ ...IDLE, busy: true, total });
      const found = await evaluate(asked, picked, stop.signal, (done) => setState((now) => ({ ...now, done })));
      setOutcome({ found, left, labels });
      setState((now) => ({ ...now, busy: false }));
    } catch (error) {
      setState((now) => ({ ...now, busy: false, stopped: stop.signal.aborted, error: stop.signal.aborted ? null : error }));
    }
  };
  const toggle = (name, is) => setChosen(is ? [...picked, name] : picked.filter((each) => each !== name));
  return html`<section class="card evaluation" aria-label="Evaluation">
    <h2>Evaluate on held-out rows</h2>
    <p class="quiet">Each row is put to each model, without sampling; chats as chats, prompts as completions, texts held to the labels of the file.</p>
    <${Drop} label="Drop held-out rows, or choose a file" accept=".jsonl,.json,.txt" onFiles=${([file]) => { if (file) { setDropped(file); setSource(DROPPED); } }}
      hint="It stays in this browser." />
    <div class="settings wide">
      <${Choice} label="Rows" value=${from} onValue=${setSource}
        options=${[...(dropped ? [[DROPPED, `${dropped.name} (dropped)`]] : []), ...known.map((file) => [file.id, `${file.filename} (${file.id.slice(-6)})`]), ...(from ? [] : [["", "drop a file, or upload one"]])]} />
      <${Number_} label="At most" hint="rows; all where it is empty" value=${most} min="1" step="1" onValue=${setMost} />
    </div>
    <fieldset><legend>Models, up to ${MOST}</legend><div class="picks">
      ${names.map((name) => html`<${Pick} key=${name} name=${name} checked=${picked.includes(name)} full=${picked.length >= MOST} onValue=${(is) => toggle(name, is)} />`)}</div></fieldset>
    <p class="row"><${Button} kind="main" disabled=${state.busy || !from || !picked.length} onClick=${run}>Evaluate<//>
      ${state.busy && html`<${Button} onClick=${() => going.current.abort()}>Stop<//> <progress max=${Math.max(state.total, 1)} value=${state.done} aria-label="Answers"></progress>
        <span>${count(state.done)} of ${count(state.total)} answers</span>`}</p>
    <${Problem} error=${state.error ?? lost} />
    ${state.stopped && html`<${Notice}>Stopped after ${count(state.done)} of ${count(state.total)} answers; nothing is scored.<//>`}
    <div aria-live="polite">${outcome && html`<${Found} ...${outcome} />`}</div>
  </section>`;
}

const Pick = ({ name, checked, full, onValue }) => (full && !checked
  ? html`<span class="check quiet">${name}</span>` : html`<${Check} label=${name} checked=${checked} onValue=${onValue} />`);
