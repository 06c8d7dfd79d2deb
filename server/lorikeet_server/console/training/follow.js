// What happens to a job, as it happens: its events in their order, from a stream that is taken up again when it breaks.

import { events, get } from "../base/api.js";
import { useEffect, useState } from "../base/ui.js";

const AGAIN_MS = 1000;
const LONGEST_MS = 15000;
const TOGETHER_MS = 100; // a long job's past comes at once, and is drawn once

export const pathOf = (job) => `v1/fine_tuning/jobs/${encodeURIComponent(job)}`;
export const isOver = (job) => ["succeeded", "failed", "cancelled"].includes(job.status);

// [events, broken]: `broken` is why nothing comes at the moment, null while all is well.
export function useFollowed(job) {
  const [told, setTold] = useState([]);
  const [broken, setBroken] = useState(null);
  useEffect(() => {
    const stop = new AbortController();
    setTold([]);
    setBroken(null);
    follow(job, stop.signal, (some) => setTold((now) => [...now, ...some]), setBroken);
    return () => stop.abort();
  }, [job]);
  return [told, broken];
}

// Ends when the job is over or `signal` says so; never throws.
async function follow(job, signal, onEvents, onBroken) {
  let last = null;
  let pause = AGAIN_MS;
  const held = [];
  let timer = 0;
  const pass = () => { timer = 0; if (!signal.aborted) onEvents(held.splice(0)); };
  while (!signal.aborted) {
    try {
      const since = last === null ? {} : { "last-event-id": last };
      for await (const event of events(`${pathOf(job)}/events?stream=true`, undefined, signal, since)) {
        last = event.id;
        pause = AGAIN_MS;
        onBroken(null);
        held.push(event);
        timer ||= setTimeout(pass, TOGETHER_MS);
      }
      if (isOver(await get(pathOf(job), signal))) return; // else the server is stopping
    } catch (error) {
      if (signal.aborted || (error.status >= 400 && error.status < 500)) return;
      onBroken(error);
    }
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(2 * pause, LONGEST_MS);
  }
}

// The figures of its steps as columns. A step that was done again, after a worker was lost, counts as it was done last.
export function curvesOf(told) {
  const kept = [];
  for (const { type, data } of told) {
    if (type !== "metrics") continue;
    while (kept.length && kept.at(-1).step >= data.step) kept.pop();
    kept.push(data);
  }
  const column = (key) => kept.map((each) => each[key] ?? null);
  return {
    steps: column("step"),
    train: column("train_loss"),
    valid: column("valid_loss"),
    rate: column("learning_rate"),
    speed: column("tokens_per_second"),
  };
}
