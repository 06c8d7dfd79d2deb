// Held-out rows: what is asked for each, and what the answer should be. No page in here.

const JUDGED = "rows of chat messages, of prompt and completion, or of text and label";

// {rows, left, labels} of JSON lines. A row is {line, path, body, expected}; `left` are {line, why} of what cannot be
// asked; `labels` are those of a file of texts and labels, in their order, else null. Throws Error for no row at all.
export function readRows(text) {
  const found = text.split("\n").map((raw, place) => ({ line: place + 1, raw: raw.trim() })).filter((each) => each.raw);
  const read = found.map(({ line, raw }) => ({ line, ...readRow(raw.replace(/^\ufeff/, "")) }));
  const rows = read.filter((each) => each.path);
  const left = read.filter((each) => each.why).map(({ line, why }) => ({ line, why }));
  if (!rows.length) throw new Error(left.length ? `No row can be asked: line ${left[0].line}: ${left[0].why}. This takes ${JUDGED}.` : "There is no row in it.");
  const labels = rows.every((each) => each.isLabel) ? [...new Set(rows.map((each) => each.expected))].sort() : null;
  return { rows: rows.map(({ isLabel, ...row }) => (labels ? held(row, labels) : row)), left, labels };
}

// An answer to a text with a label is held to be one of the labels.
const held = (row, labels) => ({ ...row, body: { ...row.body, structured_outputs: { choice: labels } } });

function readRow(raw) {
  let row;
  try {
    row = JSON.parse(raw);
  } catch {
    return { why: "it is not JSON" };
  }
  if (row === null || typeof row !== "object" || Array.isArray(row)) return { why: "it is not an object" };
  if (Array.isArray(row.messages)) return chatOf(row);
  if (isText(row.prompt) && isText(row.completion)) return { path: "v1/completions", body: { prompt: row.prompt }, expected: row.completion };
  if (isText(row.text) && isText(row.label)) return { path: "v1/completions", body: { prompt: row.text }, expected: row.label, isLabel: true };
  return { why: "it has no answer to compare with" };
}

// Everything before the last answer that is to be learned.
function chatOf({ messages, tools }) {
  const last = messages.findLastIndex((each) => each?.role === "assistant" && each.weight !== 0);
  if (last < 1) return { why: "it has no answer of an assistant after a question" };
  if (tools?.length || messages.some((each) => each.tool_calls || each.role === "tool")) return { why: "it uses tools" };
  const expected = textOf(messages[last].content);
  if (expected === null) return { why: "its answer is not text" };
  return { path: "v1/chat/completions", body: { messages: messages.slice(0, last).map(({ role, content }) => ({ role, content })) }, expected };
}

const isText = (value) => typeof value === "string" && value !== "";

function textOf(content) {
  if (typeof content === "string") return content;
  const parts = Array.isArray(content) ? content.map((part) => part?.text) : [null];
  return parts.every((part) => typeof part === "string") ? parts.join("") : null;
}
