// Shows the photos for review one after the other, and sends what the person says by keys, buttons or a class's name.
import { element } from "./element.js";
import { authorised } from "./key.js";

const MOST_KEYS = 9; // classes with a key of their own; of more, the person types part of the name
const MOST_SHOWN = 12; // classes that match it
const WHY = {
  uncertain: "the model was unsure",
  unfamiliar: "it looks unlike the training photos",
  shadow: "another model says something else",
  "told-wrong": "somebody called the answer wrong",
  sample: "it was drawn at random",
};
const $ = (id) => document.getElementById(id);
let reviewer = localStorage.getItem("reviewer") ?? "";
let labels = [];
let current = null; // the request id of the photo
let busy = false;

async function call(path, body) {
  const options = body ? { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : {};
  const response = await authorised(`review/${path}`, options);
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ detail: `The service answered with status ${response.status}.` }));
  throw Object.assign(new Error(problem.detail), { gone: problem.type?.split("/").pop() === "unknown-photo" });
}

// One thing at a time: a second key while an answer is on its way is not an answer to a photo that nobody has seen.
async function alone(work) {
  if (busy) return;
  busy = true;
  $("work").ariaBusy = "true";
  try {
    await work();
  } catch (error) {
    say(error instanceof TypeError ? "The service cannot be reached. Try again in a moment." : error.message, true);
    if (error.gone) await next().catch(() => {});
  } finally {
    busy = false;
    $("work").ariaBusy = "false";
  }
}

function say(text, wrong = false) {
  $("said").textContent = text;
  $("said").classList.toggle("wrong", wrong);
}

async function next() {
  const found = await (await call(`next?${new URLSearchParams({ reviewer })}`)).json();
  if (found.labels.join("\n") !== labels.join("\n")) offer(found.labels);
  const two = found.seen_by_two ? ` Two people have seen ${found.seen_by_two}` : "";
  const kappa = found.kappa === null ? "." : `; their agreement (Cohen's kappa) is ${found.kappa.toFixed(2)}.`;
  $("progress").textContent = `${found.given} answered by you, ${found.left} left.${two ? two + kappa : ""}`;
  await show(found.request_id);
}

async function show(request) {
  current = null;
  $("photo").hidden = $("unshown").hidden = true;
  $("empty").hidden = request !== null;
  $("answers").hidden = request === null;
  if (request === null) return;
  const photo = await (await call(`photos/${encodeURIComponent(request)}`)).blob();
  URL.revokeObjectURL($("photo").src);
  $("photo").src = $("save").href = URL.createObjectURL(photo);
  await $("photo").decode().then(
    () => ($("photo").hidden = false),
    () => ($("unshown").hidden = false),
  );
  $("photo").alt = "The photo to label";
  $("filter").value = "";
  match();
  if (!$("search").hidden) $("filter").focus();
  current = request;
}

function offer(names) {
  labels = names;
  $("search").hidden = labels.length <= MOST_KEYS;
  match();
}

// Those whose name begins with what was typed come first.
function match() {
  const few = labels.length <= MOST_KEYS;
  const typed = $("filter").value.trim().toLowerCase();
  const place = (name) => name.toLowerCase().indexOf(typed);
  const found = few ? labels : labels.filter((name) => place(name) >= 0).sort((one, other) => place(one) - place(other));
  const buttons = found.slice(0, MOST_SHOWN).map((name, i) => {
    const button = element("button", name, { type: "button" });
    if (few) {
      button.ariaKeyShortcuts = `${i + 1}`;
      button.prepend(element("kbd", `${i + 1}`), " ");
    }
    button.addEventListener("click", () => answer("label", name));
    return button;
  });
  $("classes").replaceChildren(...buttons);
  const first = typed && found.length ? `Enter answers ${found[0]}.` : "";
  const rest = found.length > MOST_SHOWN ? ` ${found.length - MOST_SHOWN} more match.` : "";
  $("matched").textContent = few ? "" : found.length ? first + rest : "No class matches.";
  return typed ? found[0] : undefined;
}

function answer(verdict, label = null) {
  if (!current) return;
  alone(async () => {
    const mine = label ?? (verdict === "neither" ? "none of these" : "that you cannot tell");
    const found = await (await call("verdicts", { request_id: current, reviewer, verdict, label })).json();
    const sure = `${Math.min(99.99, 100 * found.probability).toFixed(2)} %`;
    const why = found.reasons.map((reason) => WHY[reason] ?? reason).join(", ");
    const model = `The model said ${found.prediction}, ${sure}. Kept because ${why}.`;
    const others = `It is filed under ${found.filed}; the other photos suggest ${found.prediction}, ${sure}.`;
    say(`You said ${mine}. ${found.filed === null ? model : others}`);
    await next();
  });
}

function undo() {
  alone(async () => {
    const { request_id: request } = await (await call("undo", { reviewer })).json();
    say("Your last answer is taken back.");
    await next(); // for the progress
    await show(request);
  });
}

function start() {
  $("who").hidden = Boolean(reviewer);
  $("work").hidden = !reviewer;
  $("me").textContent = reviewer;
  if (reviewer) alone(next);
  else $("name").focus();
}

$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  reviewer = $("name").value.trim();
  localStorage.setItem("reviewer", reviewer);
  if (reviewer) start();
});
$("change").addEventListener("click", () => {
  reviewer = "";
  localStorage.removeItem("reviewer");
  start();
});
$("again").addEventListener("click", () => alone(next));
$("neither").addEventListener("click", () => answer("neither"));
$("cannot-tell").addEventListener("click", () => answer("cannot-tell"));
$("undo").addEventListener("click", undo);
$("filter").addEventListener("input", match);
$("filter").addEventListener("keydown", (event) => {
  const first = event.key === "Enter" && match();
  if (first) answer("label", first);
});
// People who dictate, or press keys by accident, can turn them off (WCAG 2.1.4).
$("keys").checked = localStorage.getItem("keys") !== "off";
$("keys").addEventListener("change", () => localStorage.setItem("keys", $("keys").checked ? "on" : "off"));
document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  const typing = target instanceof HTMLInputElement && target.type !== "checkbox" && (target.id !== "filter" || target.value);
  if (typing || !$("keys").checked || $("work").hidden) return;
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const label = labels.length <= MOST_KEYS && /^[1-9]$/.test(key) ? labels[Number(key) - 1] : undefined;
  if (label !== undefined) answer("label", label);
  else if (key === "-") answer("neither");
  else if (key === "." || key === ",") answer("cannot-tell"); // some keypads have a comma
  else if (key === "Backspace") undo();
  else return;
  event.preventDefault();
});

start();
