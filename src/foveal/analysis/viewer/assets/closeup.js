// One map of each model, large, with its numbers.
class CloseUp {
  constructor(model, index) {
    Object.assign(this, { model, index, shown: null, pointed: null });
    this.grid = new (about.cloud ? CloudGrid : PatchGrid)({
      label: `Weights of ${model.name}`,
      nameCell: (row, column) => placeName(row, column),
      onPoint: (row, column) => this.point(row, column),
      onLeave: () => this.point(null),
      onPick: () => {},
    });
    this.line = make("p", { class: "line" });
    this.bar = make("span", { class: "ramp" });
    this.low = make("span");
    this.high = make("span");
    this.numbers = make("dl", { class: "numbers" });
    this.most = make("tbody");
    this.used = make("canvas", { "aria-hidden": "true" });
    this.where = make("figure", { class: "used", hidden: true }, make("div", { class: "picture photo" }, this.used), make("figcaption", { class: "soft" }));
    const table = make("table", {}, make("caption", {}, "Largest"), make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "where"), make("th", { scope: "col" }, "weight"))), this.most);
    this.element = make("div", { class: "closeup" }, about.models.length > 1 ? make("h3", {}, model.name) : null, this.grid.element,
      make("p", { class: "legend" }, this.low, this.bar, this.high), this.line, this.where, this.numbers, table);
  }

  draw(where, head, query, shared) {
    const shown = (this.shown = shownBy(this.model, where, head, query));
    this.head = head;
    drawn(this.grid.canvas, shown, shared);
    this.grid.element.classList.toggle("nowhere", Boolean(shown && !lies(shown.layer, shown.kind)));
    this.element.classList.toggle("without", !shown);
    if (!shown) {
      this.line.textContent = "no such map in this model";
      return this.numbers.replaceChildren(), this.most.replaceChildren();
    }
    this.grid.resize(...shown.grid);
    const most = shared ?? shown.most;
    this.bar.style.background = gradient(shown.signed ? "signed" : state.color);
    this.low.replaceChildren(shown.signed ? data(-most) : data(0));
    this.high.replaceChildren(data(most));
    this.say(query);
    this.point(...(this.pointed ?? [null]));
  }

  say(query) {
    const { layer, kind, patches, before, behind, others } = this.shown;
    const rows = [];
    if (layer.lambdas) {
      const strengths = this.head === "mean" ? layer.lambdas : [layer.lambdas[this.head]];
      rows.push(["λ" + (strengths.length > 1 ? ", mean of heads" : ""), strengths.reduce((sum, one) => sum + one, 0) / strengths.length]);
    }
    rows.push([lies(layer, kind) && !about.cloud ? (about.photos.length > 1 ? "on patches of this frame" : "on all patches") : "on all", patches.reduce((sum, one) => sum + one, 0)]);
    if (others) rows.push(["on patches of other frames", others]);
    before.forEach((value, at) => rows.push([`on the ${this.model.prefix[at] ?? `token ${at + 1}`}`, value]));
    if (behind.length) rows.push([`on ${behind.length} tokens behind`, behind.reduce((sum, one) => sum + one, 0)]);
    if (!layer.queries) rows.unshift(["one query looks for all", null]);
    this.numbers.replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value === null ? "" : data(value))]));
    const order = Array.from(patches.keys()).sort((a, b) => Math.abs(patches[b]) - Math.abs(patches[a]) || a - b).slice(0, 5);
    this.most.replaceChildren(...order.map((at) => make("tr", {}, make("td", {}, placeOf(layer, kind, at)), make("td", {}, data(patches[at])))));
    this.spoken = `most at ${placeOf(layer, kind, order[0])}, ${number(patches[order[0]])}`;
  }

  point(row, column) {
    this.pointed = row === null ? null : [row, column];
    if (!this.shown) return;
    const { layer, kind, patches, grid } = this.shown;
    const at = row === null ? -1 : row * grid[1] + column;
    const found = at >= 0 && at < patches.length;
    this.line.replaceChildren(...(found ? [placeOf(layer, kind, at), ": ", data(patches[at])] : [make("span", { class: "soft" }, "Point at the picture to read a weight.")]));
    if (found) this.grid.cell(row, column).setAttribute("aria-label", `${placeOf(layer, kind, at)}: ${number(patches[at])}`);
    this.use(found && layer.queries && !lies(layer, kind) && layer.axis !== "time" ? at : null);
  }

  // Of what lies nowhere, as slots of a memory: which patches give to it.
  use(key) {
    this.where.hidden = key === null;
    if (key === null) return;
    const { layer, kind } = this.shown;
    const heads = this.head === "mean" ? Array.from({ length: headsOf(layer) }, (_, n) => n) : [this.head];
    const { prefix, grid } = layer.queries;
    const sum = new Float32Array(grid[0] * grid[1]);
    for (const head of heads) columnOf(layer.maps[kind], head, key).subarray(prefix, prefix + sum.length).forEach((value, at) => (sum[at] += value / heads.length));
    paint(this.used, sum, grid, largest(sum), false, state.color);
    this.where.lastChild.replaceChildren(`Who has how much of ${singular(kind)} ${key}: at most `, data(largest(sum)));
  }
}
