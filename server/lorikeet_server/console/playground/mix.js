// A mix as the requests of the playground say it. No terms is the base; one at full strength is a model's name.

export const LEAST = -1;
export const MOST = 1.5;

// The fields of a request that name the mix.
function fieldsOf(base, terms) {
  if (!terms.length) return { model: base };
  if (terms.length === 1 && terms[0].weight === 1) return { model: terms[0].name };
  return { model: base, adapters: terms.map(({ name, weight }) => ({ name, weight })) };
}

export const titleOf = (base, terms) =>
  terms.length ? terms.map(({ name, weight }) => (weight === 1 && terms.length === 1 ? name : `${name} ${weight}`)).join(" + ") : `${base} (the base)`;

// The whole body for one column. `turns` are OpenAI's messages; in completion mode `text` alone counts.
export function bodyOf(base, terms, asked) {
  const { mode, turns, text, temperature, maxTokens, seed } = asked;
  return {
    ...fieldsOf(base, terms),
    ...(mode === "chat" ? { messages: turns } : { prompt: text }),
    temperature,
    max_tokens: maxTokens,
    ...(temperature > 0 ? { seed } : {}),
  };
}

export const pathOf = (mode) => (mode === "chat" ? "v1/chat/completions" : "v1/completions");

// For a POSIX shell; a single quote inside ends the quoting, stands escaped, and begins it again.
export function curlOf(url, mode, body, withKey) {
  const quoted = JSON.stringify(body).replaceAll("'", `'\\''`);
  const key = withKey ? ` -H "authorization: Bearer $LORIKEET_API_KEY"` : "";
  return `curl -s ${url}${pathOf(mode)}${key} -H 'content-type: application/json' -d '${quoted}'`;
}

// For OpenAI's own client; what it has no argument for goes into extra_body.
export function pythonOf(url, mode, body, withKey) {
  const { adapters, ...rest } = body;
  const extra = adapters ? { extra_body: { adapters } } : {};
  const given = Object.entries({ ...rest, ...extra }).map(([key, value]) => `    ${key}=${literal(value)},`);
  const key = withKey ? `os.environ["LORIKEET_API_KEY"]` : `"none"`;
  const [call, told] = mode === "chat" ? ["chat.completions", "message.content"] : ["completions", "text"];
  return [
    ...(withKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${url}v1", api_key=${key})`,
    `answer = client.${call}.create(`,
    ...given,
    ")",
    `print(answer.choices[0].${told})`,
  ].join("\n");
}

// JSON is Python but for three words, and those only outside of strings.
function literal(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}
