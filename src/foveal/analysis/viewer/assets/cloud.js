// Points seen from two sides: drawn as discs, and found by what lies nearest to the pointer. Of a large cloud some points are asked alone.
const ASKED = about.asked?.map((point) => about.cloud[point]);

// Which point of the cloud it is that was asked.
function pointOf(column) {
  return about.asked ? about.asked[column] : column;
}

// Where the points of a grid of one row lie: all, or those that are asked; null of any other grid.
function scattered(grid) {
  if (!about.cloud || grid[0] !== 1) return null;
  return [about.cloud, ASKED].find((places) => places?.length === grid[1]) ?? null;
}

// The strongest are drawn last, and around the point that looks there is a ring.
function paintCloud(canvas, values, places, most, signed, color) {
  const high = 180;
  [canvas.height, canvas.width] = [high, high * about.aspect];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const radius = Math.min(6, Math.max(1.6, 60 / Math.sqrt(values.length))) * (high / 360) * 1.6;
  const order = Array.from(values.keys()).sort((a, b) => Math.abs(values[a]) - Math.abs(values[b]));
  const asked = current();
  for (const at of order) {
    const share = most > 0 ? values[at] / most : 0;
    const level = Math.round(255 * Math.min(1, Math.max(0, signed ? (share + 1) / 2 : share)));
    pen.fillStyle = `rgb(${RAMPS[signed ? "signed" : color].subarray(4 * level, 4 * level + 3).join(",")})`;
    eachView(places[at], (x, y) => disc(pen, x * canvas.width, y * canvas.height, radius));
  }
  if (asked.kind !== "patch") return;
  pen.lineWidth = 2.5;
  for (const [ink, wider] of [["#000", 3.5], ["#fff", 1.5]]) {
    pen.strokeStyle = ink;
    eachView(about.cloud[pointOf(asked.column)], (x, y) => disc(pen, x * canvas.width, y * canvas.height, radius + wider, true));
  }
}

function eachView([x, y, otherX, otherY], call) {
  call(x, y);
  call(otherX, otherY);
}

function disc(pen, x, y, radius, ring) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  ring ? pen.stroke() : pen.fill();
}

// As a grid of one row, whose cells lie where the points are in the first view.
class CloudGrid extends PatchGrid {
  resize(rows, columns) {
    super.resize(rows, columns);
    this.places = scattered([rows, columns]);
    this.cells.classList.toggle("points", Boolean(this.places));
    if (this.places) [...this.cells.children[0].children].forEach((cell, at) => Object.assign(cell.style, { left: `${100 * this.places[at][0]}%`, top: `${100 * this.places[at][1]}%` }));
  }

  at(event, call) {
    if (!this.places || event.type.startsWith("focus")) return super.at(event, call);
    const box = this.cells.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    let nearest = null, least = 0.05 ** 2;
    this.places.forEach((place, at) => eachView(place, (across, down) => {
      const far = ((across - x) * about.aspect) ** 2 + (down - y) ** 2;
      if (far < least) [nearest, least] = [at, far];
    }));
    if (nearest !== null) call(0, nearest);
  }
}
