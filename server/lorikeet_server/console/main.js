// The console: which page is seen, whether the server lives, and the key where one is needed.

import { render } from "preact";
import { get, hasKey, setKey } from "./base/api.js";
import { html, Button, Problem, Tag, Text, useEffect, useLayoutEffect, usePolled, useState } from "./base/ui.js";
import { Playground } from "./playground/page.js";

// A page is loaded when it is first seen; the first one comes with the console.
const PAGES = {
  playground: { title: "Playground", load: async () => Playground },
  adapters: { title: "Adapters", load: async () => (await import("./adapters/page.js")).Adapters },
  training: { title: "Training", load: async () => (await import("./training/page.js")).Training },
  traffic: { title: "Traffic", load: async () => (await import("./traffic/page.js")).Traffic },
  requests: { title: "Requests", load: async () => (await import("./requests/page.js")).Requests },
};
const HEALTH_MS = 3000;
const THEMES = { auto: "light dark", light: "light", dark: "dark" };

// `#/training?job=ftjob-1` is {page: "training", asked: {job: "ftjob-1"}}.
function placeOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { page: Object.hasOwn(PAGES, path) ? path : "playground", asked: Object.fromEntries(new URLSearchParams(query)) };
}

function usePlace() {
  const [place, setPlace] = useState(() => placeOf(location.hash));
  useEffect(() => {
    const follow = () => setPlace(placeOf(location.hash));
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return place;
}

function App() {
  const { page, asked } = usePlace();
  const [info, error, again] = usePolled((signal) => get("info", signal), 30000);
  const locked = error?.status === 401 || error?.status === 403;
  return html`<a class="skip" href="#content" onClick=${(event) => { event.preventDefault(); document.getElementById("content").focus(); }}>To the content</a>
    <header class="top">
      <span class="brand"><img src="console/icon.svg" alt="" width="28" height="28" />Lorikeet</span>
      <nav aria-label="Pages"><ul>${Object.entries(PAGES).map(([key, { title }]) => html`<li key=${key}>
        <a href="#/${key}" aria-current=${key === page ? "page" : null}>${title}</a></li>`)}</ul></nav>
      <${Health} />
      <${Theme} />
    </header>
    <main id="content" tabindex="-1">
      ${locked ? html`<${Login} error=${hasKey() ? error : null} onKey=${again} />`
        : info ? html`<${Page} page=${page} asked=${asked} info=${info} />`
        : html`<${Problem} error=${error} />`}
    </main>
    <footer class="quiet">${info && html`${info.model_id} as ${info.quantization} on ${info.model_device_type}, Lorikeet ${info.version}`}
      ${hasKey() && html` <${Button} kind="small" onClick=${() => { setKey(""); location.reload(); }}>Forget the key<//>`}</footer>`;
}

function Page({ page, asked, info }) {
  const [shown, setShown] = useState(null);
  useEffect(() => {
    let current = true;
    document.title = `${PAGES[page].title} · Lorikeet`;
    PAGES[page].load().then(
      (component) => current && setShown({ page, component }),
      () => current && setShown({ page, component: () => html`<h1>${PAGES[page].title}</h1><${Problem} error=${new Error("This page cannot be loaded; is the server running?")} />` }),
    );
    return () => { current = false; };
  }, [page]);
  if (shown?.page !== page) return html`<p class="quiet">Loading.</p>`;
  return html`<${shown.component} info=${info} asked=${asked} wanted=${asked.with} />`;
}

// Whether somebody has to do something, on every page.
function Health() {
  const [state, error] = usePolled((signal) => get("health/ready", signal), HEALTH_MS);
  const broken = state?.training === "stopped";
  const [kind, words] = error ? ["bad", error.status ? error.message : "no answer"] : !state ? ["", "…"] : broken ? ["warn", "training has stopped"] : ["good", "ready"];
  return html`<span class="health" role="status" aria-label="Server"><${Tag} kind=${kind}>${words}<//></span>`;
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem("lorikeet-theme") ?? "auto");
  // Before anything is painted: a page in the other colours would flash.
  useLayoutEffect(() => {
    document.documentElement.style.colorScheme = THEMES[theme] ?? THEMES.auto;
    localStorage.setItem("lorikeet-theme", theme);
  }, [theme]);
  return html`<select class="theme" aria-label="Colours" onChange=${(event) => setTheme(event.target.value)}>
    ${Object.keys(THEMES).map((key) => html`<option key=${key} value=${key} selected=${key === theme}>${key}</option>`)}
  </select>`;
}

function Login({ error, onKey }) {
  const [text, setText] = useState("");
  const [bad, setBad] = useState(false);
  const enter = (event) => {
    event.preventDefault();
    const key = text.trim();
    const sendable = /^[\x21-\x7e]+$/.test(key);
    setBad(!sendable);
    if (!sendable) return;
    setKey(key);
    onKey();
  };
  return html`<form class="card login" onSubmit=${enter}>
    <h1>A key is needed</h1>
    <p>The console does what the key may do; most of it needs the scope <code>admin</code>. It is kept in this tab alone, until the tab is closed.</p>
    <${Text} label="API key" type="password" value=${text} onValue=${setText} />
    <${Problem} error=${bad ? "A key has letters, digits, - and _ alone; copy it again." : error} />
    <p><button type="submit" class="main">Enter</button></p>
  </form>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
