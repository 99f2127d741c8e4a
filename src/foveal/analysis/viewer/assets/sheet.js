// What is on the page now, as one PNG: who looks, and all maps.
async function drawSheet() {
  const photo = new Image();
  photo.src = about.photos[state.frame];
  await photo.decode();
  const tile = 72, gap = 6, line = 20, margin = 16;
  const high = Math.round(tile / about.aspect);
  const names = views.map((view) => Math.max(60, ...view.short.map((name) => 8 * name.length)));
  const wide = views.map((view, at) => names[at] + (view.columns + 1) * (tile + gap));
  const rows = Math.max(...views.map((view) => view.model.layers.length));
  const canvas = document.createElement("canvas");
  canvas.width = 2 * margin + wide.reduce((sum, one) => sum + one + margin, 0);
  canvas.height = 2 * margin + 4 * line + 2 * high + gap + (rows + 1) * (high + gap) + line;
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.body);
  pen.fillStyle = style.backgroundColor;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  const write = (text, x, y, bold) => {
    pen.font = `${bold ? "600 " : ""}13px system-ui, sans-serif`;
    pen.fillStyle = style.color;
    pen.fillText(text, x, y);
  };
  const put = (map, x, y, nowhere) => {
    pen.imageSmoothingEnabled = true;
    pen.filter = "grayscale(1)";
    if (!nowhere) pen.drawImage(photo, x, y, tile, high);
    pen.filter = "none";
    pen.imageSmoothingEnabled = document.body.classList.contains("smooth");
    pen.globalAlpha = nowhere ? 1 : state.opacity / 100;
    if (map && !map.hidden) pen.drawImage(map, x, y, tile, high);
    pen.globalAlpha = 1;
  };
  const query = current();
  write(about.title, margin, margin + line / 2, true);
  write(`who looks: ${nameOf(query)}; ${document.getElementById("scale-said").textContent}`, margin, margin + 1.5 * line);
  const top = margin + 2 * line;
  pen.drawImage(photo, margin, top, 2 * tile, 2 * high);
  if (query.kind === "patch" && query.frame === state.frame && !about.cloud) {
    const [h, w] = [(2 * high) / about.grid[0], (2 * tile) / about.grid[1]];
    pen.strokeStyle = "#fff";
    pen.lineWidth = 2;
    pen.strokeRect(margin + query.column * w, top + query.row * h, w, h);
  }
  let left = margin;
  views.forEach((view, at) => {
    const first = top + 2 * high + gap + line;
    write(view.model.name, left, first, true);
    view.tiles.forEach((one) => {
      const grid = typeof one.where === "number";
      const column = grid ? (one.head === "mean" ? 0 : one.head + 1) : one.where === "rollout" ? 0 : 1;
      const x = left + names[at] + column * (tile + gap);
      const y = first + line + (grid ? (one.where + 1) * (high + gap) + line : 0);
      put(one.canvas, x, y, one.button.classList.contains("nowhere"));
      if (grid && one.head === "mean") write(view.short[one.where], left, y + high / 2);
    });
    write("rollout, mean", left, first + line - 5);
    write("layer | mean, heads", left, first + line + high + gap + line / 2 + 4);
    left += wide[at] + margin;
  });
  return canvas;
}

async function saveSheet() {
  const canvas = await drawSheet();
  canvas.toBlob((blob) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: "attention.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}
