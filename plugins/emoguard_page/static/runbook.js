// Shows a section of the runbook: what an alert means, where to look first, what to do.

import { by, el, printable } from "./dom.js";

let loaded = null;

async function load() {
  try {
    const response = await fetch("runbook.md", { credentials: "omit" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return await response.text();
  } catch (error) {
    loaded = null;
    throw error;
  }
}

async function sections() {
  loaded ??= load();
  const parts = (await loaded).split(/^## /m).slice(1);
  return new Map(parts.map((part) => {
    const end = part.indexOf("\n");
    return [part.slice(0, end).trim(), part.slice(end + 1).trim()];
  }));
}

/** Returns a button that opens a section. */
export function runbookButton(section) {
  return el("button", { type: "button", class: "link", onclick: () => open(section) }, `Runbook: ${section}`);
}

async function open(section) {
  let text;
  try {
    text = (await sections()).get(section) ?? "The runbook has no such section.";
  } catch (error) {
    text = `The runbook could not be loaded (${error.message}): close this and try again.`;
  }
  by("runbook-title").textContent = section;
  by("runbook-text").replaceChildren(...blocks(text));
  by("runbook").showModal();
}

/** Returns paragraphs and numbered steps: the little of Markdown that the runbook uses. */
function blocks(text) {
  return text.split(/\n\s*\n/).flatMap((block) => {
    const lines = block.split("\n");
    const first = lines.findIndex((line) => /^\d+\. /.test(line));
    if (first < 0) return [el("p", {}, inline(lines.join(" ")))];
    const steps = lines.slice(first).join("\n").split(/^\d+\. /m).slice(1);
    const intro = lines.slice(0, first).join(" ");
    return [intro ? el("p", {}, inline(intro)) : null,
      el("ol", {}, steps.map((step) => el("li", {}, inline(step.replace(/\s+/g, " ")))))].filter(Boolean);
  });
}

function inline(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`|\*[^*]+\*)/).map((part) => {
    if (part.startsWith("**")) return el("b", {}, printable(part.slice(2, -2)));
    if (part.startsWith("`")) return el("code", {}, printable(part.slice(1, -1)));
    if (part.startsWith("*") && part.endsWith("*") && part.length > 2) return el("i", {}, printable(part.slice(1, -1)));
    return printable(part);
  });
}
