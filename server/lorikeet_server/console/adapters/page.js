// Adapters: what is registered and how it does, a way to add one, the names that stand for others, and evaluation.

import { all } from "../base/api.js";
import { html, Problem, usePolled, useState } from "../base/ui.js";
import { Aliases } from "./aliases.js";
import { Details } from "./details.js";
import { List } from "./list.js";
import { Upload } from "./upload.js";
import { Evaluation } from "../evaluation/panel.js";

const ASK_MS = 3000;

export function Adapters({ info, asked }) {
  const [records, error, again] = usePolled((signal) => all("v1/adapters?limit=1000", signal), ASK_MS);
  const [aliases, aliasError, aliasesAgain] = usePolled((signal) => all("v1/aliases?limit=1000", signal), ASK_MS);
  const [chosen, setChosen] = useState(asked.name ?? null);
  const record = records?.find((each) => each.id === chosen);
  const names = (records ?? []).map((each) => each.id);
  return html`<h1>Adapters</h1>
    <${Problem} error=${error} />
    ${records && html`<${List} records=${records} chosen=${chosen} onChoose=${(name) => setChosen(name === chosen ? null : name)} />`}
    ${record && html`<${Details} key=${record.id} record=${record} onChange=${again} />`}
    <div class="grid">
      <${Upload} names=${names} onDone=${(name) => { again(); setChosen(name); }} />
      <${Aliases} aliases=${aliases ?? []} names=${names} error=${aliasError} onChange=${aliasesAgain} />
    </div>
    <${Evaluation} names=${[info.model_id, ...names, ...(aliases ?? []).map((each) => each.id)]} />`;
}
