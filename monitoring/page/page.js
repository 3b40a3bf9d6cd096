// The numbers of the processes: header, tiles, curves.

import { Chart } from "./chart.js";
import { $, UNKNOWN, api, count, duration, facts, flag, make, number, percent, poll, say, sync, tick } from "./dom.js";
import { letters, watchLetters } from "./letters.js";
import { offerTypes } from "./user.js";

const KEPT_SECONDS = 900, TARGET_SECONDS = 1;
const PATH = ["features", "learner", "server"]; // of an event, to where it is visible
const STAGES = ["ingest", "features", "learner", "server"];
let points = [], seen = 0, processes = [], bootstrap = "", brokerRestarts = null;

const CHARTS = [
  {
    title: "Events per second", show: number, tick: tick.number, from: ["ingest", "features"],
    lines: [{ key: "events/accepted", name: "accepted" }, { key: "events/duplicate", name: "duplicate" }, { key: "messages/dead_letter", name: "refused" }],
    empty: "Nothing counted yet.",
  },
  {
    title: "Freshness, event sent to served", show: duration, tick: tick.duration, from: PATH, target: TARGET_SECONDS,
    lines: [{ key: "freshness/p99", name: "p99" }, { key: "freshness/p50", name: "p50" }],
    empty: "No event became visible in the last minute.",
  },
  {
    title: "Hit rate@20 of the lists", show: percent, tick: tick.percent, from: ["server"], least: 0.01, note: clicks,
    lines: [{ key: "hit_rate/served", name: "served" }, { key: "hit_rate/popular", name: "popular now" }],
    empty: "No click was looked for in a list yet. Clicks are judged as they arrive, before they are learned.",
  },
  {
    title: "MRR@20 of the lists", show: number, tick: tick.number, from: ["server"], least: 0.01, note: clicks,
    lines: [{ key: "mrr/served", name: "served" }, { key: "mrr/popular", name: "popular now" }],
    empty: "No click was looked for in a list yet.",
  },
  {
    title: "Token changes per second", show: number, tick: tick.number, from: ["learner"], note: tokens,
    lines: ["first", "content", "behaviour", "codebook"].map((cause) => ({ key: `token_changes/${cause}`, name: cause === "first" ? "first tokens" : cause })),
    empty: "Nothing known of tokens yet.",
  },
  {
    title: "Learner's loss", show: number, tick: tick.number, from: ["learner"],
    lines: [{ key: "loss/supa", name: "SUPA, moving average" }],
    empty: "Nothing was learned yet.",
  },
];

function clicks(now) {
  return now.clicks == null ? "" : `over ${count(now.clicks)} clicks of the last 5 minutes`;
}

function tokens(now) {
  const used = Object.keys(now).filter((key) => key.startsWith("utilisation/")).map((key) => now[key]).filter((value) => value != null);
  if (!now.tokenized_rows) return now.tokenized_rows === 0 ? "No item has tokens yet: the first codebook waits for enough items." : "";
  const words = `words in use ${percent(Math.min(...used))} to ${percent(Math.max(...used))}`;
  return `${count(now.tokenized_rows)} items, ${words}, collisions ${percent(now.collisions)}, distortion ${number(now.distortion)}`;
}

// Why numbers of these processes are not known; "" where they should be.
function trouble(names) {
  if (!processes.length) return "No process to look at: freshet up fills in metrics_targets, or set it for freshet page.";
  const down = names.filter((name) => processes.some((process) => process.name === name && process.up === false));
  return down.length ? `Not known while ${down.join(" and ")} does not answer.` : "";
}

function tile(id, big, rows, trouble) {
  const node = $(`tile-${id}`);
  say(node.querySelector(".big"), big);
  facts(node.querySelector("dl"), rows);
  say(node.querySelector(".say"), trouble);
}

function drawTiles(now) {
  tile("events", now["events/accepted"] == null ? UNKNOWN : `${number(now["events/accepted"])} /s`, [
    ["duplicate", number(now["events/duplicate"])], ["late", number(now["events/late"])],
    ["future", number(now["events/future"])], ["refused", number(now["messages/dead_letter"])],
  ], trouble(["ingest", "features"]) || idle());
  const p99 = now["freshness/p99"], late = p99 > TARGET_SECONDS;
  tile("freshness", duration(p99), [
    ["median", duration(now["freshness/p50"])],
    ["target", `${tick.duration(TARGET_SECONDS)}${p99 == null ? "" : late ? ", missed" : ", met"}`], ["events", count(now["freshness/events"])],
  ], p99 == null ? trouble(PATH) || "No event became visible in the last minute." : "");
  flag($("tile-freshness"), "bad", late);
  const lags = STAGES.map((stage) => now[`lag_records/${stage}`]).filter((lag) => lag != null);
  const behind = STAGES.map((stage) => [stage, count(now[`lag_records/${stage}`]), duration(now[`lag_seconds/${stage}`])]);
  tile("lag", lags.length ? `${count(Math.max(...lags))} records` : UNKNOWN, [["stage", "records", "behind"], ...behind], trouble(STAGES));
  tile("letters", letters.known ? count(letters.total) : UNKNOWN, [
    ["sent back", count(letters.sentBack)], ["reasons", count(letters.reasons)], ["per second", number(now["messages/dead_letter"])],
  ], letters.trouble);
}

function idle() {
  const flowed = points.some((point) => point["events/accepted"] > 0);
  return flowed ? "" : `No events in 15 minutes. Send some: freshet produce --demo --bootstrap-servers ${bootstrap}`;
}

function drawProcesses(now) {
  const kafka = { name: "kafka", up: letters.kafka, error: letters.trouble, restarts: brokerRestarts };
  const known = [...processes, kafka].filter((process) => process.name !== "page" && process.name !== "up");
  sync($("processes"), known, ({ name }) => name, () => make("li", {}, make("b"), make("span")), (node, process) => {
    say(node.firstChild, process.name);
    say(node.lastChild, about(process, now));
    flag(node, "up", process.up);
    flag(node, "down", process.up === false);
  });
  const down = known.filter((process) => process.up === false);
  sync($("alerts"), down, ({ name }) => name, () => make("p"), (node, { name, error }) => say(node, `${name} is down. ${error}`));
}

function about({ up, started, restarts }, now) {
  if (up == null) return "not known yet";
  const state = up ? `up${started ? ` ${duration(now - started)}` : ""}` : "down";
  return restarts ? `${state}, restarted ${count(restarts)}×` : state;
}

function take({ t, ...columns }, now) {
  t.forEach((at, index) => {
    const point = { t: at };
    for (const [name, values] of Object.entries(columns)) point[name] = values[index];
    points.push(point);
  });
  points = points.filter((point) => point.t > now - KEPT_SECONDS);
  seen = points.at(-1)?.t ?? 0;
}

function draw(now) {
  const newest = points.at(-1) ?? {};
  drawProcesses(now);
  drawTiles(newest);
  for (const chart of charts) chart.draw(points, now, chart.about.note?.(newest), trouble(chart.about.from));
}

async function look() {
  try {
    const state = await api(`/api/state?since=${seen}`);
    ({ processes, bootstrap_servers: bootstrap, broker_restarts: brokerRestarts } = state);
    offerTypes(state.event_types);
    take(state.columns, state.now);
    draw(state.now);
  } catch (error) {
    processes = processes.map((process) => ({ ...process, up: null }));
    points.push({ t: Date.now() / 1000 });
    draw(Date.now() / 1000);
    sync($("alerts"), [error.message], (text) => text, () => make("p"), say);
  }
}

const charts = CHARTS.map((about) => new Chart(about));
$("charts").append(...charts.map((chart) => chart.node));
poll(look, 2_000);
watchLetters();
