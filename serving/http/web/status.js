// Shows /metrics and /health every two seconds, for a person without Grafana. Rates cover the time since the last update.
import { authorised } from "/web/key.js";

const EVERY_MS = 2000;
const DISTANCE = 0.15;
const Z = 6;
const PHOTOS = 100;
const $ = (id) => document.getElementById(id);
let before = null;

function parse(text) {
  const series = [];
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found || line.startsWith("#")) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((m) => [m[1], m[2]]));
    series.push({ name: found[1], labels, value: Number(found[3]) });
  }
  const all = (name) => series.filter((one) => one.name === name);
  return { at: performance.now(), all, one: (name) => all(name)[0]?.value ?? NaN };
}

function quantile(now, name, share) {
  const buckets = now.all(`${name}_bucket`).map(({ labels, value }) => [Number(labels.le.replace("+Inf", "Infinity")), value]);
  const total = buckets.at(-1)?.[1] ?? 0;
  if (!total) return NaN;
  let low = 0;
  let below = 0;
  for (const [edge, count] of buckets) {
    if (count >= share * total) {
      return edge === Infinity ? low : low + ((edge - low) * (share * total - below)) / (count - below || 1);
    }
    [low, below] = [edge, count];
  }
  return low;
}

function cell(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function table(id, heads, rows) {
  const line = (kind, cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((one) => (one instanceof Node ? one : cell(kind, one, typeof one === "number" ? "number" : ""))));
    return row;
  };
  $(id).replaceChildren(line("th", heads), ...rows.map((cells) => line("td", cells)));
}

function bar(share, of) {
  const made = document.createElement("td");
  const meter = Object.assign(document.createElement("meter"), { value: share, ariaLabel: of });
  made.append(meter);
  return made;
}

const shown = (value, digits = 1, unit = "") => (Number.isFinite(value) ? `${value.toFixed(digits)}${unit}` : "no data");

function draw(now, health) {
  const requests = now.all("classifier_requests_total");
  const count = requests.reduce((sum, one) => sum + one.value, 0);
  const rate = before ? (1000 * (count - before.count)) / (now.at - before.at) : NaN;
  before = { at: now.at, count };
  const model = health.model ?? {};
  $("state").textContent = `${health.status}${health.reason ? `: ${health.reason}` : ""}. ${model.name ?? ""} ${model.version ?? ""}, up for ${shown(health.uptime_seconds / 60, 1, " minutes")}.`;
  const tiles = [
    ["requests", `${count}`],
    ["requests per second", shown(rate)],
    ["latency, p50", shown(1000 * quantile(now, "classifier_request_duration_seconds", 0.5), 0, " ms")],
    ["latency, p99", shown(1000 * quantile(now, "classifier_request_duration_seconds", 0.99), 0, " ms")],
    ["waiting", shown(now.one("classifier_queue_depth"), 0)],
    ["uncertain", shown(now.one("classifier_predictions_uncertain_total"), 0)],
    ["unfamiliar", shown(now.one("classifier_predictions_unfamiliar_total"), 0)],
    ["accuracy by feedback", shown(100 * now.one("classifier_feedback_accuracy_ratio"), 1, " %")],
    ["accuracy by confidence", shown(100 * now.one("classifier_drift_estimated_accuracy_ratio"), 1, " %")],
  ];
  $("tiles").replaceChildren(
    ...tiles.map(([name, value]) => {
      const tile = cell("div", name);
      tile.prepend(cell("b", value));
      return tile;
    }),
  );
  table("outcomes", ["outcome", "requests"], requests.map(({ labels, value }) => [labels.outcome, value]));
  const buckets = now.all("classifier_prediction_probability_bucket");
  const total = buckets.at(-1)?.value ?? 0;
  const rows = buckets.slice(0, -1).map(({ labels, value }, i) => {
    const photos = value - (buckets[i - 1]?.value ?? 0);
    return [`up to ${labels.le}`, photos, bar(total ? photos / total : 0, `share of answers up to ${labels.le}`)];
  });
  table("probabilities", ["probability", "answers", "share"], rows);
  const tests = new Map(now.all("classifier_drift_test_z").map(({ labels, value }) => [labels.quantity, value]));
  const photos = now.one("classifier_drift_window_photos");
  const drifts = now.all("classifier_drift_distance_ratio").map(({ labels: { quantity }, value }) => {
    const z = tests.get(quantity);
    const drifted = value > DISTANCE && z > Z && photos >= PHOTOS;
    return [quantity.replaceAll("_", " "), cell("td", shown(value, 3), "number"), cell("td", shown(z), "number"), cell("td", drifted ? "yes" : "no", drifted ? "alarm" : "")];
  });
  $("window").textContent = Number.isFinite(photos) ? `The latest photos (${photos}) compared with the reference` : "No drift figures: the model has no drift reference";
  table("drift", ["quantity", "distance", "z", "drifted"], drifts);
}

async function look() {
  try {
    const [metrics, health] = await Promise.all([authorised("/metrics"), fetch("/health")]);
    if (!metrics.ok) throw new Error("The metrics require the API key. Reload the page to enter it.");
    draw(parse(await metrics.text()), await health.json());
  } catch (problem) {
    $("state").textContent = `No answer. ${problem instanceof TypeError ? "The service cannot be reached." : problem.message}`;
  }
  setTimeout(look, EVERY_MS);
}

look();
