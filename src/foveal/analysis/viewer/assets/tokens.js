// Who looks, at what, and how much.
const FLOWS = ["combined", "positive", "negative"];

// Whether keys of a map lie on patches; slots and words do not, nor do the frames that a place looks at over time.
function lies(layer, kind) {
  return FLOWS.includes(kind) && layer.axis !== "time" && layer.keys !== null;
}

// The frame whose map is asked where each frame has its own: that of the patch, for others the one on show.
function frameOf(query) {
  return query.kind === "patch" ? query.frame : state.frame;
}

// The rows of a layer that a query stands for; null where the layer has no such token.
function rowsOf(layer, query) {
  if (!layer.queries) return [0];
  const { prefix, grid } = layer.queries;
  const patches = grid[0] * grid[1];
  const all = (count, first) => Array.from({ length: count }, (_, at) => first + at);
  if (query.kind === "prefix") return query.index < prefix && layer.axis !== "time" ? [query.index] : null;
  // where some points are asked alone, the mean over all of them stands behind
  if (query.kind === "mean" && about.asked) return [patches];
  if (query.kind === "mean") return layer.axis === "space" ? all(patches, prefix) : layer.axis === "time" ? all(patches * layer.frames, 0) : all(patches * layer.frames, prefix);
  const [row, column] = [query.row, query.column].map((place, axis) => Math.floor(((place + 0.5) / about.grid[axis]) * grid[axis]));
  const patch = row * grid[1] + column;
  if (layer.axis === "time") return [patch * layer.frames + query.frame];
  return [prefix + patch + (layer.axis === "space" ? 0 : Math.min(query.frame, layer.frames - 1) * patches)];
}

// What a layer shows where a map is asked for: an unsigned one the same under all; null where it has none.
function kindOf(layer, kind) {
  if (layer.maps[kind] || (kind === "combined" && layer.lambdas)) return kind;
  return FLOWS.includes(kind) ? "combined" : null;
}

function headsOf(layer) {
  const { heads } = Object.values(layer.maps)[0];
  return layer.axis === "space" ? heads / layer.frames : heads;
}

// The row of a head, or of "mean", over all keys; null where there is none.
function weightsOf(layer, asked, head, query) {
  const kind = kindOf(layer, asked);
  const rows = rowsOf(layer, query);
  if (kind === null || rows === null) return null;
  // within a frame nothing of another is seen
  if (layer.axis === "space" && frameOf(query) !== state.frame) return null;
  const skip = layer.axis === "space" ? frameOf(query) * headsOf(layer) : 0;
  const apart = kind === "combined" && !layer.maps.combined;
  const first = layer.maps[apart ? "positive" : kind];
  const out = new Float32Array(first.keys);
  const heads = head === "mean" ? Array.from({ length: headsOf(layer) }, (_, n) => n) : [head];
  const share = 1 / (rows.length * heads.length);
  for (const one of heads) {
    for (const row of rows) {
      addRow(out, first, skip + one, row, share);
      if (apart) addRow(out, layer.maps.negative, skip + one, row, -share * layer.lambdas[one]);
    }
  }
  return out;
}

// Those of patches of the frame on show, and of the tokens before and behind all. What lies nowhere is all "patches".
function parted(layer, kind, weights) {
  if (!lies(layer, kind)) return { patches: weights, before: [], behind: [], others: 0 };
  const { prefix, grid, suffix } = layer.keys;
  const count = grid[0] * grid[1];
  const end = weights.length - suffix;
  const several = layer.axis === "all" && layer.frames > 1;
  const first = prefix + (several ? Math.min(state.frame, layer.frames - 1) * count : 0);
  const patches = weights.subarray(first, first + count);
  const sum = (values) => values.reduce((total, one) => total + one, 0);
  return { patches, before: [...weights.subarray(0, prefix)], behind: [...weights.subarray(end)], others: several ? sum(weights.subarray(prefix, end)) - sum(patches) : 0 };
}

// Rows and columns in which keys are drawn: the grid of the image, or a square of what lies nowhere.
function gridOf(layer, kind, count) {
  if (lies(layer, kind)) return layer.keys.grid;
  if (layer.axis === "time") return [1, count];
  const wide = Math.ceil(Math.sqrt(count));
  return [Math.ceil(count / wide), wide];
}

// Over all layers and heads of a model that look at one grid, or null.
function meanOfAll(model, asked, query) {
  let out = null;
  // a slot of one layer is none of another
  if (!FLOWS.includes(asked)) return null;
  const layers = model.layers.filter((layer) => layer.queries && layer.axis === "all" && kindOf(layer, asked) !== null);
  for (const layer of layers) {
    const weights = weightsOf(layer, asked, "mean", query);
    if (weights === null || (out && out.length !== weights.length)) return null;
    out = out || new Float32Array(weights.length);
    for (let key = 0; key < weights.length; key++) out[key] += weights[key] / layers.length;
  }
  return out && { weights: out, layer: layers[0] };
}

function nameOf(query) {
  if (query.kind === "patch" && about.cloud) return `point ${pointOf(query.column) + 1}`;
  if (query.kind === "mean" && about.cloud) return "mean of all points";
  if (query.kind === "patch") return `patch in row ${query.row + 1}, column ${query.column + 1}${about.photos.length > 1 ? `, frame ${query.frame + 1}` : ""}`;
  if (query.kind === "mean") return "mean of all patches";
  return about.models.map((model) => model.prefix[query.index]).find((name) => name) || `token ${query.index + 1}`;
}

function placeOf(layer, kind, index) {
  if (layer.axis === "time" && FLOWS.includes(kind)) return `frame ${index + 1}`;
  if (!lies(layer, kind)) return layer.names[index] ?? `${singular(kind)} ${index}`;
  const columns = layer.keys.grid[1];
  return placeName(Math.floor(index / columns), index % columns);
}

function placeName(row, column) {
  return about.cloud ? `point ${column + 1}` : `row ${row + 1}, column ${column + 1}`;
}

function singular(kind) {
  return kind === "slots" ? "slot" : "entry";
}

// What tells layers apart in their names: without the parts between dots that all begin and end with.
function shortNames(names) {
  const parts = names.map((name) => name.split("."));
  const least = Math.min(...parts.map((part) => part.length)) - 1;
  if (names.length < 2) return names;
  const alike = (at) => parts.every((part) => part.at(at) === parts[0].at(at));
  let first = 0, last = 0;
  while (first < least && alike(first)) first++;
  while (first + last < least && alike(-1 - last)) last++;
  return parts.map((part) => part.slice(first, part.length - last).join("."));
}
