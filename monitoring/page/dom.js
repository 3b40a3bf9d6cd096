// What the boxes share: nodes, numbers as text, and asking this page's own server.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// Writing the same text again would make screen readers say it again.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
  if (node.classList.contains("say")) node.hidden = !text;
}

export function flag(node, name, on) {
  node.classList.toggle(name, Boolean(on));
}

// One child per item; a child stays where it is as long as its key does, so that focus and open details do too.
export function sync(parent, items, key, create, update) {
  const held = new Map([...parent.children].filter((node) => "key" in node.dataset).map((node) => [node.dataset.key, node]));
  let last = [...parent.children].findLast((node) => !("key" in node.dataset)) ?? null;
  for (const item of items) {
    const id = String(key(item));
    const node = held.get(id) ?? create(item);
    held.delete(id);
    node.dataset.key = id;
    const next = last ? last.nextSibling : parent.firstChild;
    if (next !== node) parent.insertBefore(node, next);
    update(node, item);
    last = node;
  }
  for (const node of held.values()) node.remove();
}

export function facts(list, rows) {
  sync(list, rows, ([name]) => name, () => make("div", {}, make("dt")), (node, [name, ...values]) => {
    say(node.firstChild, name);
    sync(node, values.map((value, at) => [at, value]), ([at]) => at, () => make("dd"), (dd, [, value]) => say(dd, value));
  });
}

export async function api(path, body) {
  const asked = { signal: AbortSignal.timeout(10_000), headers: {} };
  if (body) Object.assign(asked, { method: "POST", body: JSON.stringify(body), signal: AbortSignal.timeout(150_000) });
  if (body) asked.headers["content-type"] = "application/json";
  const answer = await fetch(path, asked).catch(() => {
    throw new Error("This page's own process does not answer. Is freshet up still running?");
  });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.detail ?? `Status ${answer.status}`);
  return told;
}

// Again and again, never twice at once, and not while nobody can see it. Returns a function that asks for it now.
export function poll(work, everyMs) {
  let timer, running = false, again = false;
  async function run() {
    clearTimeout(timer);
    if (running) { again = true; return; }
    running = true;
    if (!document.hidden) await work();
    running = false;
    timer = setTimeout(run, again ? 0 : everyMs);
    again = false;
  }
  document.addEventListener("visibilitychange", () => document.hidden || run());
  run();
  return run;
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const PERCENT = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
export const UNKNOWN = "–";

export function count(value) {
  return value == null ? UNKNOWN : WHOLE.format(value);
}

export function number(value) {
  if (value == null) return UNKNOWN;
  const size = Math.abs(value);
  if (size >= 100 || value === 0) return WHOLE.format(value);
  return value.toFixed(size >= 10 ? 1 : size >= 0.095 ? 2 : 3);
}

export function percent(value) {
  return value == null ? UNKNOWN : PERCENT.format(value);
}

// At the ticks of an axis, which are round.
export const tick = {
  number: (value) => (value >= 10_000 ? `${WHOLE.format(value / 1000)}k` : String(+value.toPrecision(3))),
  percent: (value) => `${+(value * 100).toPrecision(3)}%`,
  duration: (value) => (value && value < 1 ? `${+(value * 1000).toPrecision(3)} ms` : `${+value.toPrecision(3)} s`),
};

export function duration(seconds) {
  if (seconds == null) return UNKNOWN;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3_600)} h` : `${WHOLE.format(seconds / 86_400)} days`;
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}
