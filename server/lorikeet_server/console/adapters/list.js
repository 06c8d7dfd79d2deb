// The table of adapters. A name opens its details below.

import { html, Button, Table, Tag } from "../base/ui.js";
import { moment, short, size } from "../base/words.js";

const KINDS = { device: "good", failed: "bad", incompatible: "bad", retired: "warn" };
const HEAD = ["Name", "State", "Tier", ["Rank", "number"], ["Bytes", "number"], "Generation", ["Leases", "number"], "Last used", "From", "Remarks"];

export function List({ records, chosen, onChoose }) {
  const bytes = records.reduce((sum, each) => sum + each.bytes, 0);
  return html`<${Table} caption="${records.length} adapters, ${size(bytes)}" head=${HEAD}>
    ${records.map((each) => html`<tr key=${each.id} class=${each.id === chosen ? "chosen" : ""}>
      <th scope="row"><${Button} kind="small" aria-expanded=${each.id === chosen} onClick=${() => onChoose(each.id)}>${each.id}<//></th>
      <td><${Tag} kind=${KINDS[each.state] ?? ""}>${each.state}<//>${each.pinned && html` <${Tag}>pinned<//>`}</td>
      <td>${each.tier}</td>
      <td class="number">${each.rank}</td>
      <td class="number">${size(each.bytes)}</td>
      <td><code title=${each.generation}>${short(each.generation)}</code></td>
      <td class="number">${each.leases}</td>
      <td class="when">${moment(each.last_used)}</td>
      <td>${originOf(each)}</td>
      <td>${remarksOf(each)}</td>
    </tr>`)}
  <//>`;
}

function originOf({ source, provenance }) {
  if (provenance) return "trained here";
  return source?.repo ?? source?.type ?? "–";
}

function remarksOf({ findings, warnings }) {
  const said = [[findings.length, "refused", "bad"], [warnings.length, "warnings", "warn"]].filter(([times]) => times);
  return said.map(([times, words, kind]) => html`<${Tag} key=${words} kind=${kind}>${times} ${words}<//> `);
}
