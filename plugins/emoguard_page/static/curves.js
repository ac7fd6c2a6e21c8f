// The labels of one answer: a line for each, its certified threshold, and where neutral answers lie.

import { el, name, svg } from "./dom.js";
import { signed } from "./scale.js";

const CLIP = 8;

/** Returns the range of z that a label's chart shows. */
function range(label, values) {
  let top = 2.2;
  const all = [label.threshold, ...(label.band ?? [])].filter((v) => v !== null && v !== undefined);
  for (const v of all) top = Math.max(top, Math.abs(v) * 1.25);
  for (const v of values) if (Math.abs(v) > top) top = Math.abs(v);
  return Math.min(CLIP, top);
}

const fixed = (v) => Math.max(-CLIP, Math.min(CLIP, v)).toFixed(3);

function path(values) {
  let d = "";
  for (let n = 0; n < values.length; n++) d += `${n ? "L" : "M"}${n} ${fixed(-values[n])}`;
  return d;
}

function line(d, kind) {
  return svg("path", { class: kind, d, "vector-effect": "non-scaling-stroke" });
}

/** One label in the list: choosing it colours the words. */
export class LabelRow {
  constructor(label, column, chosen, onchoose) {
    this.label = label;
    this.column = column;
    this.top = range(label, []);
    this.d = "";
    this.drawn = 0;
    this.radio = el("input", { type: "radio", name: "label", value: String(column), checked: chosen, onchange: onchoose });
    this.path = line("", "mean");
    this.marks = svg("g");
    this.chart = svg("svg", { class: "spark", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.number = el("span", { class: "number" }, "");
    this.rank = el("span", { class: "rank" }, "");
    this.element = el("label", { class: "row" }, this.radio,
      el("span", { class: "name" }, name(label.name), verdict(label)), this.chart, this.number, this.rank);
    this.clear();
  }

  clear() {
    this.d = "";
    this.drawn = 0;
    this.top = range(this.label, []);
    this.number.textContent = "";
    this.rank.textContent = "";
    this.element.classList.remove("crossed");
    this.draw(null);
  }

  /** Draws what came since the last call. */
  draw(readings, score) {
    const { label, column } = this;
    const means = readings ? readings.means[column] : [];
    for (; this.drawn < means.length; this.drawn++) {
      const v = means[this.drawn];
      this.top = Math.min(CLIP, Math.max(this.top, Math.abs(v)));
      this.d += `${this.drawn ? "L" : "M"}${this.drawn} ${fixed(-v)}`;
    }
    const width = Math.max(means.length - 1, readings?.window ?? 16);
    this.chart.setAttribute("viewBox", `0 ${-this.top} ${width} ${2 * this.top}`);
    this.path.setAttribute("d", this.d);
    const marks = [];
    if (label.band) marks.push(band(label, width));
    marks.push(line(`M0 0L${width} 0`, "zero"));
    if (label.threshold !== null) marks.push(line(`M0 ${-label.threshold}L${width} ${-label.threshold}`, "limit"));
    this.chart.replaceChildren(...marks, this.path);
    if (!readings || !readings.count) return;
    const crossed = readings.crossings[column].length;
    this.element.classList.toggle("crossed", crossed > 0);
    const value = score ? score.mean : readings.latest(column);
    this.number.textContent = signed(value, label.band ? 1 : 2) + (crossed ? " ▲" : "");
    this.number.title = score ? "mean over the answer" : "mean of the last tokens";
    this.rank.textContent = score && score.rank !== null ? score.rank.toFixed(2) : "";
  }
}

function band(label, width) {
  const [low, high] = label.band;
  return svg("rect", { class: "band", x: 0, y: -high, width, height: Math.max(0, high - low) });
}

function verdict(label) {
  if (label.axis) return el("span", { class: "verdict", title: "a contrast between emotions, not one of them" }, "contrast");
  if (label.verdict === null || label.verdict === "usable") return null;
  return el("span", { class: "verdict", title: "what validation found this label to be worth" }, label.verdict);
}

/** The chosen label, large: words beside every line, and a second answer to compare with. */
export class Detail {
  constructor(element, about) {
    this.element = element;
    this.about = about;
  }

  draw({ label, column, readings, other, score, place }) {
    const means = readings ? readings.means[column] : [];
    const single = readings ? readings.z[column] : [];
    const compared = other ? other.means[column] : [];
    const width = Math.max(means.length - 1, compared.length - 1, this.about.window);
    const top = range(label, [...means, ...compared]);
    const chart = svg("svg", { class: "chart", viewBox: `0 ${-top} ${width} ${2 * top}`,
      preserveAspectRatio: "none", role: "img", "aria-label": this.words(label, column, readings, score) });
    if (label.band) chart.append(band(label, width));
    chart.append(line(`M0 0L${width} 0`, "zero"));
    if (label.threshold !== null) chart.append(line(`M0 ${-label.threshold}L${width} ${-label.threshold}`, "limit"));
    chart.append(line(dots(single, top), "single"));
    if (compared.length) chart.append(line(path(compared), "other"));
    chart.append(line(path(means), "mean"));
    for (const at of readings?.crossings[column] ?? []) {
      chart.append(line(`M${at} ${-top}L${at} ${fixed(-means[at])}`, "crossing"));
    }
    if (place !== null && place !== undefined) chart.append(line(`M${place} ${-top}L${place} ${top}`, "cursor"));
    const at = (v) => `${(100 * (top - v)) / (2 * top)}%`;
    const notes = el("div", { class: "notes", "aria-hidden": "true" });
    const note = (v, words, kind) => {
      const made = el("span", { class: kind }, words);
      made.style.top = at(v);
      notes.append(made);
    };
    note(0, "0", "tick");
    for (const v of [-2, 2]) if (Math.abs(v) < top) note(v, signed(v, 0), "tick");
    if (label.threshold !== null) note(label.threshold, `threshold ${signed(label.threshold)}`, "limit");
    this.element.replaceChildren(
      el("p", { class: "title" }, name(label.name), " ", el("span", { class: "quiet" }, this.sentence(label, column, readings, score))),
      el("div", { class: "plot" }, notes, chart),
      this.key(label, Boolean(compared.length)));
  }

  sentence(label, column, readings, score) {
    if (!readings || !readings.count) return "";
    if (!this.about.calibrated) return `raw mean ${signed(readings.mean(column), 2)}`;
    if (!score) return `last ${Math.min(readings.count, this.about.window)} tokens ${signed(readings.latest(column))}`;
    const rank = score.rank === null ? "" : `, above ${Math.round(100 * score.rank)} % of neutral answers`;
    return `mean ${signed(score.mean)}${rank}`;
  }

  words(label, column, readings, score) {
    const crossed = readings?.crossings[column].length ?? 0;
    const limit = label.threshold === null ? "no certified threshold"
      : `certified threshold ${signed(label.threshold)}, crossed ${crossed} times`;
    return `${label.name} over the answer: ${this.sentence(label, column, readings, score) || "nothing yet"}; ${limit}`;
  }

  key(label, compared) {
    const parts = [el("span", { class: "k mean" }, `mean of the last ${this.about.window} tokens`),
      el("span", { class: "k single" }, "single token")];
    if (compared) parts.push(el("span", { class: "k other" }, "the unsteered answer"));
    if (label.band) parts.push(el("span", { class: "k band" }, "where the means of 90 % of neutral answers lie"));
    if (label.threshold !== null) parts.push(el("span", { class: "k limit" }, `certified threshold: neutral answers cross it at most ${label.certified.toPrecision(2)} times per 1,000 tokens`));
    else parts.push(el("span", {}, label.monitored ? "no threshold is certified for this label, so it never alarms" : "not monitored, so it never alarms"));
    return el("p", { class: "key quiet" }, parts);
  }
}

function dots(values, top) {
  let d = "";
  for (let n = 0; n < values.length; n++) d += `M${n} ${fixed(-Math.max(-top, Math.min(top, values[n])))}h0`;
  return d;
}
