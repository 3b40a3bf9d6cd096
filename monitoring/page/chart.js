// Small line charts of the last quarter of an hour. A value that is not known leaves a gap.

import { flag, make, say } from "./dom.js";

const LEAST_SECONDS = 120, MOST_SECONDS = 900, GAP_SECONDS = 30, HEIGHT = 146;
const STEPS_SECONDS = [30, 60, 120, 300];
const EDGE = { left: 52, right: 10, top: 8, bottom: 20 };
const NAMESPACE = "http://www.w3.org/2000/svg";

function svg(tag, attributes, text = "") {
  const node = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

// The least of 1, 2, 5 times a power of ten that is no less.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= value * 0.999999);
}

function when(seconds) {
  if (!seconds) return "now";
  return seconds % 60 ? `−${seconds} s` : `−${seconds / 60} min`;
}

function legend({ key, name }, index) {
  const sample = svg("svg", { width: 22, height: 8, "aria-hidden": "true" });
  sample.append(svg("path", { d: "M1 4H21", class: `curve s${index}` }));
  const item = make("li", {}, sample, make("span", { textContent: name }), make("b"));
  item.dataset.of = key;
  return item;
}

export class Chart {
  // about: { title, lines: [{ key, name }], show and tick: value => text, empty, target?, least? }
  constructor(about) {
    this.about = about;
    this.picture = svg("svg", { role: "img", height: HEIGHT });
    this.legend = make("ul", { className: "legend" }, ...about.lines.map(legend));
    this.note = make("p", { className: "about" });
    this.empty = make("p", { className: "empty" });
    const plot = make("div", { className: "plot" }, this.picture, this.empty);
    this.node = make("figure", {}, make("figcaption", { textContent: about.title }), this.legend, plot, this.note);
    this.picture.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.picture.addEventListener("pointerleave", () => this.point(null));
  }

  draw(points, now, note = "", trouble = "") {
    this.points = points;
    this.now = now;
    this.seconds = Math.min(MOST_SECONDS, Math.max(LEAST_SECONDS, now - (points[0]?.t ?? now)));
    this.width = Math.max(200, this.picture.clientWidth || 320);
    const known = this.about.lines.filter(({ key }) => points.some((point) => point[key] != null));
    const values = points.flatMap((point) => known.map(({ key }) => point[key] ?? 0));
    this.step = roundUp(Math.max(this.about.target ?? 0, this.about.least ?? 1, ...values) / 2);
    this.top = this.step * 2;
    this.picture.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.picture.replaceChildren(...this.frame(), ...this.target(), ...known.map((line) => this.curve(line)), this.cross());
    say(this.empty, known.length ? "" : trouble || this.about.empty);
    say(this.note, note);
    this.tell();
  }

  x(t) {
    return this.width - EDGE.right - ((this.now - t) / this.seconds) * (this.width - EDGE.left - EDGE.right);
  }

  y(value) {
    return HEIGHT - EDGE.bottom - (value / this.top) * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  frame() {
    const levels = [0, 1, 2].map((at) => at * this.step);
    const step = STEPS_SECONDS.find((seconds) => this.seconds / seconds <= 4);
    const times = Array.from({ length: Math.floor(this.seconds / step) + 1 }, (_, at) => at * step);
    return [
      ...levels.map((value) => svg("path", { d: `M${EDGE.left} ${this.y(value)}H${this.width - EDGE.right}`, class: "grid" })),
      ...levels.map((value) => svg("text", { x: EDGE.left - 6, y: this.y(value) + 4, class: "end" }, this.about.tick(value))),
      ...times.map((ago) => svg("text", { x: this.x(this.now - ago), y: HEIGHT - 4, class: ago ? "middle" : "end" }, when(ago))),
    ];
  }

  target() {
    const { target } = this.about;
    if (!target) return [];
    const y = this.y(target);
    const text = svg("text", { x: EDGE.left + 4, y: y < 2 * EDGE.bottom ? y + 13 : y - 4 }, `target ${this.about.tick(target)}`);
    return [svg("path", { d: `M${EDGE.left} ${y}H${this.width - EDGE.right}`, class: "target" }), text];
  }

  curve({ key }) {
    let path = "", before = -Infinity;
    for (const point of this.points) {
      if (point[key] == null) continue;
      const place = `${this.x(point.t).toFixed(1)} ${this.y(point[key]).toFixed(1)}`;
      path += point.t - before > GAP_SECONDS ? `M${place}h.01` : `L${place}`;
      before = point.t;
    }
    const index = this.about.lines.findIndex((line) => line.key === key);
    return svg("path", { d: path, class: `curve s${index}` });
  }

  cross() {
    this.line = svg("path", { class: "cross" });
    return this.line;
  }

  // The legend tells the values under the pointer, else the newest.
  point(x) {
    this.at = x;
    this.tell();
  }

  tell() {
    const newest = this.points.at(-1);
    const pointed = this.at == null ? newest : this.points.reduce((best, point) => this.nearer(point, best), newest);
    const moved = this.at != null && pointed;
    this.line.setAttribute("d", moved ? `M${this.x(pointed.t)} ${EDGE.top}V${HEIGHT - EDGE.bottom}` : "");
    for (const item of this.legend.children) say(item.lastChild, this.about.show(pointed?.[item.dataset.of]));
    flag(this.legend, "past", moved);
    const told = this.about.lines.map(({ key, name }) => `${name} ${this.about.show(newest?.[key])}`).join(", ");
    this.picture.setAttribute("aria-label", `${this.about.title}, now: ${told}`);
  }

  nearer(one, other) {
    return Math.abs(this.x(one.t) - this.at) < Math.abs(this.x(other.t) - this.at) ? one : other;
  }
}
