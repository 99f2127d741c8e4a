// Color maps by seventeen stops each: viridis and cividis are read alike by those who do not see red or green, as is blue to red.
const STOPS = {
  viridis: "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725",
  cividis: "00224e 002e6a 1a386f 32436d 434e6c 535a6d 61656f 6f7073 7d7c78 8c8878 9b9476 aba072 bcae6c cdbb63 dec958 f0d846 fee838",
  inferno: "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4",
  gray: "000000 ffffff",
  signed: "053061 175290 2a71b2 3f8ec0 6bacd1 9bc9e0 c2ddec e0ecf3 f7f6f6 fbe5d8 fbccb4 f5aa89 e48066 d05548 ba2832 930e26 67001f",
};

// 256 colors as they lie in a canvas, from least to most.
function ramp(name) {
  const stops = STOPS[name].split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const out = new Uint8ClampedArray(4 * 256);
  for (let level = 0; level < 256; level++) {
    const place = (level / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    for (let part = 0; part < 3; part++) out[4 * level + part] = stops[low][part] + (place - low) * (stops[low + 1][part] - stops[low][part]);
    out[4 * level + 3] = 255;
  }
  return out;
}
const RAMPS = Object.fromEntries(Object.keys(STOPS).map((name) => [name, ramp(name)]));

function gradient(name) {
  return `linear-gradient(90deg, ${STOPS[name].split(" ").map((hex) => `#${hex}`).join(", ")})`;
}

function largest(values) {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

// Values from 0 to most, or signed from -most to most, a pixel each. So small and so often written, a canvas is best kept off the graphics card.
function paint(canvas, values, grid, most, signed, color) {
  const places = scattered(grid);
  if (places) return paintCloud(canvas, values, places, most, signed, color);
  [canvas.height, canvas.width] = grid;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pixels = context.createImageData(canvas.width, canvas.height);
  const colors = RAMPS[signed ? "signed" : color];
  for (let at = 0; at < values.length; at++) {
    const share = most > 0 ? values[at] / most : 0;
    const level = Math.round(255 * Math.min(1, Math.max(0, signed ? (share + 1) / 2 : share)));
    pixels.data.set(colors.subarray(4 * level, 4 * level + 4), 4 * at);
  }
  context.putImageData(pixels, 0, 0);
}

function number(value) {
  const size = Math.abs(value);
  return size >= 0.0995 ? value.toFixed(3) : size >= 0.00095 ? value.toFixed(4) : size === 0 ? "0" : value.toExponential(1);
}

// A number for readers, with all its digits for programs.
function data(value) {
  const element = document.createElement("data");
  element.value = String(value);
  element.textContent = number(value);
  return element;
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
