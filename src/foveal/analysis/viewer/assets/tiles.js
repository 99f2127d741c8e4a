// All maps of a model: rollout and mean first, then a row for each layer and a column for each head.
class Tiles {
  constructor(model, index) {
    Object.assign(this, { model, index, tiles: [] });
    const all = [...(model.rollout ? [["rollout", model.rollout, 0]] : []), ["all", null, "mean"]];
    const through = make("div", { class: "through", role: "group", "aria-label": "Through all layers" },
      ...all.map(([where, layer, head]) => make("figure", {}, this.tile(where, layer, head), make("figcaption", {}, where === "rollout" ? "rollout" : "mean of all"))));
    // the mean of one head is that head
    this.columns = Math.max(0, ...model.layers.map(headsOf).filter((heads) => heads > 1));
    this.alone = model.layers.length === 1 && !this.columns && !model.rollout;
    this.short = shortNames(model.layers.map((layer) => layer.name));
    const numbered = model.layers.some((layer) => !layer.heads.length);
    const head = make("div", { role: "row" }, make("span", { role: "columnheader", class: "corner" }, "layer"), make("span", { role: "columnheader" }, this.columns ? "mean" : headName(model.layers[0], "mean")),
      ...Array.from({ length: this.columns }, (_, n) => make("span", { role: "columnheader" }, numbered ? `${n}` : "")));
    this.table = make("div", { class: "tiles", role: "grid", "aria-label": `Maps of ${model.name}, by layer and head` }, head, ...model.layers.map((layer, at) => this.row(layer, at)));
    this.table.style.setProperty("--columns", this.columns + 1);
    this.table.querySelector("button").tabIndex = 0;
    this.table.addEventListener("keydown", (event) => this.key(event));
    this.reading = make("p", { class: "reading soft" }, "Point at a map to read it, click to see it close up.");
    this.element = make("section", { class: "model" },
      make("h2", {}, model.name), make("div", { class: "front" }, through, answers(model)), this.reading, make("div", { class: "scroll" }, this.table),
      model.notes.length ? make("ul", { class: "notes soft" }, ...model.notes.map((note) => make("li", {}, note))) : null);
  }

  row(layer, at) {
    const heads = headsOf(layer) > 1 ? Array.from({ length: headsOf(layer) }, (_, head) => head) : [];
    const cells = ["mean", ...heads].map((head) => this.tile(at, layer, head));
    const spare = Array.from({ length: this.columns + 1 - cells.length }, () => make("span", { role: "gridcell" }));
    return make("div", { role: "row" }, make("span", { role: "rowheader", title: layer.name }, this.short[at]), ...cells, ...spare);
  }

  tile(where, layer, head) {
    const canvas = make("canvas", { "aria-hidden": "true" });
    const label = where === "rollout" ? "rollout" : where === "all" ? "mean of all layers and heads" : `${layer.name}, ${headName(layer, head)}`;
    const grid = typeof where === "number";
    const button = make("button", { type: "button", class: "tile gray", role: grid ? "gridcell" : null, tabindex: grid ? "-1" : null, "aria-label": label,
      onclick: () => select(where, head), onpointerenter: () => this.read(tile), onfocus: () => this.read(tile) }, canvas);
    const tile = { where, layer, head, label, canvas, button, shown: null };
    this.tiles.push(tile);
    return button;
  }

  key(event) {
    const rows = [...this.table.children].slice(1).map((row) => [...row.querySelectorAll("button")]);
    const row = rows.findIndex((cells) => cells.includes(event.target));
    if (row < 0) return;
    const column = rows[row].indexOf(event.target);
    const moved = { ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [row, 0], End: [row, rows[row].length - 1] }[event.key];
    if (!moved) return;
    event.preventDefault();
    const next = rows[moved[0]]?.[Math.min(moved[1], rows[moved[0]].length - 1)];
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  // What each tile shows for a query: the weights, the layer they belong to, and of which kind they are.
  look(query) {
    for (const tile of this.tiles) tile.shown = shownBy(this.model, tile.where, tile.head, query);
  }

  most() {
    return Math.max(0, ...this.tiles.filter((tile) => typeof tile.where === "number" && tile.shown).map((tile) => tile.shown.most));
  }

  draw(shared, chosen) {
    for (const tile of this.tiles) {
      const own = !shared || typeof tile.where !== "number";
      drawn(tile.canvas, tile.shown, own ? null : shared);
      // layers that look at different things have no mean, and that of one map is the map
      if (tile.where === "all") tile.button.closest("figure").hidden = tile.canvas.hidden = !tile.shown || this.alone;
      tile.button.classList.toggle("absent", !tile.shown);
      tile.button.classList.toggle("nowhere", Boolean(tile.shown && !lies(tile.shown.layer, tile.shown.kind)));
      tile.button.setAttribute("aria-pressed", String(tile.where === chosen.where && tile.head === chosen.head));
    }
  }

  read(tile) {
    const shown = tile.shown;
    this.reading.replaceChildren(tile.label, ": ", ...(shown ? ["most at ", placeOf(shown.layer, shown.kind, shown.peak), ", ", data(shown.patches[shown.peak])] : ["no such map"]));
  }
}

function headName(layer, head) {
  if (head === "mean" && headsOf(layer) > 1) return "mean";
  const at = head === "mean" ? 0 : head;
  return layer.heads[at] ?? `head ${at}`;
}

function shownBy(model, where, head, query) {
  const all = where === "all" ? meanOfAll(model, state.kind, query) : null;
  const layer = where === "all" ? all?.layer : where === "rollout" ? model.rollout : model.layers[where];
  if (!layer || (head !== "mean" && head >= headsOf(layer))) return null;
  const kind = kindOf(layer, state.kind);
  const weights = where === "all" ? all.weights : weightsOf(layer, state.kind, head, query);
  if (weights === null) return null;
  const parts = parted(layer, kind, weights);
  let peak = 0;
  for (let at = 0; at < parts.patches.length; at++) if (Math.abs(parts.patches[at]) > Math.abs(parts.patches[peak])) peak = at;
  const signed = kind === "combined" && (Boolean(layer.lambdas) || Boolean(layer.maps.combined?.signed));
  return { layer, kind, ...parts, peak, most: Math.abs(parts.patches[peak]), signed, grid: gridOf(layer, kind, parts.patches.length) };
}

function drawn(canvas, shown, shared) {
  canvas.hidden = !shown;
  if (shown) paint(canvas, shown.patches, shown.grid, shared ?? shown.most, shown.signed, state.color);
}

function answers(model) {
  if (!model.answers.length) return null;
  const best = make("ol", { class: "answers", "aria-label": "Likeliest classes" }, ...model.answers.map(([name, share], at) => {
    const bar = make("span", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${100 * share}%`;
    // by its place: two classes may have one name
    const right = model.truth && model.truth[2] === at + 1;
    return make("li", right ? { class: "right" } : {}, bar, make("span", {}, right ? `✓ ${name}` : name), make("data", { value: share }, `${(100 * share).toFixed(1)}%`));
  }));
  const truth = model.truth && make("p", { class: "truth" }, `True class: ${model.truth[0]}, ${model.truth[2] === 1 ? "the first answer" : `answer number ${model.truth[2]}`}, ${(100 * model.truth[1]).toFixed(1)}%`);
  return make("div", { class: "prediction" }, best, truth);
}
