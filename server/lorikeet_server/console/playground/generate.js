// One answer as it comes: its tokens with their log-probabilities, and at the end how long it took.

import { events } from "../base/api.js";
import { pathOf } from "./mix.js";

const LIKELY = 5;

// Calls `onToken({text, logprob, top})` for each; `top` are [text, log-probability], the most likely first.
// Returns {reason, timing, mix, tokens}. Throws ApiError, and AbortError for what was given up.
export async function generate(mode, body, signal, onToken) {
  const told = mode === "chat" ? { logprobs: true, top_logprobs: LIKELY } : { logprobs: LIKELY };
  const asked = { ...body, ...told, stream: true, stream_options: { include_usage: true } };
  let end = { reason: null, timing: null, mix: [], tokens: 0 };
  for await (const chunk of events(pathOf(mode), asked, signal)) {
    if (chunk.usage) end = { ...end, tokens: chunk.usage.completion_tokens };
    if (chunk.lorikeet) end = { ...end, timing: chunk.lorikeet, mix: chunk.lorikeet.mix };
    for (const choice of chunk.choices) {
      const token = mode === "chat" ? ofChat(choice) : ofText(choice);
      if (token.text || token.logprob !== null) onToken(token);
      if (choice.finish_reason) end = { ...end, reason: choice.finish_reason };
    }
  }
  return end;
}

function ofChat({ delta, logprobs }) {
  const [first] = logprobs?.content ?? [];
  return {
    text: delta.content ?? "",
    logprob: first ? first.logprob : null,
    top: first ? first.top_logprobs.map((each) => [each.token, each.logprob]) : [],
  };
}

function ofText({ text, logprobs }) {
  const [logprob = null] = logprobs?.token_logprobs ?? [];
  const [top = {}] = logprobs?.top_logprobs ?? [];
  return { text, logprob, top: Object.entries(top ?? {}).sort((left, right) => right[1] - left[1]) };
}
