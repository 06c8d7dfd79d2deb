// Prometheus' text form, read once from left to right: no expression that could go back over what it has read.

const ESCAPED = { n: "\n", "\\": "\\", '"': '"' };
const INFINITE = { "+inf": Infinity, inf: Infinity, "-inf": -Infinity, nan: NaN };

// Every sample in its order: {name, labels, value, timestamp}; `timestamp` is in milliseconds, null where there is none.
// Throws for a line that is neither a sample nor a comment, and says which.
export function parse(text) {
  const samples = [];
  let line = 1;
  for (let start = 0; start < text.length; line += 1) {
    const found = text.indexOf("\n", start);
    const end = found < 0 ? text.length : found;
    try {
      const sample = sampleOf(text.slice(start, end));
      if (sample) samples.push(sample);
    } catch (error) {
      throw new Error(`line ${line} of the metrics: ${error.message}`);
    }
    start = end + 1;
  }
  return samples;
}

function sampleOf(line) {
  const at = skip(line, 0);
  if (at === line.length || line[at] === "#") return null;
  let place = at;
  while (place < line.length && line[place] !== "{" && !isSpace(line[place])) place += 1;
  let name = line.slice(at, place);
  let labels = Object.create(null);
  place = skip(line, place);
  if (line[place] === "{") {
    const read = labelsOf(line, place + 1);
    labels = read.labels;
    place = skip(line, read.place);
    if (name && read.name) throw new Error("a sample has two names");
    name ||= read.name; // a name that is no word stands quoted, first in the braces
  }
  if (!name) throw new Error("a sample has no name");
  const [value, after] = word(line, place);
  const [timestamp, rest] = word(line, skip(line, after));
  if (skip(line, rest) !== line.length) throw new Error("there is something after the timestamp");
  return { name, labels, value: numberOf(value), timestamp: timestamp ? numberOf(timestamp) : null };
}

// From behind the opening brace to behind the closing one.
function labelsOf(line, start) {
  const labels = Object.create(null);
  let name = "";
  let place = skip(line, start);
  while (line[place] !== "}") {
    const read = line[place] === '"' ? quoted(line, place) : bare(line, place);
    place = skip(line, read.place);
    if (line[place] === "=") {
      place = skip(line, place + 1);
      if (line[place] !== '"') throw new Error(`the value of ${read.text} is not quoted`);
      const value = quoted(line, place);
      labels[read.text] = value.text;
      place = skip(line, value.place);
    } else if (line[start] === '"' && !name) {
      name = read.text;
    } else {
      throw new Error("a label has no value");
    }
    if (line[place] === ",") place = skip(line, place + 1);
    else if (line[place] !== "}") throw new Error("the labels do not end");
  }
  return { labels, name, place: place + 1 };
}

function bare(line, start) {
  let place = start;
  while (place < line.length && line[place] !== "=" && line[place] !== "," && line[place] !== "}" && !isSpace(line[place])) place += 1;
  if (place === start) throw new Error("a label has no name");
  return { text: line.slice(start, place), place };
}

// A backslash before anything but n, a backslash or a quote stands for itself.
function quoted(line, start) {
  let text = "";
  let from = start + 1;
  for (let place = from; place < line.length; place += 1) {
    if (line[place] === '"') return { text: text + line.slice(from, place), place: place + 1 };
    if (line[place] === "\\") {
      const meant = ESCAPED[line[place + 1]];
      if (meant !== undefined) {
        text += line.slice(from, place) + meant;
        from = place + 2;
      }
      place += 1;
    }
  }
  throw new Error("a quoted text does not end");
}

const isSpace = (letter) => letter === " " || letter === "\t" || letter === "\r";

function skip(line, start) {
  let place = start;
  while (place < line.length && isSpace(line[place])) place += 1;
  return place;
}

function word(line, start) {
  let place = start;
  while (place < line.length && !isSpace(line[place])) place += 1;
  return [line.slice(start, place), place];
}

function numberOf(text) {
  const named = INFINITE[text.toLowerCase()];
  if (named !== undefined) return named;
  const value = text === "" ? NaN : Number(text);
  if (Number.isNaN(value)) throw new Error(text === "" ? "a sample has no value" : `${text} is no number`);
  return value;
}
