// Every reason why an adapter cannot be applied, and how to mend each.

import { html, Table } from "../base/ui.js";

export function Findings({ findings, title }) {
  if (!findings.length) return null;
  return html`<${Table} caption="${title}: ${findings.length} reasons" head=${["Where", "What", "How to mend it"]}>
    ${alike(findings).map(({ first, times }, place) => html`<tr key=${place}>
      <td><code>${[first.field, first.module].filter(Boolean).join(" ")}</code><small>${first.code}</small></td>
      <td class="words">${first.message}${times > 1 && ` (and ${times - 1} more like it)`}</td>
      <td class="words">${first.fix}</td></tr>`)}
  <//>`;
}

// What is wrong in the same way in many modules is one line.
function alike(findings) {
  const found = new Map();
  for (const each of findings) {
    const key = `${each.code}\n${each.field}\n${each.fix}`;
    if (found.has(key)) found.get(key).times += 1;
    else found.set(key, { first: each, times: 1 });
  }
  return [...found.values()];
}
