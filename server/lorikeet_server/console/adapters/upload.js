// A new adapter out of the two files that PEFT saves: judged first, every reason at once, then registered.

import { sendForm } from "../base/api.js";
import { html, Button, Check, Drop, Notice, Problem, Text, useAction, useRef, useState } from "../base/ui.js";
import { size } from "../base/words.js";
import { Findings } from "./findings.js";

const NEEDED = ["adapter_config.json", "adapter_model.safetensors"];

export function Upload({ names, onDone }) {
  const [files, setFiles] = useState([]);
  const [verdict, setVerdict] = useState(null);
  const [name, setName] = useState("");
  const [replace, setReplace] = useState(false);
  const [done, setDone] = useState("");
  const [judging, judgeError, judge] = useVerdict(setVerdict);
  const [register, registering, error, setError] = useAction(async () => {
    const record = await sendForm("v1/adapters", formOf(files, { name, replace: String(replace) }));
    setDone(`${record.id} is registered and answers from now on.`);
    setFiles([]);
    judge([]);
    onDone(record.id);
  });
  const take = (dropped) => {
    // Files that come one after the other belong together; the same name again takes the place of the one before.
    const chosen = [...files.filter((each) => !dropped.some((other) => other.name === each.name)), ...dropped];
    setFiles(chosen);
    setDone("");
    setError(null);
    judge(chosen);
  };
  const taken = names.includes(name);
  return html`<section class="card" aria-label="Add an adapter">
    <h2>Add an adapter</h2>
    <${Drop} label="Drop an adapter's files here, or choose them" multiple onFiles=${take}
      hint="${NEEDED.join(" and ")}, as PEFT saves them. They are judged first; nothing is kept of what cannot be applied." />
    ${files.length > 0 && html`<ul>${files.map((each) => html`<li key=${each.name}><code>${each.name}</code> ${size(each.size)}</li>`)}</ul>
      <p><${Button} kind="small" onClick=${() => { setFiles([]); judge([]); setError(null); }}>Clear<//></p>`}
    ${judging && html`<p class="quiet" role="status">Judging the files.</p>`}
    <${Problem} error=${judgeError} />
    ${verdict && html`<${Verdict} verdict=${verdict} />`}
    ${verdict?.loadable && html`<${Text} label="Name" value=${name} onValue=${setName} hint="What requests call it by." />
      ${taken && html`<${Check} label="Replace what ${name} means now" checked=${replace} onValue=${setReplace} />`}
      <p><${Button} kind="main" onClick=${register} disabled=${!name || registering || (taken && !replace)}>${registering ? "Registering" : "Register"}<//></p>`}
    <${Problem} error=${error} />
    ${done && html`<${Notice} kind="good">${done}<//>`}
  </section>`;
}

// [judging, error, judge]: the verdict on the files that were given last; what was thought of others is dropped.
function useVerdict(setVerdict) {
  const [state, setState] = useState({ judging: false, error: null });
  const going = useRef(null);
  const judge = async (files) => {
    going.current?.abort();
    const mine = (going.current = new AbortController());
    setVerdict(null);
    setState({ judging: files.length > 0, error: null });
    if (!files.length) return;
    try {
      const found = await sendForm("v1/adapters?dry_run=true", formOf(files), mine.signal);
      if (!mine.signal.aborted) { setVerdict(found); setState({ judging: false, error: null }); }
    } catch (error) {
      if (!mine.signal.aborted) setState({ judging: false, error });
    }
  };
  return [state.judging, state.error, judge];
}

function Verdict({ verdict }) {
  return html`<${Notice} kind=${verdict.loadable ? "good" : "bad"}>${verdict.loadable ? "It can be applied exactly." : "It cannot be applied and is refused."}<//>
    <${Findings} findings=${verdict.findings} title="Why" />
    ${verdict.warnings.map((each) => html`<${Notice} key=${each} kind="warn">${each}<//>`)}`;
}

function formOf(files, fields = {}) {
  const form = new FormData();
  for (const [key, value] of Object.entries(fields)) form.append(key, value);
  for (const file of files) form.append(file.name, file, file.name);
  return form;
}
