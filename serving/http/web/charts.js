// Small charts as SVG: a value per period, the latest on the right; text says what they show.
import { element } from "./element.js";

const WIDTH = 300;
const HEIGHT = 80;
const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// A figure: the title, what counts in a word or two, the picture, and a key if there are several series.
function chart({ title, summary, description, top, unit, ago }, series, shapes) {
  const figure = element("figure");
  const caption = element("figcaption");
  caption.append(element("b", title), ` ${summary}`);
  const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${description}` });
  picture.append(...shapes);
  const plot = element("div", "", { className: "plot" });
  plot.append(picture, element("span", `${top}${unit}`, { ariaHidden: "true" }));
  const scale = element("div", "", { className: "scale", ariaHidden: "true" });
  scale.append(element("span", ago), element("span", "now"));
  figure.append(caption, plot, scale);
  if (series.length > 1) {
    const key = element("p", "", { className: "key small" });
    key.append(...series.map(({ name, kind }) => element("span", name, { className: kind })));
    figure.append(key);
  }
  return figure;
}

// The empty figure that stands in for a chart with too little to show.
export function without(title, why) {
  const figure = element("figure");
  const caption = element("figcaption");
  caption.append(element("b", title));
  figure.append(caption, element("p", why, { className: "few" }));
  return figure;
}

function roundUp(value) {
  const step = 10 ** Math.floor(Math.log10(value || 1)) / 2;
  return Number((Math.ceil(value / step) * step).toPrecision(2));
}

// Stacked counts. `time` is { slots, ago }: how many periods fit, and when the first was; `series` is
// [{ name, kind, values }], with a value per period.
export function bars(title, summary, { slots, ago }, series) {
  const length = series[0].values.length;
  const sums = Array.from({ length }, (_, i) => series.reduce((sum, { values }) => sum + values[i], 0));
  const top = roundUp(Math.max(1, ...sums));
  const step = WIDTH / slots;
  const shapes = [];
  for (let i = 0; i < length; i += 1) {
    let y = HEIGHT;
    for (const { kind, values } of series) {
      const height = (HEIGHT * values[i]) / top;
      y -= height;
      const x = WIDTH - (length - i) * step;
      if (height) shapes.push(shape("rect", { class: kind, x, y, width: 0.8 * step, height }));
    }
  }
  const totals = series.map(({ name, values }) => `${values.reduce((a, b) => a + b, 0)} ${name}`).join(", ");
  const description = `${totals}, at most ${Math.max(...sums)} in a period`;
  return chart({ title, summary, description, top, unit: "", ago }, series, shapes);
}

// Lines with gaps where a value is null. `limit` is a value to mark, if any.
export function lines(title, summary, { slots, ago }, series, { unit = "", limit = null, least = 1 } = {}) {
  const known = series.flatMap(({ values }) => values.filter((value) => value !== null));
  const most = Math.max(limit ?? 0, ...known);
  const top = Math.max(least, roundUp(most));
  const step = WIDTH / slots;
  const y = (value) => HEIGHT - (HEIGHT * value) / top;
  const shapes = [];
  for (const { kind, values } of series) {
    values.forEach((value, i) => {
      const x = WIDTH - (values.length - i - 0.5) * step;
      if (value === null) return;
      shapes.push(shape("circle", { class: kind, cx: x, cy: y(value), r: 1.5 }));
      const before = values[i - 1] ?? null;
      if (before !== null) shapes.push(shape("line", { class: kind, x1: x - step, y1: y(before), x2: x, y2: y(value) }));
    });
  }
  if (limit !== null) shapes.push(shape("line", { class: "limit", x1: 0, y1: y(limit), x2: WIDTH, y2: y(limit) }));
  const ends = series.map(({ name, values }) => {
    const seen = values.filter((value) => value !== null);
    return seen.length ? `${name} from ${Math.min(...seen)} to ${Math.max(...seen)}${unit}` : `${name} not known`;
  });
  const description = ends.join(", ") + (limit === null ? "" : `; the limit is ${limit}`);
  return chart({ title, summary, description, top, unit, ago }, series, shapes);
}
