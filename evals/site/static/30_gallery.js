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
