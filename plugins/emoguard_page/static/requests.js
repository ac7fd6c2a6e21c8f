// Requests to this server, with its key; streams of server-sent events, read as they come.

import { by } from "./dom.js";

const KEPT = "emoguard-key";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let asking = null;

/** Asks for the key, once for everybody who needs it. */
function askKey(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = by("key-dialog");
    by("key-error").textContent = wrong ? "The server did not take that key." : "";
    by("key").value = "";
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    by("key-form").addEventListener("submit", () => {
      sessionStorage.setItem(KEPT, by("key").value);
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** Returns the response to a request; asks for the key until the server takes it. */
export async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEPT);
    const headers = { ...(options.headers ?? {}), ...(key ? { authorization: `Bearer ${key}` } : {}) };
    const response = await fetch(path, {
      ...options, headers, cache: "no-store", credentials: "omit", redirect: "error",
    });
    if (response.status === 401) {
      await askKey(key !== null);
      continue;
    }
    if (!response.ok) throw new Refused(response.status, await reason(response));
    return response;
  }
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

/** Yields { name, data } of each event; a comment, which says that the server is there, has no name. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) yield parse(part);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(part) {
  let name = null;
  let data = "";
  for (const line of part.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  return { name, data: data ? JSON.parse(data) : null };
}
