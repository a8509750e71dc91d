// The card of one photo: the photo large, then what the service says of it, then why.
import { element } from "./element.js";
import { whyButton } from "./heat.js";

export function newCard(file) {
  const card = element("article", "", { className: "card waiting", ariaLabel: file.name });
  card.setAttribute("aria-busy", "true");
  const figure = element("figure");
  const stage = element("div", "", { className: "stage" });
  const photo = element("img", "", { className: "photo", alt: file.name });
  photo.src = URL.createObjectURL(file);
  photo.addEventListener("error", () => {
    photo.replaceWith(element("p", "This browser cannot show this photo.", { className: "unshown" }));
  });
  stage.append(photo);
  figure.append(stage, element("figcaption", file.name, { className: "small" }));
  const said = element("div", "", { className: "said" });
  said.append(element("h2", "…"));
  card.append(figure, said);
  return card;
}

// `answer` is the card of the service's own page, made of text and escaped there.
export function show(card, answer, explain) {
  settle(card, answer.className, [...answer.children]);
  if (!answer.classList.contains("problem")) card.querySelector(".said").append(whyButton(card, explain));
}

export function failed(card, title, detail) {
  settle(card, "card problem", [element("h2", title), element("p", detail)]);
}

function settle(card, className, children) {
  card.className = className;
  card.removeAttribute("aria-busy");
  card.querySelector(".said").replaceChildren(...children);
}
