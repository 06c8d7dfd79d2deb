// How the console speaks with the server: the same routes as everybody, the key in the header and nowhere else.

const KEY = "lorikeet-key";
let key = sessionStorage.getItem(KEY) ?? "";

export const hasKey = () => key !== "";

export function setKey(text) {
  key = text;
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

// What the server refused: `status` is 0 where it could not be reached at all.
export class ApiError extends Error {
  constructor(status, { message, code = "", param = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

const headersOf = (more = {}) => ({ ...(key ? { authorization: `Bearer ${key}` } : {}), ...more });

async function send(path, options) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headersOf(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server does not answer. Is it running?" });
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

// By OpenAI's envelope; the native routes have a text for it, and the health routes a status.
async function refusal(answer) {
  const { error, status } = await answer.json().catch(() => ({}));
  if (typeof error === "object") return new ApiError(answer.status, error);
  return new ApiError(answer.status, { message: error ?? status ?? `The server answered ${answer.status}.` });
}

// A name may hold slashes and anything else; as part of a path each piece is written so that it stays one.
export const segment = (name) => name.split("/").map(encodeURIComponent).join("/");

export const get = async (path, signal) => (await send(path, { signal })).json();
export const getText = async (path, signal) => (await send(path, { signal })).text();

export const call = async (method, path, body, { signal, headers } = {}) => {
  const json = body === undefined ? {} : { body: JSON.stringify(body) };
  const kind = { "content-type": "application/json" };
  return (await send(path, { method, signal, ...json, headers: { ...kind, ...headers } })).json();
};

export const sendForm = async (path, form, signal) =>
  (await send(path, { method: "POST", body: form, signal, headers: { "x-lorikeet": "1" } })).json();

// Every object of a list, page by page.
export async function all(path, signal) {
  const found = [];
  for (;;) {
    const after = found.length ? `after=${encodeURIComponent(found.at(-1).id)}` : "";
    const page = await get(after ? `${path}${path.includes("?") ? "&" : "?"}${after}` : path, signal);
    found.push(...page.data);
    if (!page.has_more || !page.data.length) return found;
  }
}

// The data of a stream's events, parsed; ends with the stream. An error inside it is thrown.
export async function* events(path, body, signal, headers = {}) {
  const options = body === undefined
    ? { signal, headers: { accept: "text/event-stream", ...headers } }
    : { signal, method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  const answer = await send(path, options);
  for await (const data of dataLines(answer.body)) {
    if (data === "[DONE]") continue; // read to the end, so that the connection can be used again
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(answer.status, event.error);
    yield event;
  }
}

async function* dataLines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
