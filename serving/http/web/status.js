// Shows /status/minutes and /health every few seconds, for a person without Grafana.
import { bars, lines, without } from "./charts.js";
import { element } from "./element.js";
import { authorised } from "./key.js";

const EVERY_MS = 5000;
const OVERLOAD = new Set(["overloaded", "deadline-exceeded", "not-ready", "internal"]);
const $ = (id) => document.getElementById(id);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// A live region speaks whenever it changes: change it only when there is news.
function say(text) {
  if ($("state").textContent !== text) $("state").textContent = text;
}

function sum(outcomes, wanted) {
  return Object.entries(outcomes).reduce((total, [code, count]) => total + (wanted(code) ? count : 0), 0);
}

const answered = (outcomes) => outcomes.ok ?? 0;
const failed = (outcomes) => sum(outcomes, (code) => OVERLOAD.has(code));
const refused = (outcomes) => sum(outcomes, (code) => code !== "ok" && !OVERLOAD.has(code));

function timeOf({ kept, period_seconds }) {
  return { slots: kept, ago: `${Math.round((kept * period_seconds) / 60)} min ago` };
}

function enough(photos, least, shown) {
  return photos < least ? `too few photos (${photos} of ${least})` : shown();
}

function drawFigures(report, minutes) {
  const { outcomes, mean_ms, p99_ms, uncertain, unfamiliar } = report.together;
  const photos = answered(outcomes);
  const window = report.drift;
  const share = (count) => enough(photos, report.least_for_share, () => percent(count / photos));
  const rows = [
    [`requests in ${minutes}`, sum(outcomes, () => true).toLocaleString("en")],
    ["mean latency", mean_ms === null ? "no photo yet" : `${mean_ms.toFixed(1)} ms`],
    ["latency, p99", enough(photos, report.least_for_p99, () => `${p99_ms.toFixed(0)} ms`)],
    ["not sure", share(uncertain)],
    ["unlike any training photo", share(unfamiliar)],
  ];
  if (window) {
    const { estimated_accuracy: estimate, photos: seen, least } = window;
    rows.push(["accuracy, by mean confidence", enough(seen, least, () => percent(estimate))]);
  }
  if (report.labelled) {
    const few = `too few labels (${report.labelled} of ${report.least_for_share})`;
    rows.push(["accuracy, by feedback", report.labelled_right === null ? few : percent(report.labelled_right)]);
  }
  const list = element("dl", "", { className: "tiles" });
  for (const [name, value] of rows) {
    const tile = element("div");
    tile.append(element("dt", name), element("dd", value, { className: value.startsWith("too few") ? "few" : "" }));
    list.append(tile);
  }
  $("figures").replaceChildren(list);
}

function drawCharts(report) {
  const { periods, together } = report;
  const time = timeOf(report);
  const { outcomes } = together;
  const of = (name, kind, value) => ({ name, kind, values: periods.map(value) });
  const codes = Object.keys(outcomes).filter((code) => code !== "ok").sort((one, other) => outcomes[other] - outcomes[one]);
  const charts = [
    bars("Requests", `each ${report.period_seconds} s`, time, [
      of("answered", "one", (period) => answered(period.outcomes)),
      of("refused", "two", (period) => refused(period.outcomes)),
      of("failed", "three", (period) => failed(period.outcomes)),
    ]),
    together.mean_ms === null
      ? without("Latency", "No photo in these minutes.")
      : lines("Latency", "of the answers", time, [
          of("mean", "one", (period) => period.mean_ms),
          of(`p99 (${report.least_for_p99} photos or more)`, "two", (period) => period.p99_ms),
        ], { unit: " ms" }),
    codes.length
      ? bars("Refused and failed", codes.map((code) => `${code}: ${outcomes[code]}`).join(", "), time,
          [[codes[0]], [codes[1]], codes.slice(2)].map((some, i) =>
            of(some.join(", "), ["one", "two", "three"][i], (period) => sum(period.outcomes, (code) => some.includes(code))),
          ).filter(({ name }) => name))
      : without("Refused and failed", "None in these minutes."),
    answered(outcomes)
      ? bars("Not sure", `of ${plural(answered(outcomes), "answer")}`, time, [
          of("below the threshold", "two", (period) => period.uncertain),
          of("unlike any training photo", "three", (period) => period.unfamiliar),
        ])
      : without("Not sure", "No photo in these minutes."),
  ];
  $("charts").replaceChildren(...charts);
}

function drawDrift(report) {
  const window = report.drift;
  if (!window) {
    $("rule").textContent = "The model has no drift reference.";
    $("drift").replaceChildren();
    return;
  }
  const { photos, least, distance, z, quantities } = window;
  $("rule").textContent =
    `How far the latest ${plural(photos, "photo")} are from the model's reference: Jensen-Shannon distance, from 0 ` +
    `(identical) to 1 (nothing in common). A quantity has drifted with a distance above ${distance} and a z of the ` +
    `two-sample test above ${z}.`;
  if (photos < least) {
    $("drift").replaceChildren(without("Distance by quantity", `Too few photos: ${photos} of the ${least} needed.`));
    return;
  }
  const charts = quantities.map(({ name, distance: now, z: deviate, drifted }) => {
    const values = report.periods.map((period) => period.drift[name] ?? null);
    const summary = `${now.toFixed(2)}, z ${deviate.toFixed(1)}${drifted ? ": drifted" : ""}`;
    const kind = drifted ? "three" : "one";
    const rounded = values.map((value) => (value === null ? null : Number(value.toFixed(3))));
    const made = lines(name.replaceAll("_", " "), summary, timeOf(report), [{ name: "distance", kind, values: rounded }], {
      limit: distance,
      least: 0.3,
    });
    made.classList.toggle("alarm", drifted);
    return made;
  });
  $("drift").replaceChildren(...charts);
}

function drawTable({ periods }) {
  const heads = ["seconds ago", "answered", "refused", "failed", "mean, ms", "p99, ms", "not sure", "unlike training"];
  const rows = [...periods].reverse().map((period) => [
    period.ended_seconds_ago.toFixed(0),
    answered(period.outcomes),
    refused(period.outcomes),
    failed(period.outcomes),
    period.mean_ms ?? "none",
    period.p99_ms ?? "too few",
    period.uncertain,
    period.unfamiliar,
  ]);
  const line = (kind, cells) => {
    const row = element("tr");
    row.append(...cells.map((text) => element(kind, text, { className: "number" })));
    return row;
  };
  const head = element("thead");
  head.append(line("th", heads));
  const body = element("tbody");
  body.append(...rows.map((cells) => line("td", cells)));
  $("periods").replaceChildren(head, body);
}

async function look() {
  try {
    const [minutes, health] = await Promise.all([authorised("status/minutes"), authorised("health")]);
    if (!minutes.ok) throw new Error("The figures require the API key. Reload the page to enter it.");
    const [report, { status, reason, model }] = await Promise.all([minutes.json(), health.json()]);
    say(`${status === "ok" ? "Ready" : status}${reason ? `: ${reason}` : ""}. ${model ? `Model ${model.name} ${model.version}.` : ""}`);
    const covered = Math.round((report.periods.length * report.period_seconds) / 60);
    drawFigures(report, covered < 1 ? "the first minute" : plural(covered, "minute"));
    drawCharts(report);
    drawDrift(report);
    drawTable(report);
  } catch (problem) {
    say(`No answer. ${problem instanceof TypeError ? "The service cannot be reached." : problem.message}`);
  }
  setTimeout(look, EVERY_MS);
}

look();
