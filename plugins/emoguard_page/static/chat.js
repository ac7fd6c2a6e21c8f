// The view of answers: what is said, what the model answers, and the labels beside it.

import { by, drawing, el, name, printable } from "./dom.js";
import { Answer } from "./answer.js";
import { Detail, LabelRow } from "./curves.js";
import { Steering, describe } from "./steering.js";
import { drawScale } from "./scale.js";

const EXAMPLES = [
  "I got the job! Help me write a message to my parents.",
  "My cat died this morning and I don’t know what to do.",
  "Explain how a bicycle stays upright.",
];

/** Drawing every label's line takes a while: so many milliseconds apart is enough. */
const APART = 150;

export class Chat {
  constructor(state) {
    this.state = state;
    this.messages = [];
    this.current = null;
    this.other = null;
    this.running = null;
    this.lastDrawn = 0;
    this.timer = null;
    this.conversation = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    this.redraw = drawing(() => this.draw());
    by("say").addEventListener("submit", (event) => { event.preventDefault(); this.say(); });
    by("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.say(); }
    });
    by("stop").addEventListener("click", () => this.running?.abort.abort());
    by("fresh").addEventListener("click", () => this.fresh());
    by("label").addEventListener("change", (event) => this.choose(Number(event.target.value)));
    by("numbers").addEventListener("change", (event) => document.body.classList.toggle("numbers", event.target.checked));
    by("examples").replaceChildren(...EXAMPLES.map((text) => el("button", { type: "button", onclick: () => {
      by("prompt").value = text;
      this.say();
    } }, text)));
  }

  /** Takes what the server says of itself; labels are made anew only if they are others. */
  take(about) {
    const labels = JSON.stringify(about.labels);
    this.state.about = about;
    if (about.disabled || !about.labels.length) return;
    if (labels !== this.labels) {
      this.labels = labels;
      this.state.column = Math.max(0, about.labels.findIndex((label) => label.name === about.colour));
      this.current = this.other = null;
      this.makeLabels(about);
      if (this.messages.length) this.fresh();
    }
    const steering = JSON.stringify(about.steering);
    if (steering !== this.steered) {
      this.steered = steering;
      this.steering = new Steering(about);
    }
    this.redraw();
  }

  makeLabels(about) {
    for (const scale of document.querySelectorAll(".scale")) {
      scale.hidden = !about.calibrated;
      drawScale(scale);
    }
    by("label").replaceChildren(...about.labels.map((label, n) => el("option", { value: String(n) }, printable(label.name))));
    by("label").value = String(this.state.column);
    by("scale-words").textContent = about.calibrated
      ? `Standard deviations from ${about.responses.toLocaleString("en")} neutral answers of this very model file. Blue, dotted: below; orange, underlined: above.`
      : "This model file is not calibrated: numbers are raw projections, and the text stays uncoloured.";
    this.detail = new Detail(by("detail"), about);
    this.rows = about.labels.map((label, n) => new LabelRow(label, n, n === this.state.column, () => this.choose(n)));
    const main = this.rows.filter((row) => row.label.monitored);
    const rest = this.rows.filter((row) => !row.label.monitored);
    const head = el("div", { class: "row head", "aria-hidden": "true" }, el("span"), el("span", {}, "label"), el("span", {}, "over the answer"), el("span", { class: "number" }, "mean"), el("span", { class: "rank" }, "rank"));
    by("labels").replaceChildren(el("legend", {}, "Colour by"), head, ...main.map((row) => row.element));
    if (rest.length) {
      by("labels").append(el("details", { open: !main.length || rest.some((row) => row.column === this.state.column) },
        el("summary", {}, `${rest.length} not monitored: validation did not find them usable, or the policy leaves them out`), rest.map((row) => row.element)));
    }
  }

  choose(column) {
    this.state.column = column;
    by("label").value = String(column);
    this.rows[column].radio.checked = true;
    for (const answer of this.all()) answer.words.repaint();
    this.redraw();
  }

  all() {
    return [...by("turns").querySelectorAll(".answer")].map((element) => element.answer);
  }

  fresh() {
    this.running?.abort.abort();
    this.messages = [];
    this.conversation = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    by("turns").replaceChildren();
    by("welcome").hidden = false;
    this.look(null);
    by("prompt").focus();
  }

  async say() {
    const text = by("prompt").value.trim();
    const { about } = this.state;
    const { messages } = this; // a new conversation, begun while this answer comes, has its own
    by("form-error").textContent = "";
    if (this.running) return;
    if (!text) { by("form-error").textContent = "There is nothing to answer yet: write something first."; return; }
    if (!about) { by("form-error").textContent = "Not connected yet: wait a moment."; return; }
    by("prompt").value = "";
    by("welcome").hidden = true;
    messages.push({ role: "user", content: text });
    const plan = this.steering?.plan() ?? null;
    const asked = {
      messages: [...messages],
      max_tokens: bounded(by("most"), 200), temperature: bounded(by("temperature"), 0.7),
      seed: Math.floor(Math.random() * 2 ** 31),
    };
    const answers = el("div", { class: "side" });
    by("turns").append(el("li", {}, el("p", { class: "asked" }, printable(text)), answers));
    const answer = await this.answer(answers, asked, plan, plan ? `Steered: ${describe(plan)}` : "");
    if (answer.text) messages.push({ role: "assistant", content: answer.text });
    else messages.pop();
    if (answer.report?.receipt) this.offer(answer, answers, asked);
  }

  async answer(place, asked, plan, heading) {
    const own = { ...(plan ? { plan } : {}), ...(this.state.about.conversation ? { conversation: this.conversation } : {}) };
    const answer = new Answer(this.state, { heading, plan }, (one, chosen) => this.changed(one, chosen));
    answer.element.answer = answer;
    place.append(answer.element);
    this.running = answer;
    this.look(answer);
    by("send").disabled = true;
    by("stop").hidden = false;
    (place.classList.contains("two") ? place : answer.element).scrollIntoView({ block: place.classList.contains("two") ? "start" : "nearest" });
    await answer.follow({ ...asked, ...(Object.keys(own).length ? { emoguard: own } : {}) });
    this.running = null;
    by("send").disabled = false;
    by("stop").hidden = true;
    return answer;
  }

  /** Offers the same prompt, seed and all, without the plan of the viewer. */
  offer(steered, place, asked) {
    const button = el("button", { type: "button", class: "compare", onclick: async () => {
      if (this.running) return;
      button.remove();
      place.classList.add("two");
      const standing = describe(this.state.about.steering.plan);
      const plain = await this.answer(place, asked, null, standing ? "Only the policy’s own steering" : "The same, unsteered");
      steered.pair = plain;
      plain.pair = steered;
      this.look(steered);
    } }, "Answer the same unsteered, to compare");
    steered.below.append(button);
  }

  changed(answer, chosen) {
    if (chosen && answer !== this.current) this.look(answer);
    if (answer === this.current) this.redraw();
  }

  /** Shows the labels of one answer. */
  look(answer) {
    this.current = answer;
    this.rows?.forEach((row) => row.clear());
    for (const element of by("turns").querySelectorAll(".answer")) element.classList.toggle("current", element.answer === answer);
    this.lastDrawn = 0;
    this.redraw();
  }

  /** Follows an answer that grows beyond the window, unless the reader has gone up. */
  keepEndInView() {
    const page = document.documentElement;
    const height = page.scrollHeight;
    const below = (this.height ?? height) - page.clientHeight - page.scrollTop;
    if (this.running && height > this.height && below < 80 && !this.running.element.parentNode.classList.contains("two")) page.scrollTop = height;
    this.height = height;
  }

  draw() {
    const { about, column } = this.state;
    if (!this.detail || !this.rows) return;
    const answer = this.current;
    const label = about.labels[column];
    this.keepEndInView();
    const now = performance.now();
    if (answer?.busy && answer.pointed === null && now - this.lastDrawn < APART) {
      this.timer ??= setTimeout(() => { this.timer = null; this.redraw(); }, APART);
      return;
    }
    this.lastDrawn = now;
    this.detail.draw({ label, column, readings: answer?.readings ?? null, other: answer?.pair?.readings ?? null,
      score: answer?.score(label) ?? null, place: answer?.pointed ?? null });
    if (answer) for (const row of this.rows) row.draw(answer.readings, answer.score(row.label));
  }
}

function bounded(input, otherwise) {
  const value = Number(input.value);
  if (input.value === "" || !Number.isFinite(value)) return otherwise;
  return Math.min(Number(input.max), Math.max(Number(input.min), value));
}
