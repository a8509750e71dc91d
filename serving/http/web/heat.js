// The heat map: an overlay over the photo, which fades in, and a slider between the two.
import { element } from "./element.js";

export function whyButton(card, explain) {
  const why = element("div", "", { className: "why" });
  const button = element("button", "Show why", { type: "button", ariaPressed: "false" });
  why.append(button);
  let parts = null;
  button.addEventListener("click", async () => {
    if (!parts) {
      button.disabled = true;
      try {
        parts = await overlay(card, await explain());
      } catch (problem) {
        const detail = problem instanceof TypeError ? "The service cannot be reached" : problem.message;
        button.replaceWith(element("p", `No heat map: ${detail}.`));
        return;
      }
      button.disabled = false;
      why.append(...parts.notes);
    }
    const shown = button.ariaPressed !== "true";
    button.ariaPressed = String(shown);
    parts.show(shown);
  });
  return why;
}

async function overlay(card, response) {
  if (!response.ok) throw new Error((await response.json()).title);
  const label = decodeURIComponent(response.headers.get("X-Prediction") ?? "the answer");
  const map = element("img", "", { className: "heat", alt: "Heat map over the photo" });
  map.src = URL.createObjectURL(await response.blob());
  await map.decode();
  const slider = element("input", "", { type: "range", min: 0, max: 100, value: 100, ariaLabel: "From photo to heat map" });
  const strength = element("label", "Photo ", { className: "strength" });
  strength.append(slider, " Heat map");
  const legend = element("p", `Orange areas speak for ${label}, blue areas against it.`, { className: "small" });
  const stage = card.querySelector(".stage");
  stage.append(map);
  slider.addEventListener("input", () => (map.style.opacity = slider.value / 100));
  map.getBoundingClientRect(); // lays it out transparent, so that it fades in
  return {
    notes: [strength, legend],
    show(shown) {
      slider.value = 100;
      map.style.opacity = shown ? 1 : 0;
      map.ariaHidden = String(!shown);
      legend.hidden = !shown;
      strength.hidden = !shown || !stage.querySelector(".photo"); // nothing to fade to
    },
  };
}
