// Dead letters by reason, the newest of each, and sending them back.

import { $, api, clock, count, flag, make, poll, say, sync } from "./dom.js";

export const letters = { known: false, kafka: null, trouble: "", total: null, sentBack: null, reasons: null };

export function watchLetters() {
  look = poll(show, 3_000);
}

let look;

async function show() {
  try {
    const { groups, whole, read_all } = await api("/api/dead-letters");
    const total = (name) => groups.reduce((sum, group) => sum + group[name], 0);
    Object.assign(letters, { known: true, kafka: true, trouble: "", total: total("letters"), sentBack: total("sent_back"), reasons: groups.length });
    say($("letters-about"), said(groups, whole, read_all));
    draw(groups);
  } catch (error) {
    Object.assign(letters, { known: false, kafka: false, trouble: error.message, total: null, sentBack: null, reasons: null });
    say($("letters-about"), error.message);
  }
  flag($("letters-about"), "bad", letters.trouble);
}

function said(groups, whole, readAll) {
  if (!readAll) return "Still reading.";
  if (!groups.length) return "None. What ingest refuses shows up here with its reason; try “Send something broken” above.";
  const part = whole ? "" : " Only the newest are counted here; freshet dlt list counts all.";
  return `What ingest refused, unchanged. Replay sends it to its topic again, each letter once; what is still broken comes back.${part}`;
}

function draw(groups) {
  $("letters").hidden = !groups.length;
  sync($("letters"), groups, ({ topic, reason }) => `${topic} ${reason}`, body, fill);
}

function body({ topic, reason }) {
  const button = make("button", { type: "button", className: "small" });
  button.addEventListener("click", () => replay(button, { topic, reason }));
  const name = make("th", { scope: "row", textContent: reason.replaceAll("_", " ") });
  const numbers = [make("td", { className: "n" }), make("td", { className: "n" })];
  const more = make("td", { colSpan: 4 }, make("small"), make("details", {}, make("summary"), make("ul", { className: "letters" })));
  return make("tbody", {}, make("tr", {}, name, ...numbers, make("td", { className: "n" }, button)), make("tr", {}, more));
}

function fill(node, group) {
  const [, all, back, action] = node.rows[0].cells;
  const [where, details] = node.rows[1].cells[0].children;
  const [summary, list] = details.children;
  const open = group.letters - group.sent_back;
  say(where, `${group.kind} on ${group.topic}, last ${clock(group.last_ms)}`);
  say(all, count(group.letters));
  say(back, count(group.sent_back));
  say(action.firstChild, open ? `Replay ${count(open)}` : "Replayed");
  action.firstChild.ariaLabel = `Replay ${group.reason} of ${group.topic}`;
  say(summary, group.newest.length > 1 ? `The newest ${group.newest.length}` : "The letter");
  sync(list, group.newest, ({ partition, offset }) => `${partition} ${offset}`, () => letter(group.topic), fillLetter);
}

function letter(topic) {
  const button = make("button", { type: "button", className: "small", textContent: "Replay this one" });
  const node = make("li", {}, make("p"), button, make("small"), make("pre"));
  button.addEventListener("click", () => {
    const [partition, offset] = node.dataset.key.split(" ").map(Number);
    replay(button, { topic, partition, offset });
  });
  return node;
}

function fillLetter(node, { partition, offset, error, key, value, timestamp_ms, sent_back }) {
  const [why, button, where, raw] = node.children;
  say(why, error);
  say(raw, value);
  say(where, `key ${key}, partition ${partition}, offset ${offset}, ${clock(timestamp_ms)}${sent_back ? ", sent back" : ""}`);
  if (sent_back && button === document.activeElement) node.closest("details").firstChild.focus();
  button.hidden = sent_back;
}

async function replay(button, choice) {
  if (button.ariaBusy) return;
  button.ariaBusy = "true";
  try {
    const { sent, sent_before } = await api("/api/dead-letters/replay", choice);
    const before = sent_before ? `; ${count(sent_before)} left out that were sent before` : "";
    say($("replayed"), `${clock(Date.now())}: ${count(sent)} sent back to ${choice.topic}${before}.`);
    flag($("replayed"), "bad", false);
    look();
  } catch (error) {
    say($("replayed"), `Nothing more was sent back: ${error.message}`);
    flag($("replayed"), "bad", true);
  }
  button.ariaBusy = null;
}
