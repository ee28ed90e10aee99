/* What every part of the page uses: elements, state kept in the address, data read on demand. */
"use strict";

const DATA = window.SELFE_DATA;
const RESULTS = new Map(DATA.results.map((r) => [r.id, r]));
const LINES = new Map(DATA.lines.map((l) => [l.id, l]));
const TASK_NAMES = DATA.task_names;

/* An element. Text goes in as text nodes only: nothing that came from outside is ever parsed. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name in node && typeof value === "boolean") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "color") node.style.setProperty("--line", value);
    else node.setAttribute(name, value);
  }
  node.append(...children.flat(3).filter((c) => c !== null && c !== undefined));
  return node;
}

/* What stands in a node, anew; parts that are not there are passed over. */
function fill(node, ...children) {
  node.replaceChildren(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false && c !== ""));
}

const byId = (id) => document.getElementById(id);
const round3 = (v) => (v === null || v === undefined ? "" : v.toFixed(3).replace("-0.000", "0.000"));
const signed = (v) => (v === null || v === undefined ? "" : (v >= 0 ? "+" : "−") + round3(Math.abs(v)));
const interval = (v) => (v ? `${round3(v[0])} [${round3(v[1])}, ${round3(v[2])}]` : "");
const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const stepsWord = (n) => (n ? count(n, "step") : "made elsewhere");
const taskName = (task) => TASK_NAMES[task] || task;
const unique = (values) => [...new Set(values)];
const rising = (values) => unique(values).sort((a, b) => a - b);

/* ---------------------------------------------------------------- state, in the address */

const State = {
  values: {},
  listeners: [],
  read() {
    const text = location.hash.replace(/^#/, "");
    if (text && !text.includes("=")) return; // the name of a section: no choice changes
    const pairs = text.split("&").filter((p) => p.includes("="));
    this.values = {};
    for (const pair of pairs) {
      const place = pair.indexOf("=");
      try {
        this.values[pair.slice(0, place)] = decodeURIComponent(pair.slice(place + 1));
      } catch {
        /* an address that was cut in the middle of a letter: that value is left out */
      }
    }
  },
  get(name, otherwise = "") {
    return name in this.values ? this.values[name] : otherwise;
  },
  list(name) {
    const text = this.get(name);
    return text ? text.split(",") : [];
  },
  set(changes, quiet = false) {
    for (const [name, value] of Object.entries(changes)) {
      const text = Array.isArray(value) ? value.join(",") : value;
      if (text === null || text === undefined || text === "") delete this.values[name];
      else this.values[name] = String(text);
    }
    this.write();
    if (!quiet) this.tell(Object.keys(changes));
  },
  write() {
    const text = Object.keys(this.values).sort()
      .map((name) => `${name}=${encodeURIComponent(this.values[name])}`).join("&");
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  },
  link(changes) {
    const values = { ...this.values, ...changes };
    return "#" + Object.keys(values).sort().filter((name) => values[name] !== "")
      .map((name) => `${name}=${encodeURIComponent(values[name])}`).join("&");
  },
  tell(names) {
    for (const listener of this.listeners) listener(names);
  },
};

/* ---------------------------------------------------------------- what is shown */

const Shown = {
  protocol() {
    const wanted = State.get("p");
    return DATA.protocols.find((p) => p.id === wanted) || DATA.protocols[0];
  },
  results() {
    const id = (this.protocol() || {}).id;
    return DATA.results.filter((r) => r.protocol === id);
  },
  lines(kinds) {
    const id = (this.protocol() || {}).id;
    return DATA.lines.filter((l) => l.protocol === id && kinds.includes(l.kind));
  },
  /* Lines that are drawn: those chosen, else the page's own choice. */
  chosen() {
    const every = this.lines(["mean", "training"]);
    if ("lines" in State.values) {
      const wanted = new Set(State.list("lines"));
      return every.filter((l) => wanted.has(l.id));
    }
    return every.filter((l) => l.usual);
  },
};

/* ---------------------------------------------------------------- data on demand */

const Loader = {
  waiting: new Map(),
  ready: new Map(),
  load(name) {
    if (this.ready.has(name)) return Promise.resolve(this.ready.get(name));
    if (!this.waiting.has(name)) {
      let settle;
      const promise = new Promise((resolve, reject) => (settle = { resolve, reject }));
      const script = el("script", { src: `page/data/${name}.js` });
      script.onerror = () => {
        this.waiting.delete(name);
        settle.reject(new Error(`page/data/${name}.js cannot be read`));
      };
      this.waiting.set(name, { promise, settle });
      document.head.append(script);
    }
    return this.waiting.get(name).promise;
  },
  got(name, value) {
    this.ready.set(name, value);
    const entry = this.waiting.get(name);
    if (entry) entry.settle.resolve(value);
    this.waiting.delete(name);
  },
};
window.SELFE_GOT = (name, value) => Loader.got(name, value);

/* The method's name where that tells the lines apart, else the whole name. */
function shortName(line, among) {
  const alike = among.filter((other) => other.label === line.label);
  return line.label && alike.length <= 1 ? line.label : line.name;
}

function announce(text) {
  byId("live").textContent = text;
}

async function copy(text, button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    /* a page opened from a file may not write to the clipboard: the text is shown instead */
    window.prompt("Copy this:", text);
  }
  setTimeout(() => (button.textContent = said), 1500);
}

function choice(label, name, options, value, changed) {
  const select = el("select", { name, onchange: (e) => changed(e.target.value) },
    options.map(([key, words]) => el("option", { value: key, selected: String(key) === String(value) }, words)));
  return el("label", { class: "field" }, el("span", {}, label), select);
}

function chips(label, options, chosen, changed, single = false) {
  const group = el("div", { class: "chips", role: "group", "aria-label": label });
  for (const [key, words] of options) {
    group.append(el("button", {
      type: "button", class: "chip", "aria-pressed": String(chosen.includes(key)),
      onclick: () => {
        if (single) return changed([key]);
        const next = chosen.includes(key) ? chosen.filter((k) => k !== key) : [...chosen, key];
        changed(options.map(([k]) => k).filter((k) => next.includes(k)));
      },
    }, words));
  }
  return el("div", { class: "field" }, el("span", { "aria-hidden": "true" }, label), group);
}
