// The playground: one prompt, up to four mixes beside each other, answered in one batch.

import { get } from "../base/api.js";
import { html, Area, Button, Check, Choice, Number_, Problem, Text, useEffect, useMemo, usePolled, useRef, useState } from "../base/ui.js";
import { Code } from "./code.js";
import { Column } from "./column.js";
import { shared } from "./diff.js";
import { generate } from "./generate.js";
import { bodyOf } from "./mix.js";
import { Legend } from "./tokens.js";

const MOST_COLUMNS = 4;
const PAUSE_MS = 200; // after the last move of a slider
const DRAW_MS = 50; // from one drawing of an answer to the next: where browser and server share a machine, drawing takes from it
const EXAMPLE = "Order 99389. The chair arrived with a crack and a damaged part. Please reply soon. David";
const EMPTY = { tokens: [], busy: false, error: null, end: null };
let made = 0; // columns so far
const columnOf = (terms) => ({ key: ++made, terms, ...EMPTY });

let kept = null; // what was on screen when another page was opened

// What somebody sees who has never been here: the base, and two adapters blended.
function firstColumns(names, wanted) {
  if (wanted) return [columnOf([]), columnOf([{ name: wanted, weight: 1 }])];
  const known = ["formal", "friendly"].every((name) => names.includes(name));
  const [one, two] = known ? ["formal", "friendly"] : names;
  if (!two) return one ? [columnOf([]), columnOf([{ name: one, weight: 1 }])] : [columnOf([])];
  return [columnOf([]), columnOf([{ name: one, weight: known ? 0.4 : 0.5 }, { name: two, weight: known ? 0.35 : 0.5 }])];
}

export function Playground({ info, wanted }) {
  const [names, error] = usePolled(async (signal) => (await get("v1/models", signal)).data.map((each) => each.id).filter((name) => name !== info.model_id), 5000);
  if (error && !names) return html`<h1>Playground</h1><${Problem} error=${error} />`;
  if (!names) return html`<h1>Playground</h1><p class="quiet">Asking for the adapters.</p>`;
  return html`<${Board} key=${wanted} base=${info.model_id} names=${names} wanted=${wanted} chats=${info.chat_template} />`;
}

function Board({ base, names, wanted, chats }) {
  const before = useMemo(() => (wanted === undefined || kept?.wanted === wanted ? kept : null), []);
  const [columns, setColumns] = useState(() => before?.columns ?? firstColumns(names, wanted));
  const [asked, setAsked] = useState(before?.asked ?? { mode: chats ? "chat" : "completion", system: "", turns: [], text: EXAMPLE, temperature: 0, maxTokens: 100, seed: 0 });
  const [live, setLive] = useState(true);
  const [coloured, setColoured] = useState(true);
  const set = (change) => setAsked((now) => ({ ...now, ...change }));
  const full = useMemo(() => ({ ...asked, turns: turnsOf(asked), form: asked }), [asked]);
  const run = useRuns(base, full, setColumns);
  useEffect(() => { for (const column of columns) if (!column.end) run(column, 0); }, []);
  useEffect(() => { kept = { wanted, columns, asked }; });

  const change = (key, terms) => {
    const changed = { ...columns.find((each) => each.key === key), terms };
    setColumns((now) => now.map((each) => (each.key === key ? { ...each, terms } : each)));
    if (live) run(changed, PAUSE_MS);
  };
  const add = () => {
    const next = columnOf(columns.at(-1).terms);
    setColumns((now) => [...now, next]);
    if (live) run(next, 0);
  };
  // From the conversation that it answered, whatever the form says by now.
  const keep = (column) => set({
    turns: [...column.end.asked.turns, { role: "user", content: column.end.asked.text }, { role: "assistant", content: textOf(column) }], text: "",
  });
  const first = columns[0].tokens.map((token) => token.text);
  const compares = columns.length > 1 && !columns[0].busy && first.length > 0;
  return html`<h1>Playground</h1>
    <div class="playground">
      <${Prompt} asked=${asked} set=${set} live=${live} setLive=${setLive} coloured=${coloured} setColoured=${setColoured}
        onGenerate=${() => columns.forEach((column) => run(column, 0))}/>
      <div class="columns many-${columns.length}">
        ${columns.map((column, place) => html`<${Column} key=${column.key} place=${place} column=${column} base=${base} names=${names}
          coloured=${coloured} same=${compares && place > 0 && !column.busy ? shared(column.tokens.map((token) => token.text), first) : null}
          onTerms=${(terms) => change(column.key, terms)} onGenerate=${() => run(column, 0)}
          onKeep=${column.end?.asked.mode === "chat" ? () => keep(column) : null}
          isOld=${column.end !== null && (column.end.asked !== asked || column.end.terms !== column.terms)}
          onRemove=${columns.length > 1 ? () => { run.stop(column.key); setColumns((now) => now.filter((each) => each !== column)); } : null} />`)}
      </div>
      <p class="row">
        ${columns.length < MOST_COLUMNS && html`<${Button} onClick=${add}>Add an answer to compare<//>`}
        <datalist id="weights"><option value="0" /><option value="1" /></datalist>
      </p>
      ${coloured && html`<${Legend} />`}
      <${Code} titled=${columns.map((column) => column.terms)} base=${base} asked=${full} />
    </div>`;
}

const textOf = (column) => column.tokens.map((token) => token.text).join("");

function turnsOf({ system, turns, text }) {
  const begins = system ? [{ role: "system", content: system }] : [];
  return [...begins, ...turns, { role: "user", content: text }];
}

// `run(column, ms)` answers a column anew after a pause; what it was saying before is given up. `run.stop(key)` gives up alone.
function useRuns(base, asked, setColumns) {
  const going = useRef(new Map());
  const latest = useRef(asked);
  latest.current = asked;
  useEffect(() => () => going.current.forEach((each) => each.abort()), []);
  return useMemo(() => {
    const put = (key, change) =>
      setColumns((now) => now.map((each) => (each.key === key ? { ...each, ...change(each) } : each)));
    const stop = (key) => going.current.get(key)?.abort();
    const run = async ({ key, terms }, pause) => {
      stop(key);
      const mine = new AbortController();
      going.current.set(key, mine);
      await new Promise((done) => setTimeout(done, pause));
      if (mine.signal.aborted) return;
      put(key, () => ({ ...EMPTY, busy: true }));
      const said = [];
      let drawn = 0;
      const draw = () => { drawn = 0; if (!mine.signal.aborted) put(key, () => ({ tokens: [...said] })); };
      const now = latest.current;
      try {
        const end = await generate(now.mode, bodyOf(base, terms, now), mine.signal, (token) => {
          said.push(token);
          drawn ||= setTimeout(draw, DRAW_MS);
        });
        if (!mine.signal.aborted) put(key, () => ({ tokens: [...said], end: { ...end, terms, asked: now.form }, busy: false }));
      } catch (error) {
        if (!mine.signal.aborted) put(key, () => ({ tokens: [...said], busy: false, error }));
      }
    };
    run.stop = stop;
    return run;
  }, [base]);
}

function Prompt({ asked, set, live, setLive, coloured, setColoured, onGenerate }) {
  const send = (event) => { event.preventDefault(); onGenerate(); };
  const keys = (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(event); };
  return html`<form class="prompt card" onSubmit=${send} aria-label="What is asked">
    ${asked.turns.length > 0 && html`<${Turns} turns=${asked.turns} onForget=${() => set({ turns: [] })} />`}
    <${Area} label=${asked.mode === "chat" ? "Message" : "Text to go on from"} value=${asked.text} rows="3" onKeyDown=${keys}
      onValue=${(text) => set({ text })} hint="Ctrl+Enter generates. All answers are computed in one batch." />
    <div class="settings">
      <${Choice} label="Mode" value=${asked.mode} options=${[["chat", "chat"], ["completion", "completion"]]} onValue=${(mode) => set({ mode })} />
      ${asked.mode === "chat" && html`<${Text} label="System message" value=${asked.system} onValue=${(system) => set({ system })} />`}
      <${Number_} label="Temperature" value=${asked.temperature} min="0" max="2" step="0.1" onValue=${(value) => set({ temperature: value ?? 0 })} />
      <${Number_} label="Max tokens" value=${asked.maxTokens} min="1" step="1" onValue=${(value) => set({ maxTokens: value ?? 1 })} />
      <${Number_} label="Seed" value=${asked.seed} min="0" step="1" onValue=${(value) => set({ seed: value ?? 0 })} />
    </div>
    <p class="row">
      <button type="submit" class="main">Generate</button>
      <${Check} label="Follow the sliders" checked=${live} onValue=${setLive} />
      <${Check} label="Colour tokens" checked=${coloured} onValue=${setColoured} />
    </p>
  </form>`;
}

const Turns = ({ turns, onForget }) => html`<div class="turns">
  <ol aria-label="The conversation so far">${turns.map((turn, place) => html`<li key=${place}><strong>${turn.role}</strong> ${turn.content}</li>`)}</ol>
  <${Button} kind="small" onClick=${onForget}>Begin anew<//>
</div>`;
