// A picture whose cells are pointed at, or gone through with the arrow keys: one stop for Tab, a cell at a time for readers of screens.
class PatchGrid {
  constructor({ label, nameCell, onPoint, onLeave, onPick }) {
    Object.assign(this, { nameCell, onPoint, onLeave, onPick });
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.cells = make("div", { class: "cells", role: "grid", "aria-label": label });
    this.element = make("div", { class: "picture photo" }, this.canvas, this.cells);
    this.cells.addEventListener("pointermove", (event) => this.at(event, (row, column) => this.onPoint(row, column)));
    this.cells.addEventListener("pointerleave", () => this.onLeave());
    this.cells.addEventListener("click", (event) => this.at(event, (row, column) => this.go(row, column)));
    this.cells.addEventListener("keydown", (event) => this.key(event));
    this.cells.addEventListener("focusin", (event) => this.at(event, (row, column) => this.onPoint(row, column)));
    this.cells.addEventListener("focusout", () => this.onLeave());
  }

  resize(rows, columns) {
    if (this.rows === rows && this.columns === columns) return;
    Object.assign(this, { rows, columns });
    this.cells.style.gridTemplateRows = `repeat(${rows}, minmax(0, 1fr))`;
    this.cells.replaceChildren(
      ...Array.from({ length: rows }, (_, row) =>
        make("div", { role: "row" }, ...Array.from({ length: columns }, (_, column) =>
          make("div", { role: "gridcell", tabindex: "-1", "data-row": row, "data-column": column, "aria-label": this.nameCell(row, column) }))),
      ),
    );
    this.mark(null);
  }

  cell(row, column) {
    return this.cells.children[row]?.children[column];
  }

  at(event, call) {
    const cell = event.target.closest("[data-column]");
    if (cell) call(Number(cell.dataset.row), Number(cell.dataset.column));
  }

  // The cell that is kept; with none, Tab goes to the first.
  mark(place) {
    this.cells.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    this.cells.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
    const cell = this.cell(...(place ?? [0, 0]));
    cell?.setAttribute("tabindex", "0");
    if (place) cell?.setAttribute("aria-selected", "true");
  }

  go(row, column) {
    this.onPick(row, column);
    this.mark([row, column]);
    this.cell(row, column).focus({ preventScroll: true });
  }

  key(event) {
    const cell = event.target.closest("[data-column]");
    if (!cell) return;
    const [row, column] = [Number(cell.dataset.row), Number(cell.dataset.column)];
    const moved = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [row, 0], End: [row, this.columns - 1], PageUp: [0, column], PageDown: [this.rows - 1, column], Enter: [row, column], " ": [row, column],
    }[event.key];
    if (!moved) return;
    event.preventDefault();
    if (this.cell(...moved)) this.go(...moved);
  }
}
