// Drives the page in headless Chromium: `node browser.mjs CHROMIUM URL SCENARIO [FOLDER]`.
//
// Prints one JSON line per finding, { name, value }. A line { ask } is a wish to the test, which
// answers with a line when it is done. FOLDER gets screenshots.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../clients/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [executablePath, url, scenario, folder] = process.argv.slice(2);
const WIDE = { width: 1280, height: 800 };
const PHONE = { width: 390, height: 844 };
const ANSWERED = "#turns > li:last-child .answer:last-child:not(.busy)";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const print = (found) => process.stdout.write(`${JSON.stringify(found)}\n`);
const find = (name, value) => print({ name, value });
const ask = async (wish) => { print({ ask: wish }); await lines.next(); };

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const errors = [];
const hosts = new Set();

async function open({ viewport = WIDE, colorScheme = "light", hash = "" } = {}) {
  const context = await browser.newContext({ viewport, colorScheme, reducedMotion: "reduce" });
  context.setDefaultTimeout(60_000);
  const page = await context.newPage();
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) errors.push(message.text()); });
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("dialog", (dialog) => { errors.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", (request) => hosts.add(new URL(request.url()).origin));
  await page.goto(url + hash);
  return page;
}

async function connected(options) {
  const page = await open(options);
  await page.waitForSelector('#connection[data-state="open"]');
  return page;
}

async function say(page, text) {
  const before = await page.locator(".answer").count();
  await page.fill("#prompt", text);
  await page.press("#prompt", "Enter");
  await page.waitForFunction((n) => document.querySelectorAll(".answer").length > n, before);
  await page.waitForSelector(ANSWERED);
}

async function violations(page) {
  await page.evaluate(axe);
  const { violations: found } = await page.evaluate(() => globalThis.axe.run());
  return found.filter((each) => ["serious", "critical"].includes(each.impact))
    .map((each) => `${each.id}: ${each.nodes.map((node) => node.html).slice(0, 3).join(" | ")}`);
}

const shades = (page) => page.locator(".answer:last-child .words .t").evaluateAll((all) => all.map((one) => one.className));
const text = (page, selector) => page.locator(selector).innerText();
const overflows = (page) => page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);

const scenarios = {
  async chat() {
    const page = await connected();
    find("welcome", await text(page, "#welcome"));
    await say(page, "Hi");
    find("text", (await text(page, ".words")).trim());
    const valence = await shades(page);
    find("shaded", valence.filter((each) => /\b[ab][1-4]\b/.test(each)).length);
    find("notice", await text(page, ".notice"));
    // Another label, by keyboard alone.
    await page.locator("#labels input:checked").focus();
    await page.keyboard.press("ArrowDown");
    find("label", await text(page, "#labels .row:has(:checked) .name"));
    find("other shades", JSON.stringify(await shades(page)) !== JSON.stringify(valence));
    await page.check("#labels input[value='1']");
    find("detail", await text(page, "#detail .title"));
    find("crossed", await text(page, "#labels .row:has([value='1'])"));
    // Hover and keyboard show all labels of a token.
    await page.locator(".words .t", { hasText: /^nothing$/ }).hover();
    find("card", await text(page, "#card"));
    await page.mouse.move(2, 2);
    find("card hides", await page.locator("#card").isHidden());
    await page.focus(".words");
    await page.keyboard.press("End");
    await page.keyboard.press("ArrowLeft");
    find("announced", await text(page, "#announce"));
    find("card by key", await page.locator("#card").isVisible());
    await page.keyboard.press("Escape");
    await page.check("#numbers");
    find("numbers", await page.locator(".words .t[data-z]").count());
    find("axe", await violations(page));
    await page.click("#fresh");
    find("fresh", await page.locator(".answer").count());
  },

  async steering() {
    const page = await connected();
    await page.click("#steering > summary");
    const slider = page.locator("#steering-panel input[type=range]").first();
    await slider.focus();
    for (let n = 0; n < 12; n++) await page.keyboard.press("ArrowRight");
    find("asked", await text(page, "#steering-summary"));
    await page.locator("#steering-panel input[type=range]").nth(1).fill("-0.1");
    find("excess", await text(page, "#steering-words"));
    await page.locator("#steering-panel input[type=range]").nth(1).fill("0");
    find("axe", await violations(page));
    await say(page, "Hi");
    find("receipt", await text(page, ".receipt"));
    find("notice", await text(page, ".notice"));
    await page.click(".compare");
    await page.waitForFunction(() => document.querySelectorAll(".side.two .answer:not(.busy)").length === 2);
    find("headings", await page.locator(".answer h3").allInnerTexts());
    await page.locator(".answer").first().hover();
    find("compared", await page.locator("#detail path.other").count());
    find("axe after", await violations(page));
  },

  async attack() {
    const page = await connected();
    await say(page, "attack");
    find("text", await page.locator(".words").evaluate((words) => words.textContent));
    await say(page, "<img src=x onerror=alert(2)>");
    find("made", await page.locator("#turns img, #turns script, #turns b:not(.notice b), #labels img").count());
    find("label", await page.locator("#labels .name").nth(2).innerText());
    find("caution", await text(page, "#cautions"));
    await page.click("#to-operator");
    await page.waitForSelector("#recent tbody tr");
    find("operator made", await page.locator("#operator img").count());
  },

  async operator() {
    const page = await connected({ hash: "#operator" });
    await ask("traffic");
    await page.waitForFunction(() => document.querySelectorAll("#recent tbody tr").length === 12);
    find("tiles", await text(page, "#tiles"));
    find("labels", await page.locator("#traffic tbody th").allInnerTexts());
    find("marks", await page.locator("#traffic tr:nth-child(2) .strip").getAttribute("aria-label"));
    find("evidence", await page.locator("#traffic meter").first().getAttribute("aria-label"));
    await page.waitForSelector("#alerts li");
    find("alert", await page.locator("#alerts li").first().innerText());
    find("axe", await violations(page));
    await page.route("**/runbook.md", (route) => route.fulfill({ status: 503 }), { times: 1 });
    await page.locator("#alerts .link").first().click();
    await page.waitForSelector("#runbook[open]");
    find("no runbook", await text(page, "#runbook"));
    await page.keyboard.press("Escape");
    errors.splice(0, errors.length, ...errors.filter((each) => !each.includes("503")));
    await page.locator("#alerts .link").first().click();
    await page.waitForSelector("#runbook[open]");
    find("runbook", await text(page, "#runbook"));
    find("axe in runbook", await violations(page));
    await page.keyboard.press("Escape");
    find("page text", await text(page, "body"));
    await ask("begin");
    await page.waitForSelector(".going");
    find("open", await text(page, "#open"));
    await ask("finish");
    await page.waitForFunction(() => !document.querySelector(".going"));
  },

  async reconnect() {
    const page = await connected();
    await say(page, "Hi");
    await page.fill("#prompt", "hold");
    await page.press("#prompt", "Enter");
    await page.waitForFunction(() => document.querySelectorAll(".answer.busy .t").length > 5);
    await ask("kill");
    await page.waitForSelector('#connection[data-state="lost"]');
    await page.waitForSelector(".answer:not(.busy) [role=alert]");
    find("broken", await text(page, ".answer [role=alert]"));
    find("kept", await page.locator("#turns > li:last-child .words").innerText());
    await ask("start");
    await page.waitForSelector('#connection[data-state="open"]');
    find("back", await text(page, "#connection"));
    await say(page, "Hi again");
    find("answers", await page.locator(".answer").count());
    errors.splice(0, errors.length, ...errors.filter((each) => !/ERR_|network error/i.test(each)));
  },

  async stop() {
    const page = await connected();
    await page.fill("#prompt", "hold");
    await page.press("#prompt", "Enter");
    await page.waitForFunction(() => document.querySelectorAll(".answer.busy .t").length > 5);
    await page.click("#stop");
    await page.waitForSelector(ANSWERED);
    find("stopped", await text(page, ".answer [role=alert]"));
    await ask("settled");
    find("again", await page.locator("#send").isEnabled());
  },

  async fresh() {
    const page = await connected();
    await page.fill("#prompt", "hold");
    await page.press("#prompt", "Enter");
    await page.waitForFunction(() => document.querySelectorAll(".answer.busy .t").length > 5);
    await page.click("#fresh");
    await page.waitForFunction(() => !document.getElementById("send").disabled);
    await ask("settled");
    const asked = page.waitForRequest((request) => request.url().endsWith("/answer"));
    await say(page, "Hi");
    find("messages", (await asked).postDataJSON().messages);
  },

  async two() {
    const first = await connected();
    const second = await connected({ hash: "#operator" });
    await say(first, "Hi");
    await second.waitForSelector("#recent tbody tr");
    find("rows", await second.locator("#recent tbody tr").count());
    await first.context().close();
    await say(await connected(), "Hi");
    await second.waitForFunction(() => document.querySelectorAll("#recent tbody tr").length === 2);
  },

  async long() {
    const page = await connected();
    await say(page, "long");
    find("tokens", await page.locator(".words .t").count());
    find("text", (await text(page, ".words")).length);
  },

  async frames() {
    const page = await connected();
    for (let n = 0; n < 5; n++) {
      await page.evaluate(() => {
        globalThis.frames = [];
        globalThis.counting = true;
        const count = (at) => { globalThis.frames.push(at); if (globalThis.counting) requestAnimationFrame(count); };
        requestAnimationFrame(count);
      });
      await say(page, "long");
      find(`frames ${n}`, await page.evaluate(() => { globalThis.counting = false; return globalThis.frames; }));
      await page.click("#fresh");
    }
  },

  async key() {
    const page = await open();
    await page.waitForSelector("#key-dialog[open]");
    find("axe", await violations(page));
    for (const key of ["wrong", "secret"]) {
      await page.fill("#key", key);
      await page.press("#key", "Enter");
      if (key === "wrong") await page.waitForFunction(() => document.getElementById("key-error").textContent);
      if (key === "wrong") find("wrong", await text(page, "#key-error"));
    }
    await page.waitForSelector('#connection[data-state="open"]');
    await say(page, "Hi");
    find("text", (await text(page, ".words")).trim());
    errors.splice(0, errors.length, ...errors.filter((each) => !each.includes("401")));
  },

  async looks() {
    const found = [];
    for (const [name, options] of Object.entries({
      light: {}, dark: { colorScheme: "dark" }, phone: { viewport: PHONE }, "dark phone": { viewport: PHONE, colorScheme: "dark" },
    })) {
      const page = await connected(options);
      await say(page, "Hi");
      if (folder) await page.screenshot({ path: `${folder}/${name}.png` });
      found.push([name, await violations(page), await overflows(page)]);
      await page.click("#to-operator");
      await page.waitForSelector("#recent tbody tr");
      if (folder) await page.screenshot({ path: `${folder}/${name}, operator.png`, fullPage: true });
      found.push([`${name}, operator`, await violations(page), await overflows(page)]);
      await page.context().close();
    }
    find("found", found);
  },

  async refused() {
    const page = await connected();
    await page.click("#steering > summary");
    find("steering", await text(page, "#steering-panel"));
    await say(page, "Hi");
    find("held back", await page.locator(".answer .caution").allInnerTexts());
    await page.fill("#prompt", "   ");
    await page.click("#send");
    find("empty", await text(page, "#form-error"));
  },
};

await scenarios[scenario]();
find("errors", errors);
find("hosts", [...hosts]);
await browser.close();
process.exit(0);
