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
