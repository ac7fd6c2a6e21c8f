// The stream that an open page listens to. It ends while nobody looks at the tab, and comes back.

import { by } from "./dom.js";
import { Refused, events, request } from "./requests.js";

/** The server says something every 10 seconds; after this much silence it is gone. */
const SILENCE = 25_000;
/** Nothing within this time of a connection: something in between holds it back. */
const HELD_BACK = 6_000;

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Connection {
  /** `take(name, data)` gets every event. */
  constructor(take) {
    this.take = take;
    this.view = "chat";
    this.boot = null;
    this.lost = false;
    this.abort = null;
    document.addEventListener("visibilitychange", () => this.restart());
    window.addEventListener("online", () => this.restart());
    this.run();
  }

  /** Listens to what another view needs. */
  show(view) {
    if (view === this.view) return;
    this.view = view;
    this.restart();
  }

  restart() {
    this.wake?.();
    this.abort?.abort();
  }

  async run() {
    for (let tries = 0; ; ) {
      if (document.hidden) {
        say("paused", "paused while this tab is hidden");
        await new Promise((resolve) => { this.wake = resolve; });
        tries = 0;
        continue;
      }
      this.abort = new AbortController();
      this.heard = false;
      let why = "";
      try {
        await this.listen();
      } catch (error) {
        why = error instanceof Refused ? error.message : "";
      }
      if (this.abort.signal.reason === "silent") why = "it says nothing any more";
      else if (this.abort.signal.aborted) continue; // another view, or a hidden tab
      tries = this.heard ? 1 : tries + 1;
      this.lost = true;
      const seconds = Math.min(10, 2 ** (tries - 1) / 2);
      say("lost", `${why || "the server does not answer"}: trying again …`);
      await Promise.race([wait(seconds * 1000), new Promise((resolve) => { this.wake = resolve; })]);
    }
  }

  async listen() {
    const { signal } = this.abort;
    let timer = setTimeout(() => this.abort.abort("silent"), SILENCE);
    let held = null;
    try {
      const response = await request(`live?view=${this.view}`, { signal });
      held = setTimeout(() => say("lost",
        "connected, but nothing arrives: a proxy in between may hold streams back"), HELD_BACK);
      for await (const { name, data } of events(response)) {
        clearTimeout(timer);
        clearTimeout(held);
        timer = setTimeout(() => this.abort.abort("silent"), SILENCE);
        if (name === "bye") return;
        if (name === "about") this.greet(data);
        if (name) this.take(name, data);
      }
    } finally {
      clearTimeout(timer);
      clearTimeout(held);
    }
  }

  greet(about) {
    const restarted = this.boot !== null && about.boot !== this.boot;
    if (restarted) say("open", "the server was restarted; connected again");
    else say("open", this.lost ? "connected again" : "connected");
    if (restarted) this.take("restarted", null);
    this.boot = about.boot;
    this.lost = false;
    this.heard = true;
  }
}

function say(state, words) {
  by("connection").dataset.state = state;
  by("connection-words").textContent = words;
}
