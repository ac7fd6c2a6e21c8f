// The scale of z: standard deviations above or below the model's own neutral answers.

import { el } from "./dom.js";

/** Bounds of |z| between the shades; below the first a word stays uncoloured. */
export const BOUNDS = [0.5, 1, 1.5, 2];

/** Returns the shade of a z: "" for ordinary, a1…a4 above, b1…b4 below. */
export function shade(z) {
  const level = BOUNDS.filter((bound) => Math.abs(z) >= bound).length;
  return level ? (z > 0 ? "a" : "b") + level : "";
}

/** Returns z with its sign, in few characters. */
export function signed(z, digits = 1) {
  if (z === null || z === undefined || !Number.isFinite(z)) return "–";
  const text = Math.abs(z).toFixed(digits);
  if (Number(text) === 0) return text;
  return (z > 0 ? "+" : "−") + text;
}

/** Fills a legend: every shade with the number that it begins at. */
export function drawScale(target) {
  const [quiet, weak, medium, strong] = BOUNDS;
  const steps = [
    ["b4", `≤ −${strong}`], ["b3", `−${medium}`], ["b2", `−${weak}`], ["b1", `−${quiet}`],
    ["", "ordinary"],
    ["a1", `+${quiet}`], ["a2", `+${weak}`], ["a3", `+${medium}`], ["a4", `≥ +${strong}`],
  ];
  target.replaceChildren(...steps.map(([step, words]) => el("span", { class: `t ${step}` }, words)));
  target.setAttribute("aria-label",
    `Colour scale: blue with a dotted line is below ordinary, orange with a solid line above; shades begin at ${BOUNDS.join(", ")} standard deviations.`);
}
