// Who looks, at what, and how much.
const FLOWS = ["combined", "positive", "negative"];

// The rows of a layer that a query stands for; null where the layer has no such token.
function rowsOf(layer, query) {
  if (!layer.queries) return [0];
  const { prefix, grid } = layer.queries;
  if (query.kind === "prefix") return query.index < prefix ? [query.index] : null;
  if (query.kind === "patch") {
    const [row, column] = [query.row, query.column].map((place, axis) => Math.floor(((place + 0.5) / about.grid[axis]) * grid[axis]));
    return [prefix + row * grid[1] + column];
  }
  return Array.from({ length: grid[0] * grid[1] }, (_, patch) => prefix + patch);
}

// What a layer shows where a map is asked for: an unsigned one the same under all; null where it has none.
function kindOf(layer, kind) {
  if (layer.maps[kind] || (kind === "combined" && layer.lambdas)) return kind;
  return FLOWS.includes(kind) ? "combined" : null;
}

function headsOf(layer) {
  return Object.values(layer.maps)[0].heads;
}

// The row of a head, or of "mean", over all keys; null where there is none.
function weightsOf(layer, asked, head, query) {
  const kind = kindOf(layer, asked);
  const rows = rowsOf(layer, query);
  if (kind === null || rows === null) return null;
  const apart = kind === "combined" && !layer.maps.combined;
  const first = layer.maps[apart ? "positive" : kind];
  const out = new Float32Array(first.keys);
  const heads = head === "mean" ? Array.from({ length: first.heads }, (_, n) => n) : [head];
  const share = 1 / (rows.length * heads.length);
  for (const one of heads) {
    for (const row of rows) {
      addRow(out, first, one, row, share);
      if (apart) addRow(out, layer.maps.negative, one, row, -share * layer.lambdas[one]);
    }
  }
  return out;
}

// Those of patches, and of the tokens before and behind them. What lies nowhere is all "patches".
function parted(layer, kind, weights) {
  if (!FLOWS.includes(kind)) return { patches: weights, before: [], behind: [] };
  const { prefix, grid } = layer.keys;
  const end = prefix + grid[0] * grid[1];
  return { patches: weights.subarray(prefix, end), before: [...weights.subarray(0, prefix)], behind: [...weights.subarray(end)] };
}

// Rows and columns in which keys are drawn: the grid of the image, or a square of what lies nowhere.
function gridOf(layer, kind, count) {
  if (FLOWS.includes(kind)) return layer.keys.grid;
  const wide = Math.ceil(Math.sqrt(count));
  return [Math.ceil(count / wide), wide];
}

// Over all layers and heads of a model that look at one grid, or null.
function meanOfAll(model, asked, query) {
  let out = null;
  const layers = model.layers.filter((layer) => layer.queries && kindOf(layer, asked) !== null);
  for (const layer of layers) {
    const weights = weightsOf(layer, asked, "mean", query);
    if (weights === null || (out && out.length !== weights.length)) return null;
    out = out || new Float32Array(weights.length);
    for (let key = 0; key < weights.length; key++) out[key] += weights[key] / layers.length;
  }
  return out && { weights: out, layer: layers[0] };
}

function nameOf(query) {
  if (query.kind === "patch") return `patch in row ${query.row + 1}, column ${query.column + 1}`;
  if (query.kind === "mean") return "mean of all patches";
  return about.models.map((model) => model.prefix[query.index]).find((name) => name) || `token ${query.index + 1}`;
}

function placeOf(layer, kind, index) {
  if (!FLOWS.includes(kind)) return `${singular(kind)} ${index}`;
  const columns = layer.keys.grid[1];
  return `row ${Math.floor(index / columns) + 1}, column ${(index % columns) + 1}`;
}

function singular(kind) {
  return kind === "slots" ? "slot" : "entry";
}

// What tells layers apart in their names: the one part between dots that differs, or all.
function shortNames(names) {
  const parts = names.map((name) => name.split("."));
  const first = parts[0];
  if (names.length < 2 || parts.some((part) => part.length !== first.length)) return names;
  const differing = first.map((_, place) => place).filter((place) => parts.some((part) => part[place] !== first[place]));
  return differing.length === 1 ? parts.map((part) => part[differing[0]]) : names;
}
