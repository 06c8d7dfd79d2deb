// Every row put to every model, over the same routes as everybody's requests.

import { call } from "../base/api.js";

const AT_ONCE = 8;
const TRIES = 6; // of a request that the server was too busy for
const PAUSE_MS = 1000;
const MEASURED = 8; // of the longest expected answers: in tokens one of these is the longest
const LEAST_TOKENS = 4;

// Tokens that an answer may have: twice as many as the longest that is expected, its end among them.
async function allowance(rows, signal) {
  const longest = rows.map((each) => each.expected).sort((left, right) => right.length - left.length).slice(0, MEASURED);
  const counts = await Promise.all(longest.map(async (prompt) => (await call("POST", "v1/tokenize", { prompt, add_special_tokens: false }, { signal })).count));
  return Math.max(LEAST_TOKENS, 2 * (Math.max(...counts) + 1));
}

// {name: judged}, `judged` beside `rows`: {line, expected, answer, stopped, failed}. Row by row, so that what shares a prompt
// shares a batch. `onDone(count)` after each. What the server refuses for good ends it all; what fails alone counts as wrong.
export async function evaluate(rows, names, signal, onDone) {
  const maxTokens = await allowance(rows, signal);
  const found = Object.fromEntries(names.map((name) => [name, Array(rows.length).fill(null)]));
  const waiting = rows.flatMap((row, place) => names.map((name) => ({ row, place, name }))).values();
  const stop = new AbortController();
  const both = AbortSignal.any([signal, stop.signal]);
  let done = 0;
  const work = async () => {
    for (const { row, place, name } of waiting) {
      found[name][place] = await judged(row, name, maxTokens, both);
      done += 1;
      onDone(done);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  } finally {
    stop.abort();
  }
  return found;
}

async function judged({ line, path, body, expected }, model, maxTokens, signal) {
  const ask = (most) => patiently(() => call("POST", path, { model, ...body, temperature: 0, max_tokens: most }, { signal }), signal);
  try {
    const { choices: [choice] } = await ask(maxTokens).catch(async (error) => {
      if (error.code !== "context_length_exceeded") throw error;
      const least = await room(body, signal);
      if (least < 1) throw error;
      return ask(least);
    });
    return { line, expected, answer: choice.message?.content ?? choice.text ?? "", stopped: choice.finish_reason === "stop", failed: null };
  } catch (error) {
    if (signal.aborted || !error.status || [401, 403, 404].includes(error.status)) throw error;
    return { line, expected, answer: "", stopped: false, failed: error.message };
  }
}

// Tokens that the context has left behind a prompt.
async function room({ messages, prompt }, signal) {
  const asked = messages ? { messages } : { prompt };
  const { count, max_model_len: most } = await patiently(() => call("POST", "v1/tokenize", asked, { signal }), signal);
  return most - count;
}

async function patiently(ask, signal) {
  for (let turn = 1; ; turn += 1) {
    try {
      return await ask();
    } catch (error) {
      if (![429, 503].includes(error.status) || turn === TRIES) throw error;
      await new Promise((done) => setTimeout(done, turn * PAUSE_MS));
      signal.throwIfAborted();
    }
  }
}
