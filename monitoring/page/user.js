// A user's list as it changes, and events to change it with.

import { $, api, clock, duration, flag, make, number, poll, say, sync } from "./dom.js";

const MARK_MS = 10_000; // how long a change is marked
let watched = "", shown = null, marks = new Map(), markedAt = 0;

export function offerTypes(types) {
  const select = $("event-type");
  if (select.length === types.length) return;
  select.replaceChildren(...types.map((type) => make("option", { textContent: type, selected: type === "click" })));
}

function watch(user) {
  if (user !== watched) { shown = null; say($("list-change"), ""); }
  watched = user;
  $("user").value = $("event-user").value = user;
  $("raw").value = `{"type": "click", "user_id": ${JSON.stringify(user)}, "item_id": `;
  history.replaceState(null, "", `#user=${encodeURIComponent(user)}`);
  look();
}

async function show() {
  if (!watched) return;
  const user = watched;
  try {
    const answer = await api(`/api/recommend/${encodeURIComponent(user)}`);
    if (user === watched) draw(answer);
  } catch (error) {
    say($("list-about"), error.message);
    flag($("list-about"), "bad", true);
  }
}

function draw({ items, source, event_ms }) {
  const ids = items.map((item) => item.item_id);
  if (shown) compare(shown, ids);
  else marks = new Map();
  if (Date.now() - markedAt > MARK_MS) marks = new Map();
  shown = ids;
  flag($("list-about"), "bad", false);
  say($("list-about"), items.length ? `Source: ${source}. ${age(event_ms)}` : "Nothing to list yet. Send events: freshet produce --demo");
  const best = Object.fromEntries([...items].reverse().map(({ link, score }) => [link, score]));
  const rows = items.map((item, at) => ({ ...item, at, behind: item.score - best[item.link] }));
  sync($("list"), rows, ({ at }) => at, row, fill);
}

function age(event_ms) {
  if (event_ms == null) return "";
  const seconds = (Date.now() - event_ms) / 1000;
  return seconds < 0 ? "Newest event behind it: just now." : `Newest event behind it: ${duration(seconds)} old.`;
}

// What moved since the last look: new items, and places up or down.
function compare(before, after) {
  if (before.join("\n") === after.join("\n")) return;
  const came = after.filter((id) => !before.includes(id)), went = before.filter((id) => !after.includes(id));
  marks = new Map(after.map((id, at) => [id, before.includes(id) ? before.indexOf(id) - at : "new"]));
  markedAt = Date.now();
  const told = [came.length && `in: ${came.join(", ")}`, went.length && `out: ${went.join(", ")}`].filter(Boolean);
  say($("list-change"), `Changed at ${clock(markedAt)}; ${told.join("; ") || "same items, another order"}.`);
}

function row() {
  const button = make("button", { type: "button", className: "small", textContent: "Click it" });
  button.addEventListener("click", () => send(watched, button.dataset.item, "click"));
  const node = make("li", {}, make("span", { className: "item" }), make("span", { className: "mark" }), make("span", { className: "link" }));
  node.append(make("span", { className: "score" }), button);
  return node;
}

// Scores compare within a link only: what tells is the distance to the best of it.
function fill(node, { item_id, link, behind }) {
  const [item, mark, tag, value, button] = node.children;
  const moved = marks.get(item_id);
  say(item, item_id);
  say(mark, moved === "new" ? "new" : moved > 0 ? `▲${moved}` : moved < 0 ? `▼${-moved}` : "");
  flag(node, "new", moved === "new");
  flag(node, "moved", moved && moved !== "new");
  say(tag, link);
  say(value, behind ? `−${number(-behind)}` : "best");
  button.dataset.item = item_id;
  button.ariaLabel = `Click ${item_id}`;
}

function unique() {
  return [...crypto.getRandomValues(new Uint32Array(3))].map((part) => part.toString(36)).join("");
}

function send(user, item, type) {
  const event = { event_id: `page-${unique()}`, type, user_id: user, item_id: item, ts: Date.now() };
  return sendRaw(JSON.stringify(event), user, `${type} of ${item} by ${user}`);
}

async function sendRaw(value, key, what) {
  try {
    const { topic, partition, offset } = await api("/api/events", { value, key });
    say($("sent"), `Sent ${what}, now ${topic}/${partition} at offset ${offset}.`);
    flag($("sent"), "bad", false);
    look();
  } catch (error) {
    say($("sent"), `Not sent: ${error.message}`);
    flag($("sent"), "bad", true);
  }
}

function asked() {
  const user = new URLSearchParams(location.hash.slice(1)).get("user");
  if (user) watch(user);
}

function submitted(form, work) {
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    work();
  });
}

submitted("watch", () => watch($("user").value));
submitted("send", () => send($("event-user").value, $("event-item").value, $("event-type").value));
submitted("send-raw", () => sendRaw($("raw").value, watched || null, "the value as it stands"));
const look = poll(show, 1_000);
addEventListener("hashchange", asked);
asked();
