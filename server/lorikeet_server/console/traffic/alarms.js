// What is wrong, the worst first: each with how much of it there is, and what to do.

import { count, seconds, share } from "../base/words.js";

export const BAD = "bad"; // answers are lost or will be
export const WARN = "warn"; // answers are late, or a part is out of work
export const NOTE = ""; // worth knowing
const ORDER = [BAD, WARN, NOTE];

export const STEP_SLOW_S = 10;
export const STEP_HANGS_S = 60;
export const FAILED_SHARE = 0.05; // of the requests; from here on it is more than a few
export const QUEUE_LEAST = 8; // requests; shorter queues come and go
export const QUEUE_GROWS = 1.5; // times what waited half a minute ago
export const WAIT_LONG_S = 10;
export const EVICTIONS_A_MINUTE = 12;
export const FULL = 0.9;
export const CACHE_FULL = 0.95;
export const PREEMPTIONS_A_MINUTE = 6;
export const TAIL_TIMES = 10; // p99 over the median
export const TAIL_LEAST_S = 1; // shorter is no trouble, whatever the median
export const TAIL_FEWEST = 20; // requests, for a p99 to mean anything
const NAMED = 3; // adapters in one sentence

// `health` is {reached, status, training, message}, `adapters` the records or null where they were not read, `now` the figures
// of `figuresOf` or null where metrics were not read. Returns [{id, level, what, much, todo, page}].
export function findings({ health, adapters, now }) {
  const found = [...ofHealth(health, now), ...ofAdapters(adapters ?? []), ...(now ? ofFigures(now) : [])];
  return found.sort((left, right) => ORDER.indexOf(left.level) - ORDER.indexOf(right.level));
}

const finding = (id, level, what, much, todo, page = null) => ({ id, level, what, much, todo, page });

function ofHealth({ reached, status, training, message }, now) {
  const found = [];
  if (!reached) found.push(finding("unreachable", BAD, "The server does not answer", message ?? "", "See whether the process runs, and the last lines of its log."));
  if (status === "dead") found.push(finding("dead", BAD, "The engine has stopped", "Every generation request is refused as engine_dead.", "Restart the server; its log has the reason."));
  if (status === "hangs") found.push(finding("hangs", BAD, "The engine hangs", stepOf(now), "The log has every thread's stack. Restart the server if the step does not end; --step-seconds is the bound."));
  if (status === "draining") found.push(finding("draining", BAD, "The server is stopping", "New requests are refused as draining.", "Send requests elsewhere. What runs has --drain-seconds to finish."));
  if (reached && (training === "stopped" || now?.trainingStopped)) {
    found.push(finding("training", WARN, "Training has stopped", "An error has ended it; jobs wait, answers go on.", "Restart the server when it suits; the log has the reason.", "training"));
  }
  return found;
}

const stepOf = (now) => (now?.stepAge ? `The present step has taken ${seconds(now.stepAge)}.` : "The present step does not end.");

function ofAdapters(adapters) {
  const found = [];
  const failed = adapters.filter((each) => each.state === "failed");
  const unfit = adapters.filter((each) => each.state === "incompatible");
  if (failed.length) found.push(finding("failed-adapters", WARN, "Adapters cannot be loaded", named(failed), "Requests that name them fail. The log has the reason; register the adapter again or roll it back.", "adapters"));
  if (unfit.length) found.push(finding("incompatible", NOTE, "Adapters do not fit this base", named(unfit), "Requests that name them are refused. Train them for this base, or remove them.", "adapters"));
  return found;
}

function named(adapters) {
  const names = adapters.slice(0, NAMED).map((each) => each.id).join(", ");
  const more = adapters.length - NAMED;
  return more > 0 ? `${names} and ${count(more)} more` : names;
}

function ofFigures(now) {
  return [...ofEngine(now), ...ofRefusals(now), ...ofQueue(now), ...ofMemory(now), ...ofLatency(now), ...ofRecords(now)];
}

const inMinute = (amount, whole) => `${count(amount)} ${whole ? `of ${count(whole)} ` : ""}in the last minute`;

function* ofEngine({ stepAge, failed, ended, broken, asked, code504 }) {
  if (stepAge >= STEP_SLOW_S) {
    yield finding("step", stepAge >= STEP_HANGS_S ? BAD : WARN, "A step of the engine takes long", seconds(stepAge), "Nobody gets a token meanwhile. See what else takes the machine; --step-seconds says when it counts as hanging.");
  }
  if (failed > 0) {
    const level = failed / Math.max(ended, 1) >= FAILED_SHARE ? BAD : WARN;
    yield finding("failed", level, "Generation requests fail", inMinute(failed, ended), "The log has each reason under its request id. For out_of_memory lower --cache-bytes or --rank-rows.", "requests");
  }
  if (broken > 0) {
    yield finding("broken", broken / Math.max(asked, 1) >= FAILED_SHARE ? BAD : WARN, "Answers of 500", inMinute(broken, asked), "They are the server's own faults: the log has each under its request id.", "requests");
  }
  if (code504 > 0) yield finding("late", WARN, "Requests are over their time", inMinute(code504, asked), "Answers of 504. Ask for fewer tokens, or raise the requests' timeout or --request-seconds.", "requests");
}

function* ofRefusals({ code429, code503, asked }) {
  if (code503 > 0) yield finding("refused-503", code503 / Math.max(asked, 1) >= FAILED_SHARE ? BAD : WARN, "Requests are turned away", `${inMinute(code503, asked)} were answered 503`, "The server is full (--max-open-requests, --queue-seconds) or out of memory (--cache-bytes). Add a server, or send less.", "requests");
  if (code429 > 0) yield finding("refused-429", WARN, "Tenants are held to their bounds", `${inMinute(code429, asked)} were answered 429`, "--max-tenant-requests and --max-tenant-tokens are the bounds of one tenant.", "requests");
}

function* ofQueue({ waiting, waitingBefore, waitingAdapter, running, slots, queue99 }) {
  const grows = waiting >= QUEUE_LEAST && waitingBefore !== null && waiting >= QUEUE_GROWS * Math.max(waitingBefore, 1);
  if (grows) yield finding("queue-grows", WARN, "The queue grows", `${count(waiting)} wait, ${count(waitingBefore)} did half a minute ago`, toBegin(running, slots, waitingAdapter));
  if (queue99 >= WAIT_LONG_S) yield finding("wait", WARN, "Requests wait long to begin", `the slowest in a hundred ${seconds(queue99)}`, toBegin(running, slots, waitingAdapter));
}

function toBegin(running, slots, waitingAdapter) {
  if (waitingAdapter > 0) return `${count(waitingAdapter)} wait for an adapter: raise --rank-rows, or pin fewer.`;
  if (running >= slots) return "Every slot is taken: raise --max-slots and --cache-bytes, or add a server.";
  return "Slots are free, so memory is short: raise --cache-bytes, or send shorter prompts.";
}

function* ofMemory({ evicted, loaded, rowsShare, cacheShare, preemptions }) {
  if (evicted >= EVICTIONS_A_MINUTE && rowsShare >= FULL) {
    yield finding("thrash", WARN, "Adapters push each other off the device", `${inMinute(evicted)}, ${count(loaded)} read from the disk`, "Raise --rank-rows; --host-adapter-bytes spares the disk.", "adapters");
  }
  if (preemptions > 0) {
    const level = preemptions >= PREEMPTIONS_A_MINUTE ? WARN : NOTE;
    yield finding("preempted", level, "Requests give up their slot and compute again", inMinute(preemptions), "Raise --cache-bytes or lower --max-slots.");
  } else if (cacheShare >= CACHE_FULL) {
    yield finding("cache", NOTE, "The cache is full", `${share(cacheShare)} of --cache-bytes`, "Should running requests outgrow it, the newest waits. Raise --cache-bytes or lower --max-slots.");
  }
}

function* ofLatency({ ttft50, ttft99, ttftCount }) {
  if (ttftCount >= TAIL_FEWEST && ttft99 >= TAIL_LEAST_S && ttft99 >= TAIL_TIMES * ttft50) {
    yield finding("tail", WARN, "The slowest first tokens are far from the usual", `p99 ${seconds(ttft99)}, median ${seconds(ttft50)}`, "Long prompts or adapters on the disk: see the charts of the queue and of loads. --prefill-tokens bounds what one prompt takes.");
  }
}

function* ofRecords({ loadFailures, workersLost, logDropped }) {
  if (loadFailures > 0) yield finding("load-failures", WARN, "Reads of adapters fail", inMinute(loadFailures), "A file below --data-dir is gone or damaged, or the disk is: the log names it.", "adapters");
  if (workersLost > 0) yield finding("workers", WARN, "Training processes were lost", inMinute(workersLost), "They begin again at their last checkpoint. Often memory ran out: lower --training-jobs.", "training");
  if (logDropped > 0) yield finding("log", NOTE, "Requests are missing from the log of requests", inMinute(logDropped), "They were answered; only their record is lost. See whether the disk keeps up.", "requests");
}
