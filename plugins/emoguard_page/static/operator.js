// The operator's view: recent traffic by label, evidence of the monitors, alerts, notices, errors.

import { by, drawing, el, name, printable, svg } from "./dom.js";
import { runbookButton } from "./runbook.js";

const count = (n) => n.toLocaleString("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const when = (at) => clock.format(new Date(at * 1000));
const sum = (values) => values.reduce((a, b) => a + b, 0);

const RECENT = 50;

export class Operator {
  constructor() {
    this.clear();
    this.about = null;
    this.redraw = drawing(() => this.draw());
    by("range").addEventListener("change", this.redraw);
  }

  clear() {
    this.rows = [];
    this.state = null;
    this.alerts = [];
    this.open = [];
  }

  /** Takes one event of the server. */
  take(kind, data) {
    if (kind === "restarted" || kind === "reset") this.clear();
    if (kind === "about") this.about = data;
    if (kind === "responses") {
      const last = this.rows.at(-1)?.number ?? 0;
      this.rows.push(...data.filter((row) => row.number > last));
      this.rows.splice(0, this.rows.length - (this.about?.keeps ?? 1000));
    }
    if (kind === "state" || kind === "alerts" || kind === "open") this[kind] = data;
    this.redraw();
  }

  draw() {
    if (by("operator").hidden || !this.about) return;
    if (this.about.disabled || this.about.keeps === null) {
      by("traffic-words").textContent = this.about.disabled
        ? "EMOGUARD_DISABLE=1: nothing is read."
        : "Nothing is kept to show: put the sink page into the policy (sinks: [{page: {}}]).";
      return;
    }
    const shown = this.rows.slice(-Number(by("range").value));
    this.drawTiles();
    this.drawConditions();
    this.drawTraffic(shown);
    this.drawAlerts();
    this.drawOpen();
    this.drawRecent();
  }

  group(name) {
    return this.state?.counts[name] ?? {};
  }

  drawTiles() {
    const status = this.group("status");
    const notice = this.group("notice");
    const tiles = [
      ["responses", count(this.state?.taken ?? 0), words(status)],
      ["crossings", count(sum(this.rows.map((row) => sum(row.crossings)))), `in the last ${count(this.rows.length)} responses`],
      ["steered", count(this.group("steering").steered ?? 0), this.group("steering").faulted ? `${this.group("steering").faulted} with faults` : "no fault"],
      ["notices given", count(notice.given ?? 0), [`${notice.lost ?? 0} lost`, this.state?.overdue === null ? null : `${this.state?.overdue ?? 0} overdue`].filter(Boolean).join(", ")],
      ["failed parts", count(sum(Object.values(this.group("fault")))), words(this.group("fault")) || "none"],
      ["denied requests", count(sum(Object.values(this.group("denied")))), words(this.group("denied")) || "none"],
    ];
    by("tiles").replaceChildren(...tiles.map(([title, number, more]) => el("div", { class: "tile" },
      el("span", { class: "quiet" }, title), el("b", {}, number), el("span", { class: "quiet" }, printable(more)))));
  }

  drawConditions() {
    const { state } = this;
    if (!state) return;
    const found = [];
    const incomplete = this.group("status").incomplete ?? 0;
    if (state.policy_error) found.push(["The policy file was changed and refused; the last good one stays in force.", "EmoGuardPolicyReloadFailed", state.policy_error]);
    if (state.log_error) found.push(["The log could not be read again; this is how it was.", null, state.log_error]);
    if (state.overdue) found.push([`${state.overdue} notices are overdue.`, "EmoGuardNoticeOverdue"]);
    if (sum(Object.values(this.group("fault")))) found.push(["Parts of EmoGuard failed; answers went out untouched.", "EmoGuardErrors", words(this.group("fault"))]);
    if (this.group("steering").faulted) found.push(["Tokens that a plan should have moved were left alone.", "EmoGuardSteeringFault"]);
    if (incomplete >= 3 && incomplete > state.taken / 100) found.push([`${incomplete} responses are incomplete.`, "EmoGuardIncompleteResponses"]);
    for (const [monitor, section] of [["rate", "EmoGuardRateExceeded"], ["drift", "EmoGuardDriftDetected"]]) {
      const raised = [...new Set(this.alerts.filter((alert) => alert.monitor === monitor).map((alert) => alert.label))];
      if (raised.length) found.push([monitor === "rate" ? "More responses cross a threshold than certified." : "Responses moved away from the baseline.", section, raised.join(", ")]);
    }
    by("conditions").replaceChildren(...found.map(([words_, section, more]) => el("p", { class: "caution" },
      el("b", {}, words_), more ? ` ${printable(more)} ` : " ", section ? runbookButton(section) : "")));
  }

  drawTraffic(rows) {
    const { about, state } = this;
    const parts = [`Each dot is the place of one response’s mean among neutral answers: 0 below all, 1 above all; a square is one that crossed the certified threshold.`];
    parts.push("Evidence is what the monitors have seen for a change, as a share of what raises an alarm: 1 alarms.");
    if (state?.learning) parts.push("Drift is learning: it has no baseline yet, so it is silent.");
    if (state?.baseline) parts.push(`Baseline of ${day.format(new Date(state.baseline * 1000))}.`);
    if (rows.length) parts.push(`From ${day.format(new Date(rows[0].at * 1000))} to ${day.format(new Date(rows.at(-1).at * 1000))}.`);
    else parts.push("No response yet.");
    by("traffic-words").textContent = parts.join(" ");
    const lines = about.labels.map((label, n) => [label, n]);
    by("traffic").replaceChildren(...this.table(lines.filter(([label]) => label.monitored), rows));
    const lesser = lines.filter(([label]) => !label.monitored);
    by("lesser").hidden = !lesser.length;
    by("traffic-lesser").replaceChildren(...this.table(lesser, rows));
  }

  table(lines, rows) {
    const heads = ["label", "rank of each response, oldest left", "mean rank", "crossings per 1,000 tokens", "rate evidence", "drift evidence"];
    return [
      el("thead", {}, el("tr", {}, heads.map((head, n) => el("th", { scope: "col", class: n === 2 || n === 3 ? "number" : "" }, head)))),
      el("tbody", {}, lines.map(([label, n]) => this.line(label, n, rows))),
    ];
  }

  line(label, n, rows) {
    const ranked = rows.filter((row) => row.ranks[n] !== null && row.sampled);
    const ranks = ranked.map((row) => row.ranks[n]);
    const windows = sum(ranked.map((row) => row.windows));
    const crossed = sum(ranked.map((row) => row.crossings[n]));
    const mean = ranks.length ? sum(ranks) / ranks.length : null;
    const rate = windows ? (1000 * crossed) / windows : null;
    const { state } = this;
    return el("tr", {},
      el("th", { scope: "row" }, name(label.name), label.verdict && label.verdict !== "usable" ? el("span", { class: "verdict" }, label.verdict) : null),
      el("td", {}, strip(ranked, n)),
      el("td", { class: "number" }, mean === null ? "–" : mean.toFixed(2)),
      el("td", { class: "number" }, rate === null ? "–" : rate.toFixed(2), el("span", { class: "quiet" },
        label.certified === null ? " no limit certified" : ` of ${label.certified.toPrecision(2)}`)),
      el("td", {}, evidence(state?.rate?.[label.name], "rate", label.name)),
      el("td", {}, state?.learning && label.monitored ? el("span", { class: "quiet" }, "learning")
        : evidence(state?.drift?.[label.name], "drift", label.name)));
  }

  drawAlerts() {
    const alerts = [...this.alerts].reverse();
    by("alerts").replaceChildren(alerts.length ? el("ul", { class: "alerts" }, alerts.map((alert) => el("li", {},
      el("b", {}, `${alert.severity}: ${alert.monitor}, `, name(alert.label)),
      el("span", { class: "quiet" }, alert.at ? ` ${day.format(new Date(alert.at * 1000))}` : ""),
      el("br"), printable(alert.message), " ", alert.section ? runbookButton(alert.section) : "",
      el("span", { class: "quiet" }, ` response ${printable(alert.id)}`)))) : el("p", { class: "quiet" }, "None so far."));
  }

  drawOpen() {
    const { about, open } = this;
    const monitored = about.labels.map((label, n) => [label, n]).filter(([label]) => label.monitored);
    const none = about.chat ? "No answer at the moment." : "A log has finished responses only.";
    by("open").replaceChildren(...(open.length ? open.map((one, number) => el("div", { class: "going" },
      el("p", {}, `Answer ${number + 1}: ${count(one.tokens)} tokens so far`),
      one.curves ? el("div", { class: "mini" }, monitored.map(([label, n]) => curve(label, one.curves[n] ?? []))) : null))
      : [el("p", { class: "quiet" }, none)]),
      about.curves || !about.chat ? "" : el("p", { class: "quiet" }, "The policy keeps scores of other people’s answers from this view while they are generated (page.curves)."));
  }

  drawRecent() {
    const rows = this.rows.slice(-RECENT).reverse();
    const heads = ["time", "status", "tokens", "highest rank", "crossed", "steered", "notice", "failed", "response"];
    by("recent").replaceChildren(
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows.map((row) => el("tr", {},
        el("td", { title: day.format(new Date(row.at * 1000)) }, when(row.at)),
        el("td", { title: row.detail ? printable(row.detail) : "" }, row.status, row.finish === "halted" ? ", halted" : ""),
        el("td", { class: "number" }, count(row.tokens)),
        el("td", {}, this.highest(row)),
        el("td", {}, this.crossed(row)),
        el("td", {}, row.steered ? "yes" : ""),
        el("td", {}, row.notice ? `${row.notice.kind}, ${row.notice.channel ?? "lost"} (${row.notice.reasons.join(", ")})` : ""),
        el("td", {}, printable(row.faults.join(", "))),
        el("td", { class: "id" }, printable(row.id))))));
  }

  highest(row) {
    const monitored = row.ranks.map((rank, n) => [rank, n]).filter(([rank, n]) => rank !== null && this.about.labels[n].monitored);
    if (!monitored.length) return "–";
    const [rank, n] = monitored.reduce((best, one) => (one[0] > best[0] ? one : best));
    return el("span", {}, name(this.about.labels[n].name), ` ${rank.toFixed(2)}`);
  }

  crossed(row) {
    const found = row.crossings.map((times, n) => [times, n]).filter(([times]) => times);
    return el("span", {}, found.flatMap(([times, n], at) => [at ? ", " : "", name(this.about.labels[n].name), times > 1 ? ` ×${times}` : ""]));
  }
}

function words(counts) {
  return Object.entries(counts).map(([key, n]) => `${count(n)} ${key}`).join(", ");
}

/** Ranks of responses over time: one path of dots, one of squares where a threshold was crossed. */
function strip(rows, n) {
  const width = 400;
  const height = 44;
  const at = (rank) => (4 + (1 - rank) * (height - 8)).toFixed(1);
  let dots = "";
  let marks = "";
  rows.forEach((row, place) => {
    const x = (4 + ((width - 8) * (place + 0.5)) / rows.length).toFixed(1);
    const y = at(row.ranks[n]);
    if (row.crossings[n]) marks += `M${x} ${y}h0`;
    else dots += `M${x} ${y}h0`;
  });
  const crossed = rows.filter((row) => row.crossings[n]).length;
  return svg("svg", { class: "strip", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${rows.length} responses, ${crossed} of them crossed the threshold` },
  svg("rect", { class: "band", x: 0, y: at(0.95), width, height: at(0.05) - at(0.95) }),
  svg("path", { class: "zero", d: `M0 ${at(0.5)}H${width}`, "vector-effect": "non-scaling-stroke" }),
  svg("path", { class: "dots", d: dots, "vector-effect": "non-scaling-stroke" }),
  svg("path", { class: "crossed", d: marks, "vector-effect": "non-scaling-stroke" }));
}

/** A share of what raises an alarm, as a bar and a number. */
function evidence(share, monitor, label) {
  if (share === undefined || share === null) return el("span", { class: "quiet" }, "–");
  const text = share >= 0.995 ? share.toFixed(1) : share >= 0.01 ? share.toFixed(2) : share > 0 ? "<.01" : "0";
  return el("span", { class: "evidence" },
    el("meter", { min: 0, max: 1, high: 0.5, value: Math.min(1, share), "aria-label": `${monitor} evidence for ${label}: ${text} of an alarm` }),
    el("span", { class: "number" }, `${text} of 1`));
}

function curve(label, values) {
  const top = Math.max(2.2, (label.threshold ?? 0) * 1.15, ...values.map(Math.abs));
  const d = values.map((v, x) => `${x ? "L" : "M"}${x} ${(-v).toFixed(2)}`).join("");
  const width = Math.max(15, values.length - 1);
  const chart = svg("svg", { class: "spark", viewBox: `0 ${-top} ${width} ${2 * top}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  if (label.threshold !== null) chart.append(svg("path", { class: "limit", d: `M0 ${-label.threshold}H${width}`, "vector-effect": "non-scaling-stroke" }));
  chart.append(svg("path", { class: "mean", d, "vector-effect": "non-scaling-stroke" }));
  const last = values.at(-1);
  return el("span", {}, name(label.name), chart, el("span", { class: "number" }, last === undefined ? "" : last.toFixed(1)));
}
