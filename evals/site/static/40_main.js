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
