// The text of one answer: a span per token in the shade of its score, and a card with all its labels.

import { announce, by, el, name, printable } from "./dom.js";
import { shade, signed } from "./scale.js";

export class Words {
  /** `state` is what the views share: about, the chosen label's column, whether numbers are shown. */
  constructor(state, onpoint) {
    this.state = state;
    this.onpoint = onpoint;
    this.tokens = [];
    this.at = -1;
    this.line = null;
    this.text = el("div", {
      class: "words", tabindex: "0", role: "group",
      "aria-label": "Answer, token by token. Arrow keys move from token to token and say its scores.",
      onkeydown: (event) => this.key(event),
      onblur: () => this.point(-1),
      onpointerover: (event) => this.hover(event),
      onpointerleave: () => this.point(-1),
      onclick: (event) => this.hover(event),
    });
    this.nextLine();
  }

  /** Adds a part of the text; `z` is null where nothing was read that counts. */
  add(text, z, reasoning, place) {
    const shown = printable(text);
    if (!shown) return; // a token of no text has its place in the curves only
    const token = { text: shown, z, reasoning, place, spans: [] };
    const number = this.tokens.push(token) - 1;
    shown.split("\n").forEach((part, n) => {
      if (n) this.nextLine();
      // Blanks in front stay outside: their colour would hang over the end of a line.
      const blank = part.length - part.trimStart().length;
      if (blank) this.line.append(part.slice(0, blank));
      if (blank === part.length) return;
      const span = el("span", { class: "t" }, part.slice(blank));
      span.token = number;
      token.spans.push(span);
      this.line.append(span);
    });
    this.paint(token);
  }

  nextLine() {
    this.line = el("div", { class: "line" });
    this.text.append(this.line);
  }

  /** Colours all words anew, after another label was chosen. */
  repaint() {
    this.tokens.forEach((token) => this.paint(token));
  }

  paint(token) {
    const { about, column } = this.state;
    const z = token.z && about.calibrated ? token.z[column] : null;
    const classes = ["t", z === null ? "" : shade(z), token.reasoning ? "reasoning" : ""];
    token.spans.forEach((span, n) => {
      span.className = classes.filter(Boolean).join(" ");
      if (z !== null && n === token.spans.length - 1) span.dataset.z = signed(z);
      else delete span.dataset.z;
    });
  }

  hover(event) {
    const number = event.target.token;
    if (number !== undefined) this.point(number);
  }

  key(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
    const last = this.tokens.length - 1;
    let to = null;
    if (event.key in steps) to = Math.min(last, Math.max(0, this.at + steps[event.key]));
    if (event.key === "Home") to = 0;
    if (event.key === "End") to = last;
    if (event.key === "Escape") to = -1;
    if (to === null || last < 0) return;
    event.preventDefault();
    this.point(to);
    if (to >= 0) this.say(to);
  }

  /** Shows the card of a token; −1 shows none. */
  point(number) {
    const card = by("card");
    this.tokens[this.at]?.spans.forEach((span) => span.classList.remove("at"));
    this.at = number;
    this.onpoint(number < 0 ? null : this.tokens[number].place);
    if (number < 0) {
      card.hidden = true;
      return;
    }
    const token = this.tokens[number];
    token.spans.forEach((span) => span.classList.add("at"));
    fill(card, token, number, this.tokens.length, this.state);
    card.hidden = !token.spans.length;
    if (token.spans.length) put(card, token.spans[0]);
  }

  say(number) {
    const { about, column } = this.state;
    const { text, z } = this.tokens[number];
    if (!z) {
      announce(`${text.trim() || "blank"}: not scored`);
      return;
    }
    const order = z.map((value, n) => n).sort((a, b) => Math.abs(z[b]) - Math.abs(z[a]));
    const strongest = order.filter((n) => n !== column).slice(0, 2)
      .map((n) => `${about.labels[n].name} ${signed(z[n])}`).join(", ");
    announce(`${text.trim() || "blank"}: ${about.labels[column].name} ${signed(z[column])}; then ${strongest}`);
  }
}

function fill(card, token, number, count, state) {
  const { about, column } = state;
  const title = el("p", { class: "title" },
    el("q", {}, printable(token.text.trim() || token.text)),
    el("span", { class: "quiet" }, ` token ${number + 1} of ${count}${token.reasoning ? ", reasoning" : ""}`));
  if (!token.z) {
    card.replaceChildren(title, el("p", { class: "quiet" }, token.reasoning
      ? "Reasoning is shown and not scored." : "Not scored: nothing was read for this text that counts."));
    return;
  }
  const rows = token.z.map((z, n) => {
    const bar = el("i", { class: `bar ${z > 0 ? "above" : "below"}` });
    bar.style.width = `${Math.min(1, Math.abs(z) / 3) * 50}%`;
    return el("div", { class: n === column ? "chosen" : "" },
      el("span", {}, name(about.labels[n].name)), el("span", { class: "track" }, bar),
      el("span", { class: "number" }, about.calibrated ? signed(z) : signed(z, 2)));
  });
  card.replaceChildren(title, el("div", { class: "rows" }, rows), el("p", { class: "quiet" },
    about.calibrated ? "standard deviations from neutral answers" : "raw projections: not calibrated"));
}

function put(card, span) {
  const place = span.getClientRects()[0];
  if (!place) return;
  const { width, height } = card.getBoundingClientRect();
  const below = place.bottom + 8 + height < window.innerHeight;
  card.style.left = `${Math.max(8, Math.min(place.left, window.innerWidth - width - 8))}px`;
  card.style.top = `${below ? place.bottom + 8 : Math.max(8, place.top - height - 8)}px`;
}
