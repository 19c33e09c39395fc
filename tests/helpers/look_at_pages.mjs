// Opens pages in a headless Chromium, and writes what it saw as JSON. Run by test_page_in_browser.py:
//
//     node look_at_pages.mjs TASK.json        {"out": folder, "chromium": path or "", "looks": [...]}
//
// A look: {"url", "name"} takes pictures at both widths, light and dark, and has axe-core check each;
// {"url", "read": JavaScript} opens the page, runs `actions` in turn, and returns what `read` gives
// after each. `scripts: false` does so in a browser that runs no script of the page.
import fs from "fs";
import { createRequire } from "module";
import puppeteer from "puppeteer-core";

const task = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const packaged = async () => (await import("@sparticuz/chromium")).default.executablePath();
const browser = await puppeteer.launch({
  executablePath: task.chromium || (await packaged()),
  args: ["--no-sandbox", "--no-zygote", "--disable-gpu"],
  headless: "shell",
  timeout: 120000,
  protocolTimeout: 300000,
});

// What is wrong with the layout of the page as it stands, in words.
function layout() {
  const wrong = [];
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) wrong.push(`${root.scrollWidth} px wide`);
  for (const image of document.images) {
    if (image.complete && !image.naturalWidth) wrong.push(`no image ${image.src}`);
  }
  const seen = (x) => x.getClientRects().length > 0 && getComputedStyle(x).position === "static";
  const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  // Boxes beside each other, and the words along the axes of a chart.
  const families = [...document.querySelectorAll(
    "main, section, article, form, figure, dl, ul, .strip, .answers, .charts, .question")]
    .map((parent) => [...parent.children].filter((x) => seen(x) && x.tagName !== "LEGEND"));
  families.push(...[...document.querySelectorAll(".chart > svg")].map((x) => [...x.querySelectorAll("text")]));
  for (const family of families) {
    const boxes = family.map((x) => x.getBoundingClientRect());
    boxes.forEach((box, i) => {
      if (i && overlap(box, boxes[i - 1])) wrong.push(`over each other: ${family[i - 1].outerHTML.slice(0, 80)}`);
    });
  }
  for (const text of document.querySelectorAll("svg text")) {
    const box = text.getBoundingClientRect();
    if (box.left < 0 || box.right > innerWidth) wrong.push(`cut off: ${text.outerHTML}`);
    if (box.height && box.height < 9) wrong.push(`too small: ${text.outerHTML}`);
  }
  return wrong;
}

// Waits until every picture is there and decoded, also those that are loaded when they come into view.
const whole = () => Promise.all([...document.images].map((x) => {
  x.loading = "eager";
  return x.decode().catch(() => 0);
}));

async function pictures(page, look) {
  const wrong = [];
  for (const width of [1280, 400]) {
    for (const scheme of ["light", "dark"]) {
      await page.setViewport({ width, height: 900 });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.goto(look.url, { waitUntil: "load" });
      const name = `${look.name}_${width}_${scheme}`;
      const rules = await page.evaluate(async (source) => {
        (0, eval)(source);
        // It would load the style sheet again, which the policy of the page forbids.
        const found = await window.axe.run({ preload: false, resultTypes: ["violations"] });
        return found.violations.map((x) => `${x.id}: ${x.nodes.length} x ${x.nodes[0].html.slice(0, 120)}`);
      }, axe);
      wrong.push(...[...(await page.evaluate(layout)), ...rules].map((x) => `${name}: ${x}`));
      await page.evaluate(whole);
      await page.screenshot({ path: `${task.out}/${name}.png` });
    }
  }
  return wrong;
}

async function read(page, look) {
  await page.setJavaScriptEnabled(look.scripts !== false);
  await page.setViewport({ width: 1280, height: 900 });
  await page.goto(look.url, { waitUntil: "load" });
  const found = [];
  for (const action of look.actions ?? [[]]) {
    const [what, ...rest] = action;
    if (what === "screenshot") await page.evaluate(whole);
    if (what) await page[what](...rest);
    found.push(await page.evaluate(look.read));
  }
  return found;
}

const results = [];
for (const look of task.looks) {
  const page = await browser.newPage();
  page.setDefaultTimeout(120000);
  const said = [];
  page.on("console", (x) => said.push(`console ${x.type()}: ${x.text()}`));
  page.on("pageerror", (x) => said.push(`error: ${x.message}`));
  page.on("requestfailed", (x) => said.push(`not loaded: ${x.url()}`));
  page.on("dialog", async (x) => { said.push(`dialog: ${x.message()}`); await x.dismiss(); });
  const found = await (look.read ? read(page, look) : pictures(page, look));
  results.push({ found, said });
  await page.close();
}
await browser.close();
fs.writeFileSync(`${task.out}/results.json`, JSON.stringify(results));
