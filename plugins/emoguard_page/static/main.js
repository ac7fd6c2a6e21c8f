// Puts the page together: views, theme, and the stream that tells it what the server is.

import { by, el, name, printable } from "./dom.js";
import { Chat } from "./chat.js";
import { Connection } from "./connection.js";
import { Operator } from "./operator.js";

const state = { about: null, column: 0 };
const chat = new Chat(state);
const operator = new Operator();

const connection = new Connection((kind, data) => {
  if (kind === "about") greet(data);
  operator.take(kind, data);
});

function greet(about) {
  by("model").replaceChildren(...(about.model
    ? [name(about.model), el("span", { class: "quiet" }, ` ${printable([about.quantisation, about.backend].filter(Boolean).join(" · "))}`)] : []));
  by("cautions").replaceChildren(...[...(about.cautions ?? []),
    ...(about.disabled ? ["EMOGUARD_DISABLE=1: EmoGuard is not attached, nothing is read."] : [])]
    .map((text) => el("p", { class: "caution" }, printable(text))));
  by("to-answers").hidden = !about.chat;
  chat.take(about);
  if (!about.chat && view() !== "operator") location.hash = "#operator";
}

function view() {
  return location.hash === "#operator" ? "operator" : "answers";
}

function show() {
  const shown = view();
  for (const one of ["answers", "operator"]) {
    by(one).hidden = one !== shown;
    if (one === shown) by(`to-${one}`).setAttribute("aria-current", "page");
    else by(`to-${one}`).removeAttribute("aria-current");
  }
  document.title = shown === "operator" ? "EmoGuard: operator" : "EmoGuard: answers";
  by("card").hidden = true;
  connection.show(shown === "operator" ? "operator" : "chat");
  operator.redraw();
}

function theme() {
  const chosen = by("theme").value;
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("emoguard-theme", chosen);
}

by("theme").value = localStorage.getItem("emoguard-theme") ?? "";
by("theme").addEventListener("change", theme);
theme();
window.addEventListener("hashchange", show);
show();
