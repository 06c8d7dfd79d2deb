// Files to train on: dropped, checked, chosen, deleted.

import { call, get, sendForm } from "../base/api.js";
import { html, Ask, Button, Drop, Problem, Table, useAction, useRef, useState } from "../base/ui.js";
import { moment, size } from "../base/words.js";
import { checkPath, Report } from "./report.js";

const PURPOSE = "fine-tune";

// The object of the file that was made of it.
export async function upload(file) {
  const form = new FormData();
  form.append("purpose", PURPOSE);
  form.append("file", file, file.name);
  return sendForm("v1/files", form);
}

export function Files({ files, onChange, onTrain }) {
  const [checked, setChecked] = useState(null);
  const [doomed, setDoomed] = useState(null);
  const [checking, setChecking] = useState(false);
  const [failed, setFailed] = useState(null);
  const latest = useRef(null);
  // Of the file that was asked for last; what comes of another one is dropped.
  const check = async (file) => {
    const mine = (latest.current = {});
    setFailed(null);
    setChecking(true);
    setChecked({ file, report: null });
    try {
      const report = await get(checkPath(file.id));
      if (latest.current === mine) setChecked({ file, report });
    } catch (error) {
      if (latest.current === mine) setFailed(error);
    } finally {
      if (latest.current === mine) setChecking(false);
    }
  };
  const [take, taking, refused] = useAction(async ([file]) => {
    const made = await upload(file);
    onChange();
    await check(made);
  });
  const [remove, , kept] = useAction(async (file) => {
    setDoomed(null);
    await call("DELETE", `v1/files/${encodeURIComponent(file.id)}`);
    if (checked?.file.id === file.id) { setChecked(null); setFailed(null); }
    onChange();
  });
  const status = taking && !checking ? "Uploading." : checking ? `Checking ${checked?.file.filename ?? "the file"}.` : "";
  return html`<section class="card" aria-label="Files">
    <h2>Data</h2>
    <${Drop} label="Drop a file of JSON lines, or choose one" accept=".jsonl,.json,.txt" onFiles=${(given) => given.length && take(given)}
      hint="Chats, prompts with completions, texts with labels, or pairs of answers. It is uploaded and checked as a job would check it." />
    <p role="status" class="quiet state">${status}</p>
    <${Problem} error=${refused ?? kept ?? failed} />
    ${files.length > 0 && html`<div class="uploaded"><${Table} caption="Uploaded files" head=${["Name", ["Size", "number"], "Uploaded", "Actions"]}>
      ${files.map((file) => html`<tr key=${file.id} class=${checked?.file.id === file.id ? "chosen" : ""}>
        <th scope="row" class="words">${file.filename}<small class="mono">${file.id}</small></th>
        <td class="number">${size(file.bytes)}</td>
        <td>${moment(file.created_at)}</td>
        <td><span class="row tight">
          <${Button} kind="small" disabled=${checking} onClick=${() => check(file)} aria-label="Check ${file.filename}">Check<//>
          <${Button} kind="small" onClick=${() => onTrain(file.id)} aria-label="Train on ${file.filename}">Train on it<//>
          <${Button} kind="small danger" onClick=${() => setDoomed(file)} aria-label="Delete ${file.filename}">Delete<//></span></td>
      </tr>`)}
    <//></div>`}
    <div class="report" aria-live="polite">${checked?.report && html`<${Report} key=${checked.file.id} id=${checked.file.id} report=${checked.report} />`}</div>
    ${doomed && html`<${Ask} title="Delete ${doomed.filename}?" yes="Delete" onYes=${() => remove(doomed)} onNo=${() => setDoomed(null)}>
      <p>The adapters that were trained on it stay.</p><//>`}
  </section>`;
}
