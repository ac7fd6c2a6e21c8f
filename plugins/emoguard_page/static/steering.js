// Sliders for the plan of the next answer, where the policy lets requests steer.

import { by, el, name } from "./dom.js";

export class Steering {
  constructor(about) {
    const panel = by("steering-panel");
    this.about = about.steering;
    this.sliders = new Map();
    by("steering").hidden = false;
    if (!this.about.allowed) {
      panel.replaceChildren(el("p", { class: "quiet" }, `Not here: ${this.about.why}.`));
      this.update();
      return;
    }
    const standing = describe(this.about.plan);
    this.meter = el("meter", { min: 0, max: this.about.bound, value: 0, "aria-label": "Dose asked for" });
    this.words = el("p", { class: "quiet", id: "steering-words", role: "status" });
    panel.replaceChildren(...[
      el("p", { class: "quiet" }, "Each slider moves the model’s state along one label’s direction, by a share of the state’s own length; all together at most ",
        el("b", {}, percent(this.about.bound)), ", whatever is asked for."),
      standing ? el("p", { class: "quiet" }, `The policy steers every answer already: ${standing}.`) : null,
      el("div", { class: "sliders" }, about.labels.filter((label) => label.monitored).map((label) => this.slider(label))),
      this.meter, this.words,
      el("button", { type: "button", onclick: () => this.reset() }, "All to zero")].filter(Boolean));
    this.update();
  }

  slider(label) {
    const output = el("output", { class: "number" }, "0");
    const input = el("input", { type: "range", min: String(-this.about.bound), max: String(this.about.bound),
      step: "0.005", value: "0", oninput: () => this.update() });
    this.sliders.set(label.name, { input, output });
    return el("label", {}, el("span", {}, name(label.name)), input, output);
  }

  reset() {
    for (const { input } of this.sliders.values()) input.value = "0";
    this.update();
  }

  /** Returns the plan that is asked for, null for none. */
  plan() {
    const add = {};
    for (const [label, { input }] of this.sliders) if (Number(input.value)) add[label] = Number(input.value);
    return Object.keys(add).length ? { add } : null;
  }

  update() {
    const plan = this.plan();
    let dose = 0;
    for (const { input, output } of this.sliders.values()) {
      const value = Number(input.value);
      dose += Math.abs(value);
      output.textContent = value ? percent(value, true) : "0";
    }
    by("steering-summary").textContent = plan ? describe(plan) : this.about.allowed ? "" : "(not allowed)";
    if (!this.meter) return;
    const excess = dose > this.about.bound + 1e-9;
    this.meter.value = Math.min(dose, this.about.bound);
    this.words.textContent = `${percent(dose)} of ${percent(this.about.bound)} asked for`
      + (excess ? (this.about.clips ? ": the policy will clip it" : ": the policy refuses more, lower a slider") : "");
    this.words.classList.toggle("wrong", excess);
  }
}

export function percent(share, sign = false) {
  const text = `${(100 * Math.abs(share)).toFixed(1).replace(/\.0$/, "")} %`;
  return (share < 0 ? "−" : sign ? "+" : "") + text;
}

/** Returns a plan in words. */
export function describe(plan) {
  const parts = Object.entries(plan.add ?? {}).map(([label, dose]) => `${label} ${percent(dose, true)}`);
  for (const [label, limit] of Object.entries(plan.cap ?? {})) parts.push(`${label} held below its ${Math.round(100 * limit)} % quantile`);
  for (const [label, limit] of Object.entries(plan.floor ?? {})) parts.push(`${label} held above its ${Math.round(100 * limit)} % quantile`);
  for (const label of plan.ablate ?? []) parts.push(`${label} held at its neutral median`);
  return parts.join(", ");
}
