// Training: from a dropped file to an adapter that is judged.

import { all, get } from "../base/api.js";
import { html, Problem, useEffect, useMemo, usePolled, useRef, useState } from "../base/ui.js";
import { Evaluation } from "../evaluation/panel.js";
import { Begin } from "./begin.js";
import { Files } from "./files.js";
import { Job } from "./job.js";
import { Jobs } from "./jobs.js";

const JOBS_MS = 3000;
const REST_MS = 10000;
const LATEST = 50; // jobs

export function Training({ info, asked }) {
  const [files, lost, lookAtFiles] = usePolled((signal) => all("v1/files?purpose=fine-tune", signal), REST_MS);
  const [jobs, gone, lookAtJobs] = usePolled(async (signal) => (await get(`v1/fine_tuning/jobs?limit=${LATEST}`, signal)).data, JOBS_MS);
  const [names, , lookAtNames] = usePolled(async (signal) => {
    const [adapters, aliases] = await Promise.all([all("v1/adapters?limit=1000", signal), all("v1/aliases?limit=1000", signal)]);
    return [...adapters.filter((each) => each.state !== "incompatible"), ...aliases].map((each) => each.id);
  }, REST_MS);
  const [wanted, setWanted] = useState(asked.file ?? null);
  const form = useRef();
  const shown = asked.job ?? null;
  const everyone = useMemo(() => [info.model_id, ...(names ?? [])], [info.model_id, names]);
  useEffect(() => { if (shown) document.getElementById("job")?.scrollIntoView?.({ block: "start" }); }, [shown]);
  const train = (id) => {
    setWanted(id);
    form.current?.scrollIntoView({ block: "start" });
    form.current?.querySelector("select")?.focus({ preventScroll: true });
  };
  return html`<h1>Training</h1>
    <${Problem} error=${lost ?? gone} />
    <div class="training">
      <${Files} files=${files ?? []} onChange=${lookAtFiles} onTrain=${train} />
      <div ref=${form}><${Begin} base=${info.model_id} names=${names ?? []} files=${files ?? []} wanted=${wanted}
        onJob=${(job) => { lookAtJobs(); location.hash = `#/training?job=${encodeURIComponent(job.id)}`; }} /></div>
      <${Jobs} jobs=${jobs ?? []} chosen=${shown} />
      <div id="job">${shown && html`<${Job} key=${shown} id=${shown} onChange=${() => { lookAtJobs(); lookAtNames(); }} />`}</div>
      <${Evaluation} names=${everyone} />
    </div>`;
}
