// Weights out of the page: all scales as float32, then all levels as bytes, deflated, in base64.
const about = JSON.parse(document.getElementById("about").textContent);
let scales, levels;

async function unpack() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser cannot unpack the maps; take Firefox 113, Chrome 92, Safari 16.4 or later");
  const packed = Uint8Array.from(atob(document.getElementById("packed").textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = await new Response(stream).arrayBuffer();
  scales = new Float32Array(raw, 0, about.rows);
  levels = new Uint8Array(raw, 4 * about.rows);
}

// out += share * the row of a query
function addRow(out, map, head, query, share) {
  const row = head * map.queries + query;
  const step = (scales[map.scales + row] / map.most) * share;
  const start = map.levels + row * map.keys;
  for (let key = 0; key < map.keys; key++) out[key] += (levels[start + key] - map.zero) * step;
}

// what all queries give to one key
function columnOf(map, head, key) {
  const out = new Float32Array(map.queries);
  for (let query = 0; query < map.queries; query++) {
    const row = head * map.queries + query;
    out[query] = ((levels[map.levels + row * map.keys + key] - map.zero) * scales[map.scales + row]) / map.most;
  }
  return out;
}
