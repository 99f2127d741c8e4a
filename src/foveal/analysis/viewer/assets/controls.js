// How maps are drawn.
const KINDS = ["combined", "positive", "negative"];

function kindsThereAre() {
  const layers = about.models.flatMap((model) => model.layers);
  const there = new Set(layers.flatMap((layer) => Object.keys(layer.maps)));
  if (layers.some((layer) => layer.lambdas)) there.add("combined");
  return [...KINDS.filter((kind) => there.has(kind)), ...[...there].filter((kind) => !KINDS.includes(kind))];
}

function kindLabel(kind, all) {
  if (kind === "combined" && all.includes("negative")) return "combined (A⁺ − λA⁻)";
  return { positive: "positive (A⁺)", negative: "negative (A⁻)" }[kind] ?? kind;
}

function choice(name, title, options) {
  return make("fieldset", {}, make("legend", {}, title), ...options.map(([value, label]) =>
    make("label", {}, make("input", { type: "radio", name, value, checked: state[name] === value }), label)));
}

function controls(form, redraw) {
  const kinds = kindsThereAre();
  const colors = make("select", { name: "color" }, ...Object.keys(STOPS).filter((name) => name !== "signed").map((name) => make("option", { value: name }, name)));
  form.append(
    ...(kinds.length > 1 ? [choice("kind", "Map", kinds.map((kind) => [kind, kindLabel(kind, kinds)]))] : []),
    choice("scale", "Scale", [["own", "each map its own"], ["shared", "shared by all heads"]]),
    make("label", {}, make("span", {}, "Colors"), colors),
    make("label", {}, make("span", {}, "Opacity"), make("input", { type: "range", name: "opacity", min: 0, max: 100, value: state.opacity })),
    make("label", {}, make("input", { type: "checkbox", name: "smooth" }), "smooth"),
    make("button", { type: "button", id: "save", onclick: saveSheet }, "Save as PNG"),
    make("output", { id: "scale-said", class: "soft" }),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    const chosen = new FormData(form);
    for (const name of ["kind", "scale", "color", "opacity"]) if (chosen.has(name)) state[name] = chosen.get(name);
    document.body.style.setProperty("--opacity", state.opacity / 100);
    document.body.classList.toggle("smooth", chosen.has("smooth"));
    redraw();
  });
  document.body.style.setProperty("--opacity", state.opacity / 100);
}
