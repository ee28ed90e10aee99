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
