// The order of a job: what the form holds, the body that is sent, and the field that a refusal is about. No page in here.

export const EMPTY = {
  model: "", training: "", validation: "", method: "supervised", suffix: "", seed: 0,
  epochs: null, batch: null, multiplier: null, beta: null,
  rank: null, alpha: null, maxSteps: null, checkpointSteps: null, maxLength: null, earlyStopping: null,
};
// The demo's base learns a task within so many steps at ten times the usual rate; it is far smaller than what that is made for.
export const DEMO = { ...EMPTY, multiplier: 10, rank: 8, alpha: 16, batch: 16, maxSteps: 40, checkpointSteps: 10 };

// The form's fields, and where each stands in the body.
const HYPER = { epochs: "n_epochs", batch: "batch_size", multiplier: "learning_rate_multiplier", beta: "beta" };
const OURS = { rank: "rank", alpha: "alpha", maxSteps: "max_steps", checkpointSteps: "checkpoint_steps", maxLength: "max_length", earlyStopping: "early_stopping" };
const PLAIN = { model: "model", training: "training_file", validation: "validation_file", suffix: "suffix", seed: "seed", method: "method" };
// What the trainer calls them when it refuses a recipe as a whole.
const SPOKEN = { epochs: "epochs", batch: "batch size", multiplier: "learning rate", beta: "beta", rank: "rank", alpha: "alpha", maxSteps: "max steps", checkpointSteps: "checkpoint steps", maxLength: "max length", earlyStopping: "early stopping", seed: "seed" };

const given = (form, names) => Object.fromEntries(Object.entries(names).filter(([key]) => form[key] !== null && form[key] !== "").map(([key, name]) => [name, form[key]]));

// POST /v1/fine_tuning/jobs. What is left empty is the trainer's choice.
export function bodyOf(form) {
  const { beta, ...rest } = HYPER;
  const hyperparameters = given(form, form.method === "dpo" ? HYPER : rest);
  const { method, ...plain } = PLAIN;
  return { ...given(form, plain), method: { type: form.method, [form.method]: { hyperparameters } }, x_lorikeet: given(form, OURS) };
}

const PLACE = /^([\w.]+): /; // that a reason may begin with

// {field: words} of a refusal, and under "" what is about no field of the form.
export function faultsOf(error) {
  if (!error) return {};
  const faults = {};
  for (const reason of error.message.split("; ")) {
    const key = fieldOf(reason, error.param) ?? "";
    const words = key ? reason.replace(PLACE, "") : reason;
    faults[key] = faults[key] ? `${faults[key]}; ${words}` : words;
  }
  return faults;
}

// By the place that a reason begins with, by the words the trainer has for it, or by the one place that the refusal names.
function fieldOf(reason, param) {
  const [, place] = PLACE.exec(reason) ?? [];
  const known = byPlace(place) ?? Object.keys(SPOKEN).find((key) => reason.startsWith(`${SPOKEN[key]} `));
  return known ?? byPlace(param);
}

function byPlace(place) {
  if (!place) return undefined;
  const last = place.split(".").at(-1);
  const all = { ...PLAIN, ...HYPER, ...OURS };
  return Object.keys(all).find((key) => all[key] === last);
}
