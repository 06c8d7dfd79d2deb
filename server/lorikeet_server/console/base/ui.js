// What every page is made of. All text goes through Preact, which makes text nodes of it: nothing is ever markup.

import { h, Fragment } from "preact";
import { useCallback, useEffect, useId, useRef, useState } from "preact/hooks";
import htm from "htm";

export const html = htm.bind(h);
export { Fragment, useCallback, useEffect, useId, useRef, useState };
export { useLayoutEffect, useMemo } from "preact/hooks";

// A control with its label above it and below it, where there are such, a hint and what is wrong with it.
export function Field({ label, hint, fault, children }) {
  const id = useId();
  const about = [hint && `${id}-hint`, fault && `${id}-fault`].filter(Boolean).join(" ");
  const described = { ...(about ? { "aria-describedby": about } : {}), ...(fault ? { "aria-invalid": "true" } : {}) };
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${children({ id, ...described })}
    ${hint && html`<small id="${id}-hint">${hint}</small>`}
    ${fault && html`<small class="fault" id="${id}-fault">${fault}</small>`}
  </div>`;
}

export const Text = ({ label, hint, fault, value, onValue, ...rest }) => html`<${Field} label=${label} hint=${hint} fault=${fault}>
  ${(own) => html`<input type="text" autocomplete="off" spellcheck=${false} ...${own} ...${rest} value=${value}
    onInput=${(event) => onValue(event.target.value)} />`}
<//>`;

export const Number_ = ({ label, hint, fault, value, onValue, ...rest }) => html`<${Field} label=${label} hint=${hint} fault=${fault}>
  ${(own) => html`<input type="number" ...${own} ...${rest} value=${value}
    onInput=${(event) => onValue(event.target.value === "" ? null : Number(event.target.value))} />`}
<//>`;

export const Area = ({ label, hint, value, onValue, rows = 4, ...rest }) => html`<${Field} label=${label} hint=${hint}>
  ${(own) => html`<textarea rows=${rows} ...${own} ...${rest} value=${value}
    onInput=${(event) => onValue(event.target.value)}></textarea>`}
<//>`;

export const Choice = ({ label, hint, fault, value, options, onValue, ...rest }) => html`<${Field} label=${label} hint=${hint} fault=${fault}>
  ${(own) => html`<select ...${own} ...${rest} onChange=${(event) => onValue(event.target.value)}>
    ${options.map(([key, words]) => html`<option key=${key} value=${key} selected=${key === value}>${words}</option>`)}
  </select>`}
<//>`;

export function Check({ label, checked, onValue }) {
  const id = useId();
  return html`<span class="check"><input type="checkbox" id=${id} checked=${checked}
    onChange=${(event) => onValue(event.target.checked)} /><label for=${id}>${label}</label></span>`;
}

export const Button = ({ kind = "", children, ...rest }) =>
  html`<button type="button" class=${kind} ...${rest}>${children}</button>`;

// Something that went wrong, read out at once; nothing where nothing did.
export const Problem = ({ error }) =>
  error ? html`<p class="notice bad" role="alert">${error.message ?? String(error)}</p>` : null;

export const Notice = ({ kind = "", children }) => html`<p class="notice ${kind}" role="status">${children}</p>`;

export const Tag = ({ kind = "", children }) => html`<span class="tag ${kind}">${children}</span>`;

// A table in a frame that scrolls by itself, so that the page never does sideways. A heading of numbers is ["words", "number"].
export const Table = ({ caption, head, children, ...rest }) => html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}>
  <table ...${rest}>
    <caption>${caption}</caption>
    <thead><tr>${head.map((each) => [each].flat()).map(([words, kind]) => html`<th scope="col" key=${words} class=${kind}>${words}</th>`)}</tr></thead>
    <tbody>${children}</tbody>
  </table>
</div>`;

// A question that must be answered before anything else.
export function Ask({ title, yes, no = "Cancel", onYes, onNo, children }) {
  const dialog = useRef();
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} onClose=${onNo} aria-label=${title}>
    <h2>${title}</h2>
    ${children}
    <p class="row end"><${Button} onClick=${onNo}>${no}<//><${Button} kind="danger" onClick=${onYes}>${yes}<//></p>
  </dialog>`;
}

// A place to drop files on, that is a button for everyone else.
export function Drop({ label, hint, multiple = false, accept, onFiles }) {
  const input = useRef();
  const [over, setOver] = useState(false);
  const id = useId();
  const take = async (event) => {
    event.preventDefault();
    setOver(false);
    onFiles(await filesOf(event.dataTransfer));
  };
  return html`<div class="drop ${over ? "over" : ""}" onDragOver=${(event) => { event.preventDefault(); setOver(true); }}
      onDragLeave=${() => setOver(false)} onDrop=${take}>
    <label for=${id}>${label}</label>
    <input type="file" id=${id} ref=${input} multiple=${multiple} accept=${accept}
      onChange=${(event) => { onFiles([...event.target.files]); event.target.value = ""; }} />
    ${hint && html`<small>${hint}</small>`}
  </div>`;
}

// The files that are dropped, and those in a folder that is; not those of folders inside it.
async function filesOf(transfer) {
  const files = [...transfer.files];
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  const found = await Promise.all(entries.map((entry, place) => (entry?.isDirectory ? inFolder(entry) : [files[place]])));
  return found.flat().filter(Boolean);
}

async function inFolder(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail)); // a hundred at most each time
    if (!some.length) break;
    found.push(...some.filter((entry) => entry.isFile));
  }
  return Promise.all(found.map((entry) => new Promise((done, fail) => entry.file(done, fail))));
}

// Browsers lend the clipboard to https and to this machine alone; elsewhere the text is there to be selected.
export function Copy({ text, label }) {
  const [done, setDone] = useState(false);
  useEffect(() => setDone(false), [text]);
  if (!navigator.clipboard) return null;
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
  };
  return html`<${Button} kind="small" onClick=${copy} aria-label=${label}>${done ? "Copied" : "Copy"}<//>`;
}

// [value, error, again]: what `load` gives, asked again after `ms` as long as the page is seen.
export function usePolled(load, ms, needs = []) {
  const [value, setValue] = useState(null);
  const [error, setError] = useState(null);
  const [turn, setTurn] = useState(0);
  const again = useCallback(() => setTurn((now) => now + 1), []);
  useEffect(() => {
    const stop = new AbortController();
    let timer;
    let asked = false;
    const ask = async () => {
      try {
        if (!document.hidden || !asked) {
          asked = true;
          const found = await load(stop.signal);
          if (stop.signal.aborted) return;
          setValue(found);
          setError(null);
        }
      } catch (reason) {
        if (!stop.signal.aborted) setError(reason);
      }
      if (!stop.signal.aborted && ms) timer = setTimeout(ask, ms);
    };
    ask();
    return () => { stop.abort(); clearTimeout(timer); };
  }, [turn, ...needs]);
  return [value, error, again];
}

// [run, busy, error]: an action with its outcome; while one runs another is not begun.
export function useAction(act) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const run = async (...given) => {
    if (busy) return;
    setBusy(true);
    setError(null);
    try {
      return await act(...given);
    } catch (reason) {
      setError(reason);
    } finally {
      setBusy(false);
    }
  };
  return [run, busy, error, setError];
}
