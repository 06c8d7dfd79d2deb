// The form by which a job is ordered.

import { call } from "../base/api.js";
import { html, Choice, Number_, Problem, Text, useAction, useEffect, useState } from "../base/ui.js";
import { bodyOf, DEMO, EMPTY, faultsOf } from "./order.js";

// `wanted` is a file to train on that was chosen elsewhere.
export function Begin({ base, names, files, wanted, onJob }) {
  const [form, setForm] = useState(() => ({ ...(base === "demo" ? DEMO : EMPTY), model: base }));
  const set = (change) => setForm((now) => ({ ...now, ...change }));
  useEffect(() => { if (wanted) set({ training: wanted }); }, [wanted]);
  const chosen = { ...form, training: known(files, form.training) ?? files[0]?.id ?? "", validation: known(files, form.validation) ?? "" };
  const [order, busy, error] = useAction(async () => onJob(await call("POST", "v1/fine_tuning/jobs", bodyOf(chosen))));
  const faults = faultsOf(error);
  const options = files.map((file) => [file.id, `${file.filename} (${file.id.slice(-6)})`]);
  const number = (key, label, more) => html`<${Number_} label=${label} value=${form[key]} fault=${faults[key]} onValue=${(value) => set({ [key]: value })} step="1" min="1" ...${more} />`;
  const send = (event) => { event.preventDefault(); order(); };
  return html`<form class="card" onSubmit=${send} aria-label="New job" novalidate>
    <h2>Train an adapter</h2>
    <div class="settings wide">
      <${Choice} label="Model to go on from" value=${form.model} fault=${faults.model} onValue=${(model) => set({ model })}
        options=${[[base, `${base} (the base)`], ...names.map((name) => [name, name])]} />
      <${Choice} label="Training file" value=${chosen.training} fault=${faults.training} onValue=${(training) => set({ training })}
        options=${options.length ? options : [["", "upload one above"]]} />
      <${Choice} label="Validation file" value=${chosen.validation} fault=${faults.validation} onValue=${(validation) => set({ validation })}
        options=${[["", "part of the training file"], ...options]} />
      <${Choice} label="Method" value=${form.method} fault=${faults.method} onValue=${(method) => set({ method })}
        options=${[["supervised", "supervised: learn the answers"], ["dpo", "DPO: prefer one of two answers"]]} />
      <${Text} label="Suffix of its name" value=${form.suffix} fault=${faults.suffix} placeholder="billing" onValue=${(suffix) => set({ suffix })} />
    </div>
    <p class="quiet">What is empty is chosen by the trainer, out of the number of rows.</p>
    <div class="settings">
      ${number("maxSteps", "Steps", { hint: "or epochs" })}
      ${number("epochs", "Epochs")}
      ${number("batch", "Batch size")}
      ${number("multiplier", "Learning rate ×", { step: "any", min: "0" })}
      ${form.method === "dpo" && number("beta", "Beta", { step: "any", min: "0" })}
      ${number("rank", "Rank")}
      ${number("alpha", "Alpha", { step: "any", min: "0" })}
      ${number("maxLength", "Longest row", { hint: "tokens" })}
      ${number("checkpointSteps", "Checkpoint every", { hint: "steps" })}
      ${number("earlyStopping", "Stop early after", { hint: "checkpoints without a better loss" })}
      ${number("seed", "Seed", { min: "0" })}
    </div>
    ${error && html`<${Problem} error=${faults[""] ?? (error.param ? "The server refuses this order; the fields say why." : error)} />`}
    <p><button type="submit" class="main" disabled=${busy || !chosen.training}>${busy ? "Ordering" : "Start training"}</button></p>
  </form>`;
}

const known = (files, id) => files.find((file) => file.id === id)?.id;
