// The same requests for a shell and for Python, exactly as they are on screen.

import { hasKey } from "../base/api.js";
import { html, Choice, Copy, useState } from "../base/ui.js";
import { bodyOf, curlOf, pythonOf, titleOf } from "./mix.js";

export function Code({ titled, base, asked }) {
  const [place, setPlace] = useState(0);
  const shown = Math.min(place, titled.length - 1);
  const url = new URL(".", document.baseURI).href;
  const body = bodyOf(base, titled[shown], asked);
  return html`<details class="card code">
    <summary>As code</summary>
    <${Choice} label="Of answer" value=${String(shown)} onValue=${(value) => setPlace(Number(value))}
      options=${titled.map((terms, number) => [String(number), `${number + 1}: ${titleOf(base, terms)}`])} />
    <${Block} title="curl" text=${curlOf(url, asked.mode, body, hasKey())} />
    <${Block} title="Python" text=${pythonOf(url, asked.mode, body, hasKey())} />
  </details>`;
}

const Block = ({ title, text }) => html`<figure>
  <figcaption class="row"><span>${title}</span><${Copy} text=${text} label="Copy the ${title} code" /></figcaption>
  <pre tabindex="0" aria-label=${title}>${text}</pre>
</figure>`;
