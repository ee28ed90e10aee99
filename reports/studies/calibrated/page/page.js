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

/* Line charts: intervals as bands, markers and dashes beside colours, values under the pointer. */

const MARKS = ["circle", "square", "triangle", "diamond", "down", "plus"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const colorOf = (line) => `var(--c${line.style % 10})`;
/* Whether a line was measured on trained models: those that were not are drawn hollow. */
const isHollow = (line) => line.kind === "paper" || line.kind === "exact";
const dashOf = (line) => (isHollow(line) ? "2 4" : DASHES[line.style % DASHES.length]);

function marker(kind, x, y, color, hollow) {
  const shapes = {
    circle: () => svg("circle", { cx: x, cy: y, r: 4 }),
    square: () => svg("rect", { x: x - 3.6, y: y - 3.6, width: 7.2, height: 7.2 }),
    triangle: () => svg("path", { d: `M${x} ${y - 4.6}L${x + 4.4} ${y + 3.4}H${x - 4.4}Z` }),
    diamond: () => svg("path", { d: `M${x} ${y - 5}L${x + 5} ${y}L${x} ${y + 5}L${x - 5} ${y}Z` }),
    down: () => svg("path", { d: `M${x} ${y + 4.6}L${x + 4.4} ${y - 3.4}H${x - 4.4}Z` }),
    plus: () => svg("path", { d: `M${x - 1.4} ${y - 4.6}h2.8v3.2h3.2v2.8h-3.2v3.2h-2.8v-3.2h-3.2v-2.8h3.2Z` }),
  };
  const node = shapes[kind]();
  node.setAttribute("class", hollow ? "mark hollow" : "mark");
  node.style.setProperty("--line", color);
  return node;
}

/* Ticks of a linear axis, five or so, at round numbers. */
function niceTicks(low, high, wanted = 5) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let v = Math.ceil(low / size - 1e-9) * size; v <= high + size * 1e-9; v += size) {
    ticks.push(Number(v.toPrecision(10)));
  }
  return ticks;
}

/* Of a logarithmic axis: 1, 2 and 5 times powers of ten; round numbers where those are too few. */
function logTicks(low, high) {
  const ticks = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    for (const m of [1, 2, 5]) if (m * power >= low && m * power <= high) ticks.push(m * power);
  }
  return ticks.length > 2 ? ticks : niceTicks(low, high, 4).filter((t) => t > 0);
}

const shortNumber = (v) =>
  v >= 1e6 ? `${Number((v / 1e6).toFixed(2))}M` : v >= 1e4 ? `${Number((v / 1e3).toFixed(1))}k` : String(Number(v.toPrecision(4)));

/*
 * series: [{line, points: [{x, y, low, high, note}]}]; options: xLabel, yLabel, log, logY, title,
 * xText(x), yMax. Redrawn by whoever calls when the width changes.
 */
function lineChart(box, series, options) {
  box.replaceChildren();
  const points = series.flatMap((s) => s.points);
  if (!points.length) {
    box.append(el("p", { class: "empty" }, options.empty || "No result has this figure."));
    return;
  }
  const width = Math.max(280, box.clientWidth), height = width < 520 ? 300 : 400;
  const names = series.map((s) => shortName(s.line, series.map((other) => other.line)));
  const longest = Math.min(28, Math.max(...names.map((name) => name.length)));
  const room = width >= 760 && series.length <= 12 ? 22 + 7.1 * longest : 12;
  const left = 46, top = 14, right = width - room, bottom = height - 44;
  const xs = rising(points.map((p) => p.x));
  const scaleX = options.log ? (v) => Math.log2(v) : (v) => v;
  let [x0, x1] = [scaleX(xs[0]), scaleX(xs[xs.length - 1])];
  if (x0 === x1) [x0, x1] = [x0 - 1, x1 + 1];
  const pad = options.log ? 0.04 * (x1 - x0) : 0;
  const placeX = (v) => left + 8 + ((scaleX(v) - x0 + pad) / (x1 - x0 + 2 * pad)) * (right - left - 16);
  const highs = points.map((p) => p.high ?? p.y), lows = points.map((p) => p.low ?? p.y);
  const scaleY = options.logY ? (v) => Math.log10(Math.max(v, 1e-12)) : (v) => v;
  let y1 = scaleY(Math.max(...highs)), y0 = options.logY ? scaleY(Math.min(...lows)) : 0;
  if (options.yMax) y1 = Math.min(options.yMax, Math.max(0.1, y1 * 1.06));
  if (y0 >= y1) y1 = y0 + 1;
  const placeY = (v) => bottom - ((scaleY(v) - y0) / (y1 - y0)) * (bottom - top);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, class: "chart", role: "img",
    "aria-label": `${options.title}. The values stand in the table below the chart.`,
  });
  const yTicks = options.logY
    ? logTicks(10 ** y0, 10 ** y1) : niceTicks(y0, y1, 5);
  for (const tick of yTicks) {
    picture.append(svg("line", { x1: left, x2: right, y1: placeY(tick), y2: placeY(tick), class: "grid" }),
      svg("text", { x: left - 8, y: placeY(tick) + 4, class: "tick end" }, shortNumber(tick)));
  }
  let last = -Infinity;
  for (const tick of options.log ? xs : niceTicks(x0, x1, Math.max(3, Math.floor(width / 160)))) {
    const x = placeX(tick);
    if (x - last < 26) continue;
    last = x;
    picture.append(svg("line", { x1: x, x2: x, y1: bottom, y2: bottom + 5, class: "axis" }),
      svg("text", { x, y: bottom + 18, class: "tick middle" }, options.xText ? options.xText(tick) : shortNumber(tick)));
  }
  picture.append(svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
    svg("text", { x: (left + right) / 2, y: height - 6, class: "name middle" }, options.xLabel));
  const rule = svg("line", { y1: top, y2: bottom, class: "rule" });
  rule.setAttribute("visibility", "hidden");
  picture.append(rule);
  const ends = [];
  series.forEach(({ line, points: own }, number) => {
    const color = colorOf(line), at = own.map((p) => [placeX(p.x), placeY(p.y)]);
    const group = svg("g", { color });
    const banded = own.filter((p) => p.low !== undefined && p.low !== null);
    if (State.get("bands", "1") === "1" && banded.length > 1) {
      const upper = banded.map((p) => `${placeX(p.x)},${placeY(p.high)}`);
      const lower = banded.map((p) => `${placeX(p.x)},${placeY(p.low)}`).reverse();
      group.append(svg("polygon", { points: [...upper, ...lower].join(" "), class: "band" }));
    } else if (State.get("bands", "1") === "1" && banded.length === 1) {
      const [p] = banded;
      group.append(svg("line", { x1: placeX(p.x), x2: placeX(p.x), y1: placeY(p.low), y2: placeY(p.high), class: "whisker" }));
    }
    group.append(svg("polyline", { points: at.map((p) => p.join(",")).join(" "), class: "line", "stroke-dasharray": dashOf(line) }));
    if (own.length <= 30) {
      for (const [x, y] of at) group.append(marker(MARKS[line.style % MARKS.length], x, y, color, isHollow(line)));
    }
    picture.append(group);
    const [x, y] = at[at.length - 1];
    ends.push({ x, y, at: y, line, name: names[number] });
  });
  if (room > 12) labelEnds(picture, ends, right, top, bottom);
  box.append(picture, legend(series.map((s) => s.line), room > 12));
  pointAt(box, picture, { series, xs, placeX, placeY, rule, options, width });
  box.append(valuesTable(series, xs, options));
}

/* Names beside the last points, moved apart where they would overlap. */
function labelEnds(picture, ends, right, top, bottom) {
  ends.sort((a, b) => a.y - b.y);
  for (let round = 0; round < 60; round++) {
    for (let i = 0; i + 1 < ends.length; i++) {
      const overlap = 15 - (ends[i + 1].at - ends[i].at);
      if (overlap > 0) { ends[i].at -= overlap / 2; ends[i + 1].at += overlap / 2; }
    }
    for (const end of ends) end.at = Math.min(bottom, Math.max(top, end.at));
  }
  for (const { at, line, name } of ends) {
    const text = svg("text", { x: right + 8, y: at + 4, class: "label" }, name.length > 28 ? name.slice(0, 27) + "…" : name);
    text.style.setProperty("--line", colorOf(line));
    picture.append(text);
  }
}

function legend(lines, hidden) {
  const list = el("ul", { class: hidden ? "legend visually-hidden" : "legend" });
  for (const line of lines) {
    const mark = svg("svg", { width: 26, height: 12, "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 26, y1: 6, y2: 6, class: "line", "stroke-dasharray": dashOf(line), color: colorOf(line) }),
      marker(MARKS[line.style % MARKS.length], 13, 6, colorOf(line), isHollow(line)));
    list.append(el("li", {}, mark, line.name));
  }
  return list;
}

/* Values under the pointer, or at the place that the arrow keys choose. */
function pointAt(box, picture, { series, xs, placeX, placeY, rule, options, width }) {
  const tip = el("div", { class: "tip", role: "status" });
  tip.hidden = true;
  box.append(tip);
  let place = -1;
  function show(next) {
    place = Math.max(0, Math.min(xs.length - 1, next));
    const x = xs[place];
    const found = series.map((s) => ({ line: s.line, p: s.points.find((p) => p.x === x) }))
      .filter((f) => f.p).sort((a, b) => b.p.y - a.p.y);
    rule.setAttribute("x1", placeX(x));
    rule.setAttribute("x2", placeX(x));
    rule.setAttribute("visibility", "visible");
    const rows = found.slice(0, 14).map(({ line, p }) => el("tr", {},
      el("td", {}, swatch(line), line.name),
      el("td", { class: "num" }, options.logY ? p.y.toPrecision(4) : round3(p.y)),
      el("td", { class: "num faint" }, p.low === undefined || p.low === null ? "" : `[${round3(p.low)}, ${round3(p.high)}]`),
      el("td", { class: "faint" }, p.note || "")));
    tip.replaceChildren(el("strong", {}, `${options.xText ? options.xText(x) : shortNumber(x)} ${options.xUnit || ""}`),
      el("table", {}, el("tbody", {}, rows)));
    tip.hidden = false;
    const at = placeX(x);
    const beside = at > width / 2 ? at - tip.offsetWidth - 14 : at + 14;
    tip.style.left = `${Math.max(0, Math.min(width - tip.offsetWidth, beside))}px`;
    tip.style.top = "10px";
  }
  function hide() {
    tip.hidden = true;
    rule.setAttribute("visibility", "hidden");
  }
  picture.addEventListener("pointermove", (event) => {
    const x = event.clientX - picture.getBoundingClientRect().left;
    let best = 0;
    xs.forEach((v, i) => { if (Math.abs(placeX(v) - x) < Math.abs(placeX(xs[best]) - x)) best = i; });
    show(best);
  });
  picture.addEventListener("pointerleave", hide);
  picture.setAttribute("tabindex", "0");
  picture.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(place + 1);
    else if (event.key === "ArrowLeft") show(place - 1);
    else return;
    event.preventDefault();
  });
  picture.addEventListener("blur", hide);
}

function swatch(line) {
  const node = el("span", { class: isHollow(line) ? "swatch hollow" : "swatch" });
  node.style.setProperty("--line", colorOf(line));
  return node;
}

function valuesTable(series, xs, options) {
  const shown = xs.length > 40 ? xs.filter((_, i) => i % Math.ceil(xs.length / 40) === 0) : xs;
  const head = el("tr", {}, el("th", { scope: "col" }, options.xLabel),
    series.map((s) => el("th", { scope: "col" }, s.line.name)));
  const rows = shown.map((x) => el("tr", {},
    el("th", { scope: "row" }, options.xText ? options.xText(x) : shortNumber(x)),
    series.map((s) => {
      const p = s.points.find((q) => q.x === x);
      return el("td", { class: "num" }, !p ? "" : p.low === undefined || p.low === null
        ? (options.logY ? p.y.toPrecision(4) : round3(p.y)) : interval([p.y, p.low, p.high]));
    })));
  return el("details", { class: "values" }, el("summary", {}, "The values as a table"),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of the chart" },
      el("table", { class: "data" }, el("thead", {}, head), el("tbody", {}, rows))));
}

/* A chart as a file of its own: colours are written out, for the page's variables stay behind. */
function saveChart(box, name) {
  const picture = box.querySelector("svg.chart");
  if (!picture) return;
  const copyOf = picture.cloneNode(true);
  const sources = [picture, ...picture.querySelectorAll("*")];
  [copyOf, ...copyOf.querySelectorAll("*")].forEach((node, i) => {
    const style = getComputedStyle(sources[i]);
    for (const property of ["fill", "stroke", "stroke-width", "fill-opacity", "font-size", "font-family", "text-anchor", "font-weight"]) {
      node.setAttribute(property, style.getPropertyValue(property));
    }
    node.removeAttribute("style");
  });
  copyOf.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const blob = new Blob([new XMLSerializer().serializeToString(copyOf)], { type: "image/svg+xml" });
  const link = el("a", { href: URL.createObjectURL(blob), download: `${name}.svg` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/* Tables that are sorted by their headers and filtered as one types. */

/*
 * columns: [{key, title, kind: "text"|"num"|"node", cell(row), sort(row), filter: true}]
 * A column with `filter` gets a list of its values beside the search field.
 */
function sortableTable(box, { id, columns, rows, caption, noun }) {
  let by = null, down = false, text = "";
  const picked = {};
  const body = el("tbody"), told = el("p", { class: "faint", role: "status" });
  const value = (c, row) => (c.sort ? c.sort(row) : row[c.key]);
  const words = (c, row) => String(c.text ? c.text(row) : row[c.key] ?? "");
  const heads = columns.map((c) => el("th", { scope: "col", class: c.kind === "num" ? "num" : "" },
    !c.title ? el("span", { class: "visually-hidden" }, c.name || "") : el("button", { type: "button", class: "sort", onclick: () => {
      down = by === c ? !down : c.kind === "num";
      by = c;
      draw();
    } }, c.title)));
  const search = el("input", {
    type: "search", placeholder: "Filter rows", "aria-label": `Filter rows: ${caption}`,
    oninput: (e) => { text = e.target.value.toLowerCase(); draw(); },
  });
  const selects = columns.filter((c) => c.filter).map((c) => {
    const found = unique(rows.map((r) => words(c, r)).filter(Boolean));
    const ordered = c.kind === "num" ? found.sort((a, b) => a - b) : found.sort();
    return ordered.length < 2 ? null : choice(c.title, `${id}-${c.key}`,
      [["", "all"], ...ordered.map((v) => [v, v])], "", (v) => { picked[c.key] = v; draw(); });
  });
  function draw() {
    const kept = rows.filter((row) =>
      columns.every((c) => !picked[c.key] || words(c, row) === picked[c.key]) &&
      (!text || columns.some((c) => words(c, row).toLowerCase().includes(text))));
    if (by) {
      const order = (a, b) => {
        const [x, y] = [value(by, a), value(by, b)];
        const [noX, noY] = [x === null || x === undefined || x === "", y === null || y === undefined || y === ""];
        if (noX || noY) return noX - noY;
        return (typeof x === "number" ? x - y : String(x).localeCompare(String(y))) * (down ? -1 : 1);
      };
      kept.sort(order);
    }
    columns.forEach((c, i) => {
      if (c === by) heads[i].setAttribute("aria-sort", down ? "descending" : "ascending");
      else heads[i].removeAttribute("aria-sort");
    });
    body.replaceChildren(...kept.map((row) => el("tr", { class: row.class || "" },
      columns.map((c) => el("td", { class: c.kind === "num" ? "num" : "" }, c.cell ? c.cell(row) : words(c, row))))));
    told.textContent = kept.length === rows.length ? count(rows.length, noun || "row")
      : `${kept.length} of ${count(rows.length, noun || "row")}`;
  }
  fill(box, 
    el("div", { class: "controls" }, el("label", { class: "field" }, el("span", {}, "Search"), search), selects, told),
    el("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": caption },
      el("table", { class: "data", id }, el("caption", { class: "visually-hidden" }, caption),
        el("thead", {}, el("tr", {}, heads)), body)));
  draw();
}

const scored = (key) => ({ kind: "num", sort: (r) => (r[key] ? r[key][0] : null), text: (r) => (r[key] ? round3(r[key][0]) : ""),
  cell: (r) => r[key] ? [round3(r[key][0]), r[key].length > 1 ? el("span", { class: "faint" }, ` [${round3(r[key][1])}, ${round3(r[key][2])}]`) : null] : "" });

function drawPaperTables() {
  const protocol = Shown.protocol();
  const holder = byId("paper-tables");
  holder.replaceChildren();
  for (const table of DATA.tables.filter((t) => protocol && t.protocol === protocol.id)) {
    const box = el("div");
    const plain = (key, title, filter) => ({ key, title, filter, kind: ["steps", "nfe", "iterations"].includes(key) ? "num" : "text", text: (r) => r[key] ?? "" });
    const columns = [plain("method", "Method", true), plain("steps", "Steps", true)];
    if (table.rows.some((r) => r.iterations)) columns.push(plain("iterations", "Iterations", true));
    columns.push({ key: "overall", title: "Overall", ...scored("overall") });
    for (const task of protocol.tasks) columns.push({ key: task, title: taskName(task), ...scored(task) });
    columns.push(plain("nfe", "NFE"), plain("guidance", "Guidance"), plain("settings", "Sampler"));
    if (table.rows.some((r) => r.paper)) columns.push({ key: "paper", title: "Paper", ...scored("paper") });
    holder.append(el("h3", {}, table.title), el("p", { class: "faint" }, table.words), box);
    sortableTable(box, { id: table.id, columns, rows: table.rows, caption: table.title, noun: "row" });
  }
  if (!holder.children.length) holder.append(el("p", { class: "empty" }, "No row of the paper's tables was measured under this protocol."));
}

/* A difference and its interval as a drawing: the line in the middle is no difference. */
function whisker(low, mean, high, reach) {
  const x = (v) => 60 + (v / reach) * 56;
  return svg("svg", { width: 120, height: 18, class: "whisker-cell", "aria-hidden": "true" },
    svg("line", { x1: 60, x2: 60, y1: 1, y2: 17, class: "zero" }),
    svg("line", { x1: x(low), x2: x(high), y1: 9, y2: 9, class: low > 0 || high < 0 ? "span sure" : "span" }),
    svg("circle", { cx: x(mean), cy: 9, r: 3.4, class: low > 0 || high < 0 ? "dot sure" : "dot" }));
}

function drawDifferences() {
  const protocol = Shown.protocol();
  const group = DATA.differences.find((d) => protocol && d.protocol === protocol.id);
  const box = byId("difference-table"), words = byId("difference-words");
  if (!group || !group.rows.length) {
    words.textContent = "";
    fill(box, el("p", { class: "empty" }, "There are no two complete results of the same prompts and steps to compare."));
    return;
  }
  words.textContent = group.words;
  const reach = Math.max(0.05, ...group.rows.map((r) => Math.max(Math.abs(r.delta[1]), Math.abs(r.delta[2]))));
  const rows = group.rows.map((r) => ({ ...r, ...{ class: r.verdict === "not resolved" ? "open" : "" } }));
  const name = (key, title) => ({ key, title, filter: true, text: (r) => LINES.get(r[key]).name });
  sortableTable(box, { id: "differences", caption: "Differences, paired over prompts", noun: "comparison", rows, columns: [
    name("line", "Configuration"),
    { key: "steps", title: "Steps", kind: "num", filter: true },
    { key: "score", title: "Score", kind: "num", cell: (r) => round3(r.score) },
    { key: "delta", title: "Difference [95% interval]", kind: "num", sort: (r) => r.delta[0], text: (r) => signed(r.delta[0]),
      cell: (r) => [signed(r.delta[0]), el("span", { class: "faint" }, ` [${signed(r.delta[1])}, ${signed(r.delta[2])}]`)] },
    { key: "drawing", title: "", name: "The interval as a drawing", text: () => "", cell: (r) => whisker(r.delta[1], r.delta[0], r.delta[2], reach) },
    { key: "p", title: "p", kind: "num", cell: (r) => r.p.toFixed(4) },
    { key: "adjusted", title: "p, adjusted", kind: "num", cell: (r) => r.adjusted.toFixed(4) },
    { key: "verdict", title: "Verdict", filter: true },
    { key: "see", title: "", name: "Images", text: () => "", cell: (r) => !r.result || !r.against ? "" : el("a", { class: "nowrap",
      href: State.link({ ga: r.result, gb: r.against, gv: "ab", gt: "" }),
      onclick: (e) => { e.preventDefault(); Gallery.show({ ga: r.result, gb: r.against, gv: "ab", gt: "" }); },
      "aria-label": `Images that ${LINES.get(r.line).name} got right and ${LINES.get(r.reference).name} wrong, ${stepsWord(r.steps)}`,
    }, "see images") },
  ] });
}

function drawDiversity() {
  const order = new Map(DATA.lines.map((line, i) => [line.id, i]));
  const results = Shown.results().filter((r) => r.diversity && r.final)
    .sort((a, b) => order.get(a.line) - order.get(b.line) || a.steps - b.steps);
  byId("diversity").hidden = !results.length;
  if (!results.length) return;
  const kinds = unique(results.flatMap((r) => Object.keys(r.diversity.kinds))).sort();
  const ratio = (v) => (v ? [round3(v[0]), el("span", { class: "faint" }, ` (${round3(v[1])})`)] : "");
  sortableTable(byId("diversity-table"), { id: "diversity-data", caption: "Diversity beside accuracy", noun: "result",
    rows: results.map((r) => ({ ...r, name: LINES.get(r.line).name })), columns: [
      { key: "name", title: "Configuration", filter: true },
      { key: "steps", title: "Steps", kind: "num", filter: true },
      { key: "overall", title: "Score", ...scored("overall") },
      { key: "tv", title: "Distance from the data", kind: "num", sort: (r) => r.diversity.all[0], text: (r) => round3(r.diversity.all[0]), cell: (r) => ratio(r.diversity.all) },
      ...kinds.map((kind) => ({ key: kind, title: kind[0].toUpperCase() + kind.slice(1), kind: "num",
        sort: (r) => (r.diversity.kinds[kind] || [null])[0], text: (r) => round3((r.diversity.kinds[kind] || [])[0]),
        cell: (r) => ratio(r.diversity.kinds[kind]) })),
    ] });
}

function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(([, v]) => v !== "" && v !== null && v !== undefined && v !== false)
    .map(([name, v]) => [el("dt", {}, name), el("dd", {}, v)]));
}

function provenance(r) {
  const button = el("button", { type: "button", class: "small", onclick: () => copy(r.command, button) }, "Copy");
  const protocol = DATA.protocols.find((p) => p.id === r.protocol);
  return facts([
    ["Score", r.overall ? interval(r.overall) : "none: not the complete set"],
    ["Steps, network evaluations", `${r.steps || "unknown"}, ${r.nfe || "unknown"}`],
    ["Sampling", [r.guidance && `guidance ${r.guidance}`, r.eta !== null && `eta ${r.eta}`, r.sampler].filter(Boolean).join(", ")],
    ["Seed of the benchmark", String(r.seed)],
    ["Images", `${r.num_images}${r.failed ? `, ${r.failed} not finite` : ""}${r.partial ? " (a part of the set)" : ""}`],
    ["Commit", r.commit], ["Machine", r.machine], ["Versions", r.versions],
    ["Command", r.command && [el("code", {}, r.command), " ", button]],
    ["Protocol", protocol.words], ["Lies in", el("code", {}, r.folder)], ["Model", el("code", {}, r.digest)],
  ]);
}

function drawConfigurations() {
  const holder = byId("configuration-list");
  const by = new Map();
  for (const r of Shown.results()) by.set(r.line, [...(by.get(r.line) || []), r]);
  fill(holder, Shown.lines(["training"]).map((line) => {
    const own = by.get(line.id) || [];
    const detail = el("details", { class: "configuration" }, el("summary", {}, swatch(line), el("strong", {}, line.name),
      el("span", { class: "faint" }, ` ${count(own.length, "result")}${line.changed.length ? ", changed: " + line.changed.join(", ") : ""}`)));
    detail.addEventListener("toggle", () => {
      if (!detail.open || detail.children.length > 1) return;
      detail.append(facts([
        ["What it changed", line.changed_known ? (line.changed.length ? el("ul", { class: "plain" }, line.changed.map((c) => el("li", {}, el("code", {}, c)))) : "nothing: as its recipe says") : "not recorded"],
        ["Recipe", line.recipe], ["Run", line.run], ["Training seed", line.seed], ["Precision", line.precision],
        ["Parameters", line.parameters && line.parameters.toLocaleString("en")], ["Started from", line.init_from],
        ["Other weights", line.other_weights], ["Under-trained", line.under_trained],
      ]), ...own.map((r) => el("details", {}, el("summary", {},
        `${stepsWord(r.steps)}${r.iterations ? `, ${r.iterations.toLocaleString("en")} iterations` : ""}: ${r.overall ? interval(r.overall) : "no score"}`), provenance(r))));
    });
    return detail;
  }));
}

/* The gallery: prompt x method x steps, same seed side by side; verdict, reason and detections. */

const BOX_COLORS = { red: "#e5383b", orange: "#f48c06", yellow: "#ffd60a", green: "#38b000", blue: "#3a86ff", purple: "#9d4edd", pink: "#ff70a6", brown: "#a47148", black: "#222", white: "#fff", gray: "#999", grey: "#999", cyan: "#00b4d8", teal: "#2a9d8f" };
const CARDS_AT_ONCE = 24;
const PAIRED = /^(ab|ba|differ|both|neither)$/;

const Gallery = {
  cards: [], drawn: 0, focus: -1, busy: 0, cells: [],

  lines() {
    const every = Shown.lines(["training"]).filter((l) => l.in_gallery);
    const wanted = new Set(State.list("gm"));
    const chosen = every.filter((l) => wanted.has(l.id));
    return chosen.length ? chosen : every.filter((l) => l.usual_gallery);
  },
  steps() {
    const every = rising(Shown.results().filter((r) => r.final).map((r) => r.steps));
    const wanted = State.list("gs").map(Number).filter((n) => every.includes(n));
    return wanted.length ? wanted : every.slice(0, 4);
  },
  at(line, steps) {
    return Shown.results().find((r) => r.line === line && r.steps === steps && r.final) || null;
  },
  pair() {
    const a = RESULTS.get(State.get("ga")), b = RESULTS.get(State.get("gb"));
    const id = (Shown.protocol() || {}).id;
    const fits = (r) => r && r.protocol === id;
    if (fits(a) && fits(b)) return [a, b];
    const [first, ...others] = this.lines();
    if (!first) return [null, null];
    /* Lines come in the order of the paper's methods: the first, and the first of another method. */
    const second = others.find((l) => l.method !== first.method) || others[0];
    const [one] = this.steps(), two = this.steps().at(-1);
    return second ? [this.at(first.id, one), this.at(second.id, one)] : [this.at(first.id, one), this.at(first.id, two)];
  },

  /* The results that the present view looks at: those in the matrix, and A and B. */
  async needed() {
    const [a, b] = State.get("gv").match(PAIRED) ? this.pair() : [null, null];
    const matrix = this.lines().map((line) => this.steps().map((n) => this.at(line.id, n)));
    const all = unique([...matrix.flat(), a, b].filter(Boolean));
    const loaded = await Promise.all(all.map((r) => Loader.load(`r-${r.id}`)));
    const verdicts = new Map(all.map((r, i) => [r.id, loaded[i]]));
    return { matrix, verdicts, a, b };
  },

  async update() {
    const turn = ++this.busy;
    const list = byId("cards"), protocol = Shown.protocol();
    if (!protocol || !this.lines().length) {
      fill(list, el("li", { class: "empty" }, "No result to look at yet."));
      return;
    }
    drawGalleryControls();
    let prompts, view;
    try {
      [prompts, view] = await Promise.all([Loader.load(`p-${protocol.id}`), this.needed()]);
    } catch (error) {
      fill(list, el("li", { class: "empty" }, String(error.message)));
      return;
    }
    if (turn !== this.busy) return; // another choice was made meanwhile
    this.view = view;
    this.prompts = new Map(prompts.prompts.map((p) => [p[0], p]));
    this.cards = this.filtered(prompts);
    this.drawn = 0;
    this.focus = -1;
    fill(list, );
    this.more();
    const all = prompts.images.length;
    const text = `${this.cards.length.toLocaleString("en")} of ${count(all, "row")} (a prompt with one seed each)`;
    byId("gallery-count").textContent = this.cards.length ? text : `${text}: nothing fits these filters`;
    announce(text);
  },

  filtered(prompts) {
    const { matrix, verdicts, a, b } = this.view;
    const task = State.get("gt"), mode = State.get("gv"), words = State.get("gq").toLowerCase();
    const shown = unique(matrix.flat().filter(Boolean)).map((r) => verdicts.get(r.id));
    const [va, vb] = [a, b].map((r) => r && verdicts.get(r.id));
    const [first, last] = State.list("gf").length === 2 ? State.list("gf").map(Number) : [this.steps()[0], this.steps().at(-1)];
    const flips = matrix.map((row) => [first, last].map((n) => row.find((r) => r && r.steps === n)))
      .filter(([x, y]) => x && y && x !== y).map((pair) => pair.map((r) => verdicts.get(r.id)));
    const got = (v, key) => (v && v.place.has(key) ? v.correct[v.place.get(key)] === "1" : null);
    const reason = (v, key) => (v.place.has(key) ? v.reasons[v.reason[v.place.get(key)]] : "");
    for (const v of verdicts.values()) {
      // no list of places: every image of the protocol is there, in its order
      if (!v.place) v.place = new Map(prompts.images.map((_, i) => [i, v.at ? v.at[i] : i]).filter(([, at]) => at >= 0));
    }
    const kept = [];
    for (let key = 0; key < prompts.images.length; key++) {
      const [promptId, sample] = prompts.images[key];
      const [, tag, caption] = this.prompts.get(promptId);
      if (task && tag !== task) continue;
      const states = shown.map((v) => got(v, key));
      if (!states.some((s) => s !== null) && got(va, key) === null) continue;
      if (mode === "wrong" && !states.includes(false)) continue;
      if (mode === "allwrong" && (states.includes(true) || !states.includes(false))) continue;
      if (mode === "right" && (states.includes(false) || !states.includes(true))) continue;
      if (mode === "ab" && !(got(va, key) === true && got(vb, key) === false)) continue;
      if (mode === "ba" && !(got(va, key) === false && got(vb, key) === true)) continue;
      if (mode === "differ" && (got(va, key) === null || got(vb, key) === null || got(va, key) === got(vb, key))) continue;
      if (mode === "both" && !(got(va, key) === true && got(vb, key) === true)) continue;
      if (mode === "neither" && !(got(va, key) === false && got(vb, key) === false)) continue;
      if (mode === "flip" && !flips.some(([x, y]) => got(x, key) !== null && got(y, key) !== null && got(x, key) !== got(y, key))) continue;
      if (words && !`${caption} ${promptId}`.toLowerCase().includes(words) &&
          !shown.some((v) => reason(v, key).toLowerCase().includes(words))) continue;
      kept.push({ key, promptId, sample, tag, caption });
    }
    return kept;
  },

  more() {
    const list = byId("cards"), next = this.cards.slice(this.drawn, this.drawn + CARDS_AT_ONCE);
    for (const card of next) list.append(this.card(card, this.drawn++));
    byId("more").hidden = this.drawn >= this.cards.length;
  },

  card(card, number) {
    const { matrix, verdicts, a, b } = this.view, steps = this.steps(), lines = this.lines();
    const grid = el("div", { class: "matrix" });
    grid.style.setProperty("--columns", steps.length);
    grid.append(el("span"), ...steps.map((n) => el("span", { class: "head" }, n ? String(n) : "—")));
    lines.forEach((line, row) => {
      grid.append(el("span", { class: "who", title: line.name }, swatch(line), shortName(line, lines)));
      steps.forEach((n, column) => {
        const r = matrix[row][column];
        grid.append(r ? this.cell(card, r, verdicts.get(r.id)) : el("span", { class: "none", title: "not run" }));
      });
    });
    const extra = [a, b].filter((r) => r && !matrix.flat().includes(r));
    for (const r of extra) {
      grid.append(el("span", { class: "who" }, `${r === a ? "A" : "B"}: ${resultName(r)}`), this.cell(card, r, verdicts.get(r.id)),
        ...steps.slice(1).map(() => el("span")));
    }
    const item = el("li", { class: "card", tabindex: "-1", id: `card-${number}` },
      el("h3", {}, card.caption || `Prompt ${card.promptId}`),
      el("p", { class: "faint" }, `${taskName(card.tag)} · prompt ${card.promptId} · seed ${card.sample}`), grid);
    return item;
  },

  cell(card, r, data) {
    const place = data.place.get(card.key);
    if (place === undefined) return el("span", { class: "none", title: "this image was not scored" });
    const right = data.correct[place] === "1", why = data.reasons[data.reason[place]];
    const mark = this.view.a === r ? "A" : this.view.b === r ? "B" : "";
    const words = `${mark ? mark + ", " : ""}${resultName(r)}: ${right ? "right" : "wrong"}${why ? ": " + why : ""}`;
    return el("button", { type: "button", class: `cell ${right ? "right" : "wrong"}`, "aria-label": words, title: words,
      onclick: () => Detail.open(card, r) },
      picture(data, place, 76), el("span", { class: "badge", "aria-hidden": "true" }, right ? "✓" : "✕"),
      mark && el("span", { class: "letter", "aria-hidden": "true" }, mark));
  },

  move(by) {
    if (!this.cards.length) return;
    this.focus = Math.max(0, Math.min(this.cards.length - 1, this.focus + by));
    while (this.drawn <= this.focus) this.more();
    const card = byId(`card-${this.focus}`);
    card.scrollIntoView({ block: "center" });
    card.focus({ preventScroll: true });
  },

  show(changes) {
    State.set(changes);
    byId("gallery").scrollIntoView();
  },
};

const resultName = (r) => `${LINES.get(r.line).name}, ${stepsWord(r.steps)}`;

/* An image from its sheet, with the boxes over it where they are asked for. */
function picture(data, place, size, boxes = State.get("boxes") === "1") {
  const holder = el("span", { class: "picture" });
  const slot = data.slot[place], [w, h] = data.size[data.size.length > 1 ? place : 0];
  if (slot >= 0) {
    const sheet = DATA.sheets[Math.floor(slot / DATA.per_sheet)], inSheet = slot % DATA.per_sheet;
    const column = inSheet % sheet.columns, row = Math.floor(inSheet / sheet.columns);
    const rows = sheet.rows;
    holder.style.backgroundImage = `url("page/sprites/${sheet.file}")`;
    holder.style.backgroundSize = `${sheet.columns * 100}% ${rows * 100}%`;
    holder.style.backgroundPosition = `${sheet.columns > 1 ? (100 * column) / (sheet.columns - 1) : 0}% ${rows > 1 ? (100 * row) / (rows - 1) : 0}%`;
    if (DATA.sprite_edge <= 64) holder.classList.add("small-pixels");
  } else {
    holder.classList.add("blank");
  }
  const found = data.found[place] || [];
  if ((boxes || slot < 0) && found.length && w) {
    const layer = svg("svg", { viewBox: `0 0 ${w} ${h}`, class: "boxes", "aria-hidden": "true", preserveAspectRatio: "none" });
    for (const [label, color, , x1, y1, x2, y2] of found) {
      const shade = BOX_COLORS[data.words[color]] || "#ff2bd6";
      const box = { x: x1, y: y1, width: Math.max(0.5, x2 - x1), height: Math.max(0.5, y2 - y1) };
      layer.append(svg("rect", { ...box, class: "halo" }), svg("rect", { ...box, class: slot < 0 ? "box filled" : "box", color: shade }));
      if (size > 200) {
        const name = [data.words[color], data.words[label]].filter(Boolean).join(" ");
        layer.append(svg("text", { x: x1 + w / 120, y: Math.max(h / 22, y1 - h / 90), "font-size": h / 22, class: "box-name" }, name));
      }
    }
    holder.append(layer);
  }
  return holder;
}

/* ---------------------------------------------------------------- one image, large */

const Detail = {
  card: null, result: null,
  open(card, r) {
    this.card = card;
    this.result = r;
    const dialog = byId("detail");
    this.draw();
    if (!dialog.open) dialog.showModal();
    State.set({ open: `${r.id}.${card.promptId}.${card.sample}` }, true);
  },
  draw() {
    const { card, result: r } = this, data = Gallery.view.verdicts.get(r.id), place = data.place.get(card.key);
    const right = data.correct[place] === "1", boxes = State.get("boxes", "") === "1";
    const found = data.found[place] || [];
    const stage = el("div", { class: "stage" }, picture(data, place, 400, boxes));
    const toggle = el("button", { type: "button", "aria-pressed": String(boxes), onclick: () => { toggleBoxes(); this.draw(); } }, "Boxes (b)");
    const link = el("button", { type: "button", onclick: () => copy(location.href, link) }, "Copy link");
    const peers = el("div", { class: "peers" }, Gallery.view.matrix.flat().filter(Boolean).map((other) => {
      const its = Gallery.view.verdicts.get(other.id), at = its.place.get(card.key);
      if (at === undefined) return null;
      const good = its.correct[at] === "1";
      return el("button", { type: "button", class: `peer ${good ? "right" : "wrong"}`, "aria-current": other === r ? "true" : null,
        "aria-label": `${resultName(other)}: ${good ? "right" : "wrong"}`, title: resultName(other), onclick: () => this.open(card, other) },
        picture(its, at, 48), el("span", { class: "badge", "aria-hidden": "true" }, good ? "✓" : "✕"));
    }));
    fill(byId("detail-body"), 
      el("div", { class: "detail-picture" }, stage, el("div", { class: "row" }, toggle, link), peers),
      el("div", { class: "detail-words" },
        el("h2", { id: "detail-title" }, card.caption || `Prompt ${card.promptId}`),
        el("p", { class: `verdict ${right ? "right" : "wrong"}` }, el("strong", {}, right ? "✓ Right" : "✕ Wrong"),
          data.reasons[data.reason[place]] && `: ${data.reasons[data.reason[place]]}`),
        el("p", {}, `${resultName(r)} · ${taskName(card.tag)} · prompt ${card.promptId}, seed ${card.sample}`),
        data.slot[place] < 0 && el("p", { class: "faint" }, "The image was not kept: what the detector found in it is drawn in its place."),
        data.has_found ? el("h3", {}, found.length ? "Detected" : "Nothing was detected") : null,
        found.length > 0 && el("table", { class: "data" }, el("thead", {}, el("tr", {}, ["Object", "Colour", "Score", "Box"].map((t) => el("th", { scope: "col" }, t)))),
          el("tbody", {}, found.map(([label, color, score, ...box]) => el("tr", {}, el("td", {}, data.words[label]), el("td", {}, data.words[color] || ""),
            el("td", { class: "num" }, score.toFixed(2)), el("td", { class: "num faint" }, box.map((v) => Math.round(v)).join(", ")))))),
        el("details", {}, el("summary", {}, "Where this comes from"), provenance(r))));
  },
  /* Left and right: methods and steps of this prompt; up and down: the prompts. */
  step(by) {
    const cells = Gallery.view.matrix.flat().filter((r) => r && Gallery.view.verdicts.get(r.id).place.has(this.card.key));
    const next = cells[(cells.indexOf(this.result) + by + cells.length) % cells.length];
    if (next) this.open(this.card, next);
  },
  prompt(by) {
    const place = Gallery.cards.indexOf(this.card) + by;
    const card = Gallery.cards[place];
    if (card && Gallery.view.verdicts.get(this.result.id).place.has(card.key)) this.open(card, this.result);
  },
  closed() {
    this.card = null;
    State.set({ open: "" }, true);
  },
  restore() {
    const [id, prompt, sample] = State.get("open").split(".");
    const r = RESULTS.get(id);
    if (!r || !Gallery.view || !Gallery.view.verdicts.has(id)) return;
    const card = Gallery.cards.find((c) => c.promptId === Number(prompt) && c.sample === Number(sample));
    if (card && Gallery.view.verdicts.get(id).place.has(card.key)) this.open(card, r);
  },
};

function toggleBoxes() {
  State.set({ boxes: State.get("boxes") === "1" ? "" : "1" });
}

function drawGalleryControls() {
  const box = byId("gallery-controls"), protocol = Shown.protocol();
  const kept = document.activeElement && box.contains(document.activeElement) ? document.activeElement.getAttribute("name") : null;
  const every = Shown.lines(["training"]).filter((l) => l.in_gallery);
  const steps = rising(Shown.results().filter((r) => r.final).map((r) => r.steps));
  const mode = State.get("gv"), [a, b] = Gallery.pair();
  const options = Shown.results().filter((r) => r.final).map((r) => [r.id, resultName(r)]);
  const paired = PAIRED.test(mode);
  const word = (r) => (r ? shortName(LINES.get(r.line), [a, b].map((q) => LINES.get(q.line)).filter((l, i, all) => all.indexOf(l) === i)) : "");
  const views = [];
  if (a && b && a !== b) {
    const suffix = a.line === b.line ? (r) => ` at ${stepsWord(r.steps)}` : () => "";
    views.push([`${word(a)}${suffix(a)} right, ${word(b)}${suffix(b)} wrong`, { gv: "ab", ga: a.id, gb: b.id, gt: "" }]);
    views.push([`${word(b)}${suffix(b)} right, ${word(a)}${suffix(a)} wrong`, { gv: "ba", ga: a.id, gb: b.id, gt: "" }]);
  }
  const here = Gallery.steps();
  if (DATA.start.gv === "differ" && a && b && a.line !== b.line) {
    for (const n of here) {
      const [x, y] = [a, b].map((r) => Gallery.at(r.line, n));
      if (x && y) views.push([`${word(x)} and ${word(y)} differ at ${stepsWord(n)}`, { gv: "differ", ga: x.id, gb: y.id, gt: "" }]);
    }
  }
  if (here.length > 1) views.push([`Flipped between ${here[0]} and ${here.at(-1)} steps`, { gv: "flip", gf: [here[0], here.at(-1)], gt: "" }]);
  for (const task of protocol.tasks.includes("counting") ? ["counting"] : protocol.tasks.slice(0, 1)) {
    views.push([`All failures of ${taskName(task).toLowerCase()}`, { gv: "wrong", gt: task }]);
  }
  views.push(["Nobody got it right", { gv: "allwrong", gt: "" }], ["Everything", { gv: "", gt: "", gq: "" }]);
  const active = (changes) => Object.entries(changes).every(([k, v]) => State.get(k) === String(v) || (k === "ga" || k === "gb") && [a, b].some((r) => r && r.id === v));
  const link = el("button", { type: "button", class: "small", onclick: () => copy(location.href, link) }, "Copy link to this view");
  fill(box, 
    el("div", { class: "chips views", role: "group", "aria-label": "Saved views" }, views.map(([words, changes]) =>
      el("button", { type: "button", class: "chip", "aria-pressed": String(active(changes)), onclick: () => State.set(changes) }, words))),
    el("div", { class: "controls" },
      el("label", { class: "field wide" }, el("span", {}, "Search prompts and reasons ( / )"),
        el("input", { type: "search", name: "gq", id: "gallery-search", value: State.get("gq"),
          oninput: (e) => { clearTimeout(Gallery.timer); Gallery.timer = setTimeout(() => State.set({ gq: e.target.value }), 150); } })),
      choice("Task", "gt", [["", "all tasks"], ...protocol.tasks.map((t) => [t, taskName(t)])], State.get("gt"), (v) => State.set({ gt: v })),
      choice("Verdict", "gv", [["", "any"], ["wrong", "something wrong"], ["allwrong", "everything wrong"], ["right", "everything right"], ["flip", "flipped between steps"], ["ab", "A right, B wrong"], ["ba", "B right, A wrong"], ["differ", "A and B differ"], ["both", "A and B right"], ["neither", "A and B wrong"]], mode, (v) => State.set({ gv: v })),
      paired && choice("A", "ga", options, a && a.id, (v) => State.set({ ga: v, gb: b.id })),
      paired && choice("B", "gb", options, b && b.id, (v) => State.set({ gb: v, ga: a.id })),
      mode === "flip" && ["first", "last"].map((which, i) => choice(which === "first" ? "Between" : "and", `gf-${which}`, steps.map((n) => [n, stepsWord(n)]),
        (State.list("gf")[i] || (i ? here.at(-1) : here[0])), (v) => { const now = State.list("gf").length === 2 ? State.list("gf") : [here[0], here.at(-1)]; now[i] = v; State.set({ gf: now }); }))),
    el("div", { class: "controls" },
      every.length <= 8
        ? chips("Methods", every.map((l) => [l.id, l.name]), Gallery.lines().map((l) => l.id), (v) => State.set({ gm: v }))
        : linePicker("Methods", every, Gallery.lines(), (v) => State.set({ gm: v })),
      steps.length > 1 && chips("Steps", steps.map((n) => [n, String(n)]), Gallery.steps(), (v) => State.set({ gs: v })),
      el("button", { type: "button", class: "chip", "aria-pressed": String(State.get("boxes") === "1"), onclick: toggleBoxes }, "Boxes (b)"), link));
  if (kept) {
    const again = box.querySelector(`[name="${kept}"]`);
    if (again) {
      again.focus();
      if (again.type === "search") again.setSelectionRange(again.value.length, again.value.length);
    }
  }
}

/* The sections of scores, and what binds the page together: choices, keyboard, live results. */

/* Which lines are drawn: a list with a search field, where chips would be too many. */
function linePicker(label, every, chosen, changed) {
  const picked = new Set(chosen.map((l) => l.id));
  const list = el("ul", { class: "picker-list" });
  const items = every.map((line) => {
    const box = el("input", { type: "checkbox", checked: picked.has(line.id), onchange: () => {
      if (box.checked) picked.add(line.id); else picked.delete(line.id);
      changed(every.map((l) => l.id).filter((id) => picked.has(id)));
    } });
    return [line, el("li", {}, el("label", {}, box, swatch(line), line.name))];
  });
  list.append(...items.map(([, node]) => node));
  const search = el("input", { type: "search", "aria-label": `Search ${label.toLowerCase()}`, placeholder: "Search",
    oninput: (e) => { for (const [line, node] of items) node.hidden = !line.name.toLowerCase().includes(e.target.value.toLowerCase()); } });
  const details = el("details", { class: "picker" }, el("summary", {}, `${label}: ${chosen.length} of ${every.length}`),
    el("div", { class: "picker-body" }, every.length > 8 && search,
      el("div", { class: "row" },
        el("button", { type: "button", class: "small", onclick: () => changed(every.map((l) => l.id)) }, "All"),
        el("button", { type: "button", class: "small", onclick: () => changed(["none"]) }, "None"),
        el("button", { type: "button", class: "small", onclick: () => changed([]) }, "Usual")), list));
  details.open = linePicker.open === label;
  details.addEventListener("toggle", () => { linePicker.open = details.open ? label : linePicker.open === label ? "" : linePicker.open; });
  return details;
}

const AXES = {
  steps: { name: "Sampling steps", of: (r) => r.steps || null, log: true, unit: "steps", text: (v) => String(v) },
  nfe: { name: "Network evaluations (NFE)", of: (r) => r.nfe || null, log: true, unit: "evaluations", text: (v) => String(v) },
  iterations: { name: "Training iterations", of: (r) => r.iterations, unit: "iterations" },
  seconds: { name: "Training time", of: (r) => r.seconds, unit: "" },
};

function timeText(seconds) {
  if (seconds >= 5400) return `${Number((seconds / 3600).toPrecision(3))} h`;
  return seconds >= 90 ? `${Number((seconds / 60).toPrecision(3))} min` : `${Number(seconds.toPrecision(3))} s`;
}

function scoreOf(r, metric) {
  return metric === "overall" ? (r.partial ? null : r.overall) : (r.tasks[metric] || null);
}

function scoreSeries(axis, metric, at) {
  const protocol = Shown.protocol(), progress = axis === "iterations" || axis === "seconds";
  const measured = [...Shown.results(), ...DATA.means.filter((m) => m.protocol === protocol.id)];
  const series = Shown.chosen().map((line) => {
    const own = measured.filter((r) => r.line === line.id && (progress ? r.steps === at : r.final));
    const points = own.map((r) => [AXES[axis].of(r), scoreOf(r, metric), r])
      .filter(([x, y]) => x !== null && x !== undefined && y)
      .map(([x, y, r]) => ({ x, y: y[0], low: y[1], high: y[2], note: progress ? "" : axis === "nfe" ? stepsWord(r.steps) : `${r.nfe} NFE` }))
      .sort((p, q) => p.x - q.x);
    return { line, points };
  });
  if (State.get("paper") === "1" && axis === "steps") {
    for (const line of DATA.paper) {
      const points = line.points.filter((p) => p[metric] !== undefined).map((p) => ({ x: p.steps, y: p[metric], note: "as printed" }));
      if (points.length) series.push({ line, points });
    }
  }
  if (State.get("room") === "1" && axis === "steps") {
    for (const line of DATA.exact.filter((l) => l.protocol === protocol.id)) {
      const points = line.points.filter((p) => p[metric]).map((p) => ({ x: p.steps, y: p[metric][0], low: p[metric][1], high: p[metric][2] }));
      if (points.length) series.push({ line, points });
    }
  }
  return series.filter((s) => s.points.length);
}

function drawScores() {
  const protocol = Shown.protocol();
  if (!protocol) return;
  const results = Shown.results(), axis = State.get("x", "steps"), metric = State.get("y", "overall");
  const every = Shown.lines(["mean", "training"]);
  const finals = rising(results.map((r) => r.steps).filter(Boolean));
  const at = Number(State.get("at")) || finals[0];
  const progress = axis === "iterations" || axis === "seconds";
  const axes = Object.entries(AXES).filter(([key, a]) => key === "seconds" ? results.some((r) => r.seconds) : results.some((r) => a.of(r)))
    .map(([key, a]) => [key, a.name]);
  const save = el("button", { type: "button", class: "small", onclick: () => saveChart(byId("score-chart"), `scores-${axis}`) }, "Save as SVG");
  const toggle = (key, words, standard = "") => {
    const on = State.get(key, standard) === "1";
    return el("button", { type: "button", class: "chip", "aria-pressed": String(on), onclick: () => State.set({ [key]: on ? (standard ? "0" : "") : (standard ? "" : "1") }) }, words);
  };
  fill(byId("score-controls"), 
    choice("Score", "y", [["overall", "Overall"], ...protocol.tasks.map((t) => [t, taskName(t)])], metric, (v) => State.set({ y: v === "overall" ? "" : v })),
    choice("against", "x", axes, axis, (v) => State.set({ x: v === "steps" ? "" : v })),
    progress && finals.length > 1 && chips("at steps", finals.map((n) => [n, String(n)]), [at], ([v]) => State.set({ at: v }), true),
    linePicker("Configurations", every, Shown.chosen(), (ids) => State.set({ lines: ids })),
    toggle("bands", "Intervals", "1"), axis === "steps" && toggle("paper", "The paper’s figures"),
    axis === "steps" && DATA.exact.some((l) => l.protocol === protocol.id) && toggle("room", "Headroom"), save);
  lineChart(byId("score-chart"), scoreSeries(axis, metric, at), {
    title: `${metric === "overall" ? "Overall score" : taskName(metric)} against ${AXES[axis].name.toLowerCase()}`,
    xLabel: AXES[axis].name + (progress ? ` (scored at ${stepsWord(at)})` : ""), xUnit: AXES[axis].unit,
    log: AXES[axis].log, yMax: 1.0, xText: axis === "seconds" ? timeText : AXES[axis].text,
    empty: "None of the chosen configurations has this figure.",
  });
  byId("score-words").textContent = [protocol.words,
    DATA.means.length && Shown.chosen().some((l) => l.kind === "mean") ? "Means over training seeds: intervals hold for other seeds and prompts alike. Single trainings: for other prompts only." : "Intervals are of 95%, clustered by prompt.",
    State.get("paper") === "1" && axis === "steps" ? `The paper's figures are of another protocol (${DATA.paper_name}), shown beside and not compared.` : "",
    State.get("room") === "1" && axis === "steps" ? "Flow Matching, exact, is a model that has learnt this world perfectly, drawn without guidance. Headroom is 1 minus its score: what a number of steps leaves to be won by other methods." : ""].join(" ");
}

function drawTasks() {
  const protocol = Shown.protocol(), box = byId("task-bars");
  if (!protocol) return;
  const results = Shown.results(), steps = rising(results.filter((r) => r.final).map((r) => r.steps));
  const at = Number(State.get("ts")) || steps[0];
  fill(byId("task-controls"), steps.length > 1 ? chips("at steps", steps.map((n) => [n, stepsWord(n)]), [at], ([v]) => State.set({ ts: v }), true) : "");
  const measured = [...results, ...DATA.means.filter((m) => m.protocol === protocol.id)];
  const rows = Shown.chosen().map((line) => [line, measured.find((r) => r.line === line.id && r.final && r.steps === at)]).filter(([, r]) => r);
  fill(box, protocol.tasks.map((task) => el("section", { class: "bars" }, el("h3", {}, taskName(task)),
    rows.map(([line, r]) => {
      const v = r.tasks[task];
      const bar = el("span", { class: "bar" });
      if (v) {
        const fill = el("span", { class: "fill" }), span = el("span", { class: "span" });
        fill.style.setProperty("--line", colorOf(line));
        fill.style.width = `${100 * v[0]}%`;
        span.style.left = `${100 * v[1]}%`;
        span.style.width = `${100 * (v[2] - v[1])}%`;
        bar.append(fill, span);
      }
      return el("div", { class: "bar-row" }, el("span", { class: "bar-name", title: line.name }, line.name), bar,
        el("span", { class: "num", title: v ? interval(v) : "" }, v ? round3(v[0]) : "–"));
    }))));
  if (!rows.length) box.append(el("p", { class: "empty" }, `None of the chosen configurations was scored at ${stepsWord(at)}.`));
}

function drawTraining() {
  const section = byId("training");
  section.hidden = !DATA.runs.length;
  if (section.hidden) return;
  const metrics = unique(DATA.runs.flatMap((r) => Object.keys(r.curves)));
  const metric = metrics.includes(State.get("ty")) ? State.get("ty") : metrics.includes("loss") ? "loss" : metrics[0];
  const chosen = State.list("runs");
  const runs = DATA.runs.filter((r) => (chosen.length ? chosen.includes(r.id) : r.usual));
  fill(byId("training-controls"), 
    metrics.length > 1 ? choice("Curve", "ty", metrics.map((m) => [m, m.replaceAll("_", " ")]), metric, (v) => State.set({ ty: v })) : "",
    linePicker("Runs", DATA.runs, runs, (ids) => State.set({ runs: ids })));
  lineChart(byId("training-chart"), runs.filter((r) => r.curves[metric]).map((r) => ({ line: r, points: r.curves[metric].map(([x, y]) => ({ x, y })) })), {
    title: `${metric} against training iterations`, xLabel: "Training iterations", xUnit: "iterations",
    logY: runs.every((r) => (r.curves[metric] || []).every(([, y]) => y > 0)), empty: "Nothing is recorded yet.",
  });
  fill(byId("training-sheets"), runs.filter((r) => r.sheets.length).map((r) => el("figure", {},
    el("figcaption", {}, el("strong", {}, r.name), ` ${r.state}`, el("span", { class: "faint" }, " · rows 1, 2, 4 and 8 steps, columns prompts")),
    el("div", { class: "sheet-strip", tabindex: "0", role: "region", "aria-label": `Sample sheets of ${r.name}` },
      r.sheets.map(([step, file]) => el("div", { class: "sheet" }, el("img", { src: `page/sheets/${file}`, loading: "lazy", alt: `Samples of ${r.name} at iteration ${step}` }),
        el("span", { class: "faint" }, `iteration ${step.toLocaleString("en")}`)))))));
}

function drawEverything() {
  const several = DATA.protocols.length > 1;
  fill(byId("protocol-choice"), several
    ? choice("Protocol", "p", DATA.protocols.map((p) => [p.id, p.name]), (Shown.protocol() || {}).id, (v) => State.set({ p: v, lines: "", gm: "", gs: "", gt: "", ga: "", gb: "", gv: "", at: "", ts: "", y: "" }))
    : "");
  const present = Shown.protocol();
  for (const node of document.querySelectorAll("[data-protocol]")) node.hidden = Boolean(present) && node.dataset.protocol !== present.id;
  drawScores();
  // what lies below the first screen is drawn once that is painted
  const below = [drawTasks, drawDifferences, drawPaperTables, drawDiversity, drawTraining, drawConfigurations];
  requestAnimationFrame(() => setTimeout(() => below.forEach((draw) => draw()), 0));
}

const SCORE_KEYS = ["x", "y", "at", "lines", "paper", "room", "bands"];
const GALLERY_KEYS = ["gm", "gs", "gt", "gv", "ga", "gb", "gq", "gf", "boxes"];

function changed(names) {
  if (names.includes("p")) drawEverything();
  else {
    if (names.some((n) => SCORE_KEYS.includes(n))) drawScores();
    if (names.includes("lines") || names.includes("ts")) drawTasks();
    if (names.some((n) => n === "ty" || n === "runs")) drawTraining();
  }
  if (names.includes("p") || names.some((n) => GALLERY_KEYS.includes(n))) return Gallery.update();
  return Promise.resolve();
}

/* ---------------------------------------------------------------- keyboard, light and dark */

/* To a section. What lies above may take its true height only once it is passed: then again. */
function goTo(id, times = 8) {
  const node = byId(id);
  node.scrollIntoView({ behavior: "instant" });
  const there = node.getBoundingClientRect().top;
  requestAnimationFrame(() => requestAnimationFrame(() => {
    if (times && Math.abs(node.getBoundingClientRect().top - there) > 1) goTo(id, times - 1);
  }));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input, select, textarea");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  const detail = byId("detail"), help = byId("help");
  const inDetail = { ArrowLeft: () => Detail.step(-1), ArrowRight: () => Detail.step(1), j: () => Detail.prompt(1), k: () => Detail.prompt(-1), ArrowDown: () => Detail.prompt(1), ArrowUp: () => Detail.prompt(-1), b: () => { toggleBoxes(); Detail.draw(); } };
  const outside = {
    j: () => Gallery.move(1), k: () => Gallery.move(-1), b: toggleBoxes,
    "/": () => { goTo("gallery"); byId("gallery-search").focus({ preventScroll: true }); },
    "?": () => help.showModal(),
    Enter: () => {
      const card = document.activeElement && document.activeElement.closest(".card");
      if (card === document.activeElement && card) card.querySelector(".cell").click();
      else return true;
    },
  };
  if (help.open) return;
  const act = (detail.open ? inDetail : outside)[event.key];
  if (act && act() !== true) event.preventDefault();
}

function theme() {
  const button = byId("theme"), modes = ["auto", "light", "dark"];
  let mode = "auto";
  try { mode = localStorage.getItem("selfe-theme") || "auto"; } catch { /* kept nowhere: a page from a file may not */ }
  const apply = () => {
    if (mode === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = mode;
    button.textContent = { auto: "Light or dark: as the system", light: "Light", dark: "Dark" }[mode];
  };
  button.addEventListener("click", () => {
    mode = modes[(modes.indexOf(mode) + 1) % 3];
    try { localStorage.setItem("selfe-theme", mode); } catch { /* as above */ }
    apply();
  });
  apply();
}

/* ---------------------------------------------------------------- a served page stays up to date */

async function live() {
  const mark = document.documentElement.dataset.live;
  if (!mark) return;
  try {
    const answer = await fetch("live.json", { cache: "no-store" });
    const now = await answer.json();
    byId("live-state").textContent = now.state;
    if (live.runs !== undefined && now.runs !== live.runs && now.version === mark) {
      DATA.runs = await (await fetch("runs.json", { cache: "no-store" })).json();
      drawTraining();
    }
    live.runs = now.runs;
    if (now.version !== mark) {
      // what is being looked at stays: the address holds every choice, and the place on the page
      sessionStorage.setItem("selfe-scroll", String(scrollY));
      location.reload();
      return;
    }
  } catch {
    byId("live-state").textContent = "The server has stopped: this page stays as it is.";
    return;
  }
  setTimeout(live, 3000);
}

function start() {
  State.read();
  const opens = !location.hash && Object.keys(DATA.start).length > 0;
  if (opens) State.values = { ...DATA.start };
  State.listeners.push(changed);
  theme();
  drawEverything();
  document.addEventListener("keydown", keys);
  window.addEventListener("hashchange", () => { State.read(); drawEverything(); Gallery.update().then(() => Detail.restore()); });
  for (const link of document.querySelectorAll(".top nav a, .skip, .jump")) {
    // the address keeps the choices: a section's name would take their place
    link.addEventListener("click", (e) => {
      e.preventDefault();
      goTo(link.hash.slice(1));
    });
  }
  let width = innerWidth;
  window.addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(start.timer);
    start.timer = setTimeout(() => { drawScores(); drawTraining(); }, 120);
  });
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (e) => { if (e.target === dialog || e.target.closest("[data-close]")) dialog.close(); });
  }
  byId("detail").addEventListener("close", () => Detail.closed());
  byId("more").addEventListener("click", () => Gallery.more());
  new IntersectionObserver((entries) => {
    if (entries.some((e) => e.isIntersecting) && Gallery.cards.length) Gallery.more();
  }, { rootMargin: "900px" }).observe(byId("more"));
  // the gallery reads its data once it is near: what is above is painted first
  const wanted = State.get("open") || GALLERY_KEYS.some((k) => k in State.values);
  const begin = () => Gallery.update().then(() => Detail.restore());
  if (opens) begin().then(() => goTo("gallery"));
  else if (wanted) begin();
  else {
    const watch = new IntersectionObserver((entries) => {
      if (entries.some((e) => e.isIntersecting)) { watch.disconnect(); begin(); }
    }, { rootMargin: "1500px" });
    watch.observe(byId("gallery"));
  }
  const scroll = document.documentElement.dataset.live ? sessionStorage.getItem("selfe-scroll") : null;
  if (scroll) { sessionStorage.removeItem("selfe-scroll"); scrollTo(0, Number(scroll)); }
  setTimeout(live, 3000);
}
start();
