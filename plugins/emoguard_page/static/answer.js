// One answer on the page: its words, its readings, and under it notice, receipt and status.

import { announce, drawing, el, name, printable } from "./dom.js";
import { Readings } from "./readings.js";
import { describe, percent } from "./steering.js";
import { events, request } from "./requests.js";
import { signed } from "./scale.js";
import { Words } from "./words.js";

/** Span of time on the server that must have passed before a proxy can be blamed. */
const LONG = 1500;

const STATUS = {
  uncalibrated: "Not calibrated for exactly this model file: raw projections, without colours, ranks and alarms.",
  incomplete: "Incomplete: tokens without a fresh reading, so nothing is averaged.",
  skipped: "This way of generating is not read.",
  cancelled: "Broken off: the scores cover what was said.",
  error: "The reading broke; the answer did not.",
};

export class Answer {
  constructor(state, { heading, plan }, onchange) {
    this.state = state;
    this.plan = plan;
    this.readings = new Readings(state.about);
    this.report = null;
    this.text = "";
    this.busy = true;
    this.abort = new AbortController();
    this.onchange = onchange;
    this.pointed = null;
    this.words = new Words(state, (place) => { this.pointed = place; onchange(this); });
    this.below = el("div", { class: "below" });
    this.element = el("article", { class: "answer busy", "aria-busy": "true", onfocusin: () => onchange(this, true), onpointerenter: () => onchange(this, true) },
      heading ? el("h3", {}, heading) : null, this.words.text, this.below);
    this.waiting = [];
    this.flush = drawing(() => this.draw());
  }

  /** Asks for the answer and follows it to its end. */
  async follow(body) {
    try {
      const response = await request("answer", {
        method: "POST", headers: { "content-type": "application/json" },
        body: JSON.stringify(body), signal: this.abort.signal,
      });
      for await (const { name: kind, data } of events(response)) {
        if (kind === "frame") this.take(data);
        if (kind === "end") { this.end(data); return; }
      }
      throw new Error("early");
    } catch (error) {
      this.fail(this.abort.signal.aborted ? "Stopped." : error.status ? error.message
        : "The connection broke before the answer was complete; what came is above.");
    }
  }

  take({ at, spans }) {
    const now = performance.now();
    this.times ??= { at, now };
    this.spread = { server: at - this.times.at, here: now - this.times.now };
    for (const span of spans) {
      this.waiting.push(span);
      this.text += span[0];
    }
    this.flush();
  }

  draw() {
    for (const [text, z, reasoning] of this.waiting) {
      const place = z && !reasoning ? this.readings.add(z) : null;
      this.words.add(text, z ?? null, Boolean(reasoning), place);
    }
    this.waiting = [];
    this.onchange(this);
  }

  end({ report, notice, error, finish }) {
    this.draw();
    this.report = report;
    this.notice = notice;
    this.finish = finish;
    this.done();
    this.below.append(...[error ? el("p", { class: "wrong", role: "alert" }, printable(error)) : null,
      this.noticeBox(), this.receiptBox(), this.statusLine(), this.heldBack()].filter(Boolean));
    const { about, column } = this.state;
    const score = report?.scores[about.labels[column].name];
    announce(`Answer complete. ${score ? `${about.labels[column].name}: mean ${signed(score.mean)}.` : ""} ${notice?.text ?? ""}`);
    this.onchange(this);
  }

  fail(why) {
    this.draw();
    this.done();
    this.below.append(el("p", { class: "wrong", role: "alert" }, printable(why)));
    this.onchange(this);
  }

  done() {
    this.busy = false;
    this.element.classList.remove("busy");
    this.element.setAttribute("aria-busy", "false");
  }

  /** Returns the score of a label in the report, null while there is none. */
  score(label) {
    return this.report?.scores[label.name] ?? null;
  }

  noticeBox() {
    const { notice } = this;
    if (!notice) return null;
    const why = `due: ${[...notice.reasons, ...notice.profiles].join(", ")}`;
    const behind = notice.text && this.text.trimEnd().endsWith(notice.text);
    return el("aside", { class: "notice", "aria-label": "Notice to the user" },
      el("p", {}, el("b", {}, "Notice to the user "), el("span", { class: "quiet" }, printable(why))),
      el("p", {}, behind ? "Given behind the text above." : notice.text ? printable(notice.text) : "Shown before in this conversation: nothing changed."));
  }

  receiptBox() {
    const receipt = this.report?.receipt;
    if (!receipt) return null;
    const rows = [
      ["asked", describe(receipt.asked ?? receipt.plan) + (receipt.asked ? `; clipped by the policy to ${describe(receipt.plan)}` : "")],
      ["realised", receipt.dose_median === null ? "nothing: there was no token" : `${percent(receipt.dose_median)} of the state’s length in the median token, ${percent(receipt.dose_max)} at most; the bound is ${percent(receipt.bound)}`],
      ["tokens moved", `${receipt.applied} of ${this.report.completion_tokens}, at layers ${receipt.layers.join(", ")}`],
      ["clipped", `${receipt.clipped} tokens, where the bound cut the step short`],
    ];
    if (receipt.faulted) rows.push(["not steered", `${receipt.faulted} tokens: a number was not finite, or steering broke`]);
    return el("section", { class: "receipt", "aria-label": "Receipt of the steering" }, el("h4", {}, "Receipt"),
      el("dl", {}, rows.map(([key, value]) => [el("dt", {}, key), el("dd", {}, printable(value))])));
  }

  statusLine() {
    const { report } = this;
    if (!report) return el("p", { class: "quiet" }, "EmoGuard did not read this answer: the server generates it where no request is known.");
    const parts = [`${report.tokens_scored} of ${report.completion_tokens} tokens read`];
    if (report.attention_sinks) parts.push(`${report.attention_sinks} at an attention sink, not scored`);
    if (this.finish === "length") parts.push("ended at the limit of tokens");
    if (report.finish === "halted") parts.push(`ended by the policy: ${report.detail}`);
    if (report.denied.length) parts.push(`the policy did not allow: ${report.denied.join(", ")}`);
    const line = el("p", { class: "quiet" }, printable(parts.join(" · ")));
    if (report.status in STATUS) line.append(el("br"), el("b", {}, STATUS[report.status]), report.detail ? ` ${printable(report.detail)}` : "");
    return line;
  }

  heldBack() {
    const { server, here } = this.spread ?? { server: 0, here: 0 };
    if (server < LONG || here > server * 0.3) return null;
    return el("p", { class: "caution" }, "The answer took ", `${(server / 1000).toFixed(1)} s`, " and arrived all at once: a proxy between this page and the server holds streams back. Switch its buffering off for /emoguard/.");
  }
}
