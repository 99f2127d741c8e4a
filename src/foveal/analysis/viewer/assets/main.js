const state = { kind: kindsThereAre()[0], scale: "own", color: "viridis", opacity: 70, kept: null, pointed: null, where: null, head: null, frame: 0 };
const views = [], closeUps = [];
const current = () => state.pointed ?? state.kept;
let waiting = false, speaking = 0;

function select(where, head) {
  Object.assign(state, { where, head });
  redraw();
}

function ask(query, kept) {
  state.pointed = kept ? null : query;
  if (kept) state.kept = query;
  redraw();
}

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function draw() {
  const query = current();
  views.forEach((view) => view.look(query));
  const shared = state.scale === "shared" ? Math.max(...views.map((view) => view.most())) : null;
  views.forEach((view) => view.draw(shared, state));
  const atLayer = typeof state.where === "number";
  closeUps.forEach((one) => one.draw(state.where, state.head, query, atLayer ? shared : null));
  const root = document.body;
  root.classList.toggle("from-patch", query.kind === "patch" && query.frame === state.frame);
  root.style.setProperty("--at-row", query.row ?? 0);
  root.style.setProperty("--at-column", query.column ?? 0);
  document.getElementById("asked-name").textContent = nameOf(query);
  document.querySelectorAll("#asked-tokens button").forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === nameOf(query))));
  const named = state.where === "rollout" ? "rollout" : state.where === "all" ? "mean of all layers and heads" : closeUpName();
  document.getElementById("close-name").textContent = named;
  document.getElementById("scale-said").textContent =
    state.scale === "own" ? "Each map by its own largest weight on a patch." : `All heads by one largest weight on a patch, ${number(shared)}; rollout and mean of all by their own.`;
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    const found = closeUps.filter((one) => one.shown).map((one) => (closeUps.length > 1 ? `${one.model.name}: ` : "") + one.spoken);
    document.getElementById("said").textContent = `${nameOf(query)} looks. ${named}: ${found.join("; ") || "no such map"}.`;
  }, 400);
}

function closeUpName() {
  const layer = views.map((view) => view.model.layers[state.where]).find((found) => found);
  return `${layer.name}, ${headName(layer, state.head)}`;
}

// The photograph stands once in the page, as a rule of its style, and gray beneath the maps.
const rules = [];

async function readPhotos() {
  for (const uri of about.photos) {
    const photo = new Image();
    photo.src = uri;
    await photo.decode();
    const canvas = make("canvas", { width: photo.naturalWidth, height: photo.naturalHeight });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(photo, 0, 0);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const [red, green, blue] = pixels.data.subarray(at, at + 3);
      pixels.data.fill(0.299 * red + 0.587 * green + 0.114 * blue, at, at + 3);
    }
    pen.putImageData(pixels, 0, 0);
    rules.push(`.photo { background-image: url(${uri}); } .gray { background-image: url(${canvas.toDataURL()}); }`);
  }
  document.head.append(make("style", { id: "photos" }, rules[0]));
  document.body.style.setProperty("--aspect", about.aspect);
  document.body.style.setProperty("--grid-rows", about.grid[0]);
  document.body.style.setProperty("--grid-columns", about.grid[1]);
}

// Of a video, which frame is on show; patches that are pointed at are of it.
function frameSlider() {
  if (about.photos.length < 2) return null;
  const said = make("output", {}, `1 of ${about.photos.length}`);
  const slider = make("input", { type: "range", name: "frame", min: 0, max: about.photos.length - 1, value: 0, "aria-label": "frame on show" });
  slider.addEventListener("input", () => {
    state.frame = Number(slider.value);
    said.textContent = `${state.frame + 1} of ${about.photos.length}`;
    document.getElementById("photos").textContent = rules[state.frame];
    redraw();
  });
  return make("label", { id: "frame" }, make("span", {}, "Frame"), slider, said);
}

function askable() {
  const most = Math.max(...about.models.flatMap((model) => model.layers.map((layer) => layer.queries?.prefix ?? 0)));
  const named = Array.from({ length: most }, (_, index) => ({ kind: "prefix", index }));
  // words alone have no patches to take the mean of
  return about.grid[0] * about.grid[1] || !named.length ? [...named, { kind: "mean" }] : named;
}

try {
  await unpack();
  await readPhotos();
  about.models.forEach((model, index) => {
    views.push(new Tiles(model, index));
    closeUps.push(new CloseUp(model, index));
  });
  document.body.classList.toggle("two", views.length > 1);
  document.body.classList.toggle("cloud", Boolean(about.cloud));
  if (about.cloud) document.querySelector("header p").textContent = "Point at a point in either view, or go to it with the arrow keys, and see where it looks in every layer and head. A click or Enter keeps it.";
  if (!about.grid[0]) document.querySelector("header p").textContent = "Choose a word below the picture and see where it looks.";
  if (about.models.every((model) => model.layers.every((layer) => !layer.queries))) document.querySelector("header p").textContent = "One query looks for all: see what it takes from where.";
  document.getElementById("models").append(...views.map((view) => view.element));
  document.getElementById("close-models").append(...closeUps.map((one) => one.element));
  const asked = new (about.cloud ? CloudGrid : PatchGrid)({
    label: `${about.cloud ? "Points of the cloud" : "Patches of the image"}: choose the one that looks`,
    nameCell: (row, column) => nameOf({ kind: "patch", row, column, frame: 0 }).split(", frame")[0],
    onPoint: (row, column) => ask({ kind: "patch", row, column, frame: state.frame }, false),
    onLeave: () => ask(null, false),
    onPick: (row, column) => ask({ kind: "patch", row, column, frame: state.frame }, true),
  });
  asked.resize(...about.grid);
  asked.element.classList.add("asked");
  document.getElementById("asked-picture").append(asked.element, ...[frameSlider()].filter(Boolean));
  const tokens = askable();
  document.getElementById("asked-tokens").append(
    ...tokens.map((query) => make("button", { type: "button", onclick: () => (asked.mark(null), ask(query, true)) }, nameOf(query))));
  const looks = about.models[0].looks;
  state.kept = tokens.find((query) => `the ${nameOf(query)}` === looks) ?? tokens[tokens.length - 1];
  const first = about.models[0];
  Object.assign(state, first.rollout ? { where: "rollout", head: 0 } : { where: first.layers.length - 1, head: "mean" });
  controls(document.getElementById("controls"), redraw);
  document.getElementById("about-numbers").textContent =
    `Weights are stored in ${about.steps} steps from 0 to the largest weight of their row. The largest difference from the model on this page is ${about.error.toExponential(1)}. ` +
    "Where a map shows a layer looking is not why the model answers as it does.";
  draw();
  document.body.dataset.ready = "yes";
  window.foveal = { about, state, current, weightsOf, views, drawSheet };
} catch (error) {
  document.getElementById("said").className = "failed";
  document.getElementById("said").textContent = `The maps cannot be drawn: ${error.message}`;
  throw error;
}
