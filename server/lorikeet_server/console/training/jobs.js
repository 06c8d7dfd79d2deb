// Every job there is, the newest first.

import { html, Table, Tag } from "../base/ui.js";
import { count, figure, moment } from "../base/words.js";

const KINDS = { succeeded: "good", failed: "bad", cancelled: "warn" };
export const State = ({ job }) => html`<${Tag} kind=${KINDS[job.status] ?? ""}>${job.x_lorikeet.phase}<//>`;

export const Jobs = ({ jobs, chosen }) => html`<section class="card" aria-label="Jobs">
  <h2>Jobs</h2>
  ${jobs.length === 0 ? html`<p class="quiet">None yet.</p>` : html`<${Table} caption="Fine-tuning jobs, the newest first" head=${["Job", "State", ["Step", "number"], ["Loss", "number"], "From", "Adapter", "Ordered"]}>
    ${jobs.map((job) => html`<tr key=${job.id} class=${job.id === chosen ? "chosen" : ""}>
      <th scope="row"><a class="mono" href="#/training?job=${encodeURIComponent(job.id)}" aria-current=${job.id === chosen ? "true" : null}>${job.id.slice(0, 14)}…</a></th>
      <td><${State} job=${job} /></td>
      <td class="number">${count(job.x_lorikeet.step)} / ${count(job.x_lorikeet.total_steps)}</td>
      <td class="number">${figure(job.x_lorikeet.train_loss)}</td>
      <td>${job.model}</td>
      <td>${job.fine_tuned_model ?? "–"}</td>
      <td>${moment(job.created_at)}</td>
    </tr>`)}
  <//>`}
</section>`;
