// Where do the clips lie: points of a plane, to be looked at closer and to be chosen, by pointer or by keys?

const NEAR = 14; // pixels from a point within which it is meant
const HUES = 12;

export class CorpusMap {
  // `points` has arrays rows, x, y, video; `show` is told the row under the pointer or null, `choose` the row that was taken
  constructor(canvas, points, show, choose) {
    Object.assign(this, { canvas, points, show, choose, query: null, found: [], here: -1 });
    this.placeOf = new Map(points.rows.map((row, place) => [row, place]));
    this.view = { scale: 1, x: 0, y: 0 };
    this.pending = false;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.resize();
  }

  mark(query, found) {
    this.query = query;
    this.found = found;
    this.draw();
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    [this.width, this.height, this.ratio] = [clientWidth, clientHeight, ratio];
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.draw();
  }

  place(index) {
    const unit = (Math.min(this.width, this.height) / 2 - 16) * this.view.scale;
    const stretch = Math.min(2, this.width / this.height); // the first axis is the wider one
    return [
      this.width / 2 + (this.points.x[index] - this.view.x) * unit * (this.width > this.height ? stretch : 1),
      this.height / 2 - (this.points.y[index] - this.view.y) * unit,
    ];
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.paint();
    });
  }

  paint() {
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const { rows, video } = this.points;
    const size = rows.length > 3000 ? 3 : rows.length > 300 ? 5 : 8;
    pen.globalAlpha = rows.length > 3000 ? 0.6 : 0.85;
    for (let hue = 0; hue < HUES; hue++) {
      pen.fillStyle = `hsl(${(hue * 360) / HUES} 65% ${dark ? 65 : 40}%)`;
      for (let index = 0; index < rows.length; index++) {
        if (video[index] % HUES !== hue) continue;
        const [x, y] = this.place(index);
        if (x > -9 && y > -9 && x < this.width + 9 && y < this.height + 9) pen.fillRect(x - size / 2, y - size / 2, size, size);
      }
    }
    pen.globalAlpha = 1;
    for (const row of this.found) this.ring(pen, row, 7, style.getPropertyValue("--found"), false);
    this.ring(pen, this.query, 7, style.getPropertyValue("--link"), true);
    if (this.here >= 0) this.ring(pen, rows[this.here], 10, style.getPropertyValue("--ink"), false);
  }

  ring(pen, row, radius, colour, full) {
    const index = this.placeOf.get(row);
    if (index === undefined) return;
    const [x, y] = this.place(index);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.lineWidth = 2.5;
    pen.strokeStyle = pen.fillStyle = colour;
    if (full) pen.fill();
    pen.stroke();
  }

  nearest(x, y) {
    let [best, least] = [-1, NEAR * NEAR];
    for (let index = 0; index < this.points.rows.length; index++) {
      const [px, py] = this.place(index);
      const away = (px - x) ** 2 + (py - y) ** 2;
      if (away < least) [best, least] = [index, away];
    }
    return best;
  }

  // the closest point in a direction: what lies aside of it counts as farther away
  next(dx, dy) {
    if (this.here < 0) return this.placeOf.get(this.query) ?? 0;
    const [x, y] = this.place(this.here);
    let [best, least] = [this.here, Infinity];
    for (let index = 0; index < this.points.rows.length; index++) {
      const [px, py] = this.place(index);
      const along = (px - x) * dx + (py - y) * dy;
      const aside = Math.abs((px - x) * dy - (py - y) * dx);
      if (along < 0.5 || aside > 2 * along) continue;
      if (along + 2 * aside < least) [best, least] = [index, along + 2 * aside];
    }
    return best;
  }

  point(index) {
    if (index === this.here) return;
    this.here = index;
    this.show(index < 0 ? null : this.points.rows[index]);
    this.draw();
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const unit = (scale) => (Math.min(this.width, this.height) / 2 - 16) * scale;
    const scale = Math.min(400, Math.max(1, this.view.scale * factor));
    const stretch = this.width > this.height ? Math.min(2, this.width / this.height) : 1;
    const [fromX, fromY] = [(x - this.width / 2) / stretch, this.height / 2 - y];
    this.view.x += fromX / unit(this.view.scale) - fromX / unit(scale);
    this.view.y += fromY / unit(this.view.scale) - fromY / unit(scale);
    this.view.scale = scale;
    if (scale === 1) this.view.x = this.view.y = 0;
    this.draw();
  }

  keepInSight() {
    const [x, y] = this.place(this.here);
    if (x > 8 && y > 8 && x < this.width - 8 && y < this.height - 8) return;
    [this.view.x, this.view.y] = [this.points.x[this.here], this.points.y[this.here]];
    this.draw();
  }

  listen() {
    const { canvas } = this;
    let drag = null;
    const at = (event) => [event.offsetX, event.offsetY];
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.offsetX, y: event.offsetY, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag && (drag.moved || Math.hypot(event.offsetX - drag.x, event.offsetY - drag.y) > 5)) {
        const unit = (Math.min(this.width, this.height) / 2 - 16) * this.view.scale;
        const stretch = this.width > this.height ? Math.min(2, this.width / this.height) : 1;
        this.view.x -= (event.offsetX - drag.x) / unit / stretch;
        this.view.y += (event.offsetY - drag.y) / unit;
        drag = { x: event.offsetX, y: event.offsetY, moved: true };
        this.draw();
      } else if (!drag) this.point(this.nearest(...at(event)));
    });
    canvas.addEventListener("pointerup", (event) => {
      const index = drag && !drag.moved ? this.nearest(...at(event)) : -1;
      drag = null;
      if (index >= 0) {
        this.point(index);
        this.choose(this.points.rows[index]);
      }
    });
    canvas.addEventListener("pointercancel", () => (drag = null));
    canvas.addEventListener("pointerleave", () => drag || this.point(-1));
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls until the map is taken hold of
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.25 : 0.8, ...at(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      this.point(this.next(...step));
      this.keepInSight();
    } else if (event.key === "Enter" || event.key === " ") {
      if (this.here >= 0) this.choose(this.points.rows[this.here]);
    } else if (event.key === "+" || event.key === "=") this.zoom(1.5);
    else if (event.key === "-") this.zoom(1 / 1.5);
    else if (event.key === "0") this.zoom(0);
    else return;
    event.preventDefault();
  }
}
