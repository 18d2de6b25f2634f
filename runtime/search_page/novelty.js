// When does a video show what it did not show before: a bar a clip, to be chosen like the clip itself?

import { showSpan, showTime } from "./cards.js";

const [HEIGHT, LEFT, BELOW, ABOVE] = [150, 52, 22, 8]; // pixels
const BARS = 300; // more are drawn as the highest of those that share a bar

function draw(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// the clips that a bar stands for are merged into the one that is most novel
function merge(places) {
  const scored = places.filter((place) => place.score !== null);
  const share = Math.ceil(scored.length / BARS);
  const bars = [];
  for (let first = 0; first < scored.length; first += share) {
    bars.push(scored.slice(first, first + share).reduce((most, place) => (place.score > most.score ? place : most)));
  }
  return bars;
}

export function plotNovelty(box, places, choose) {
  box.replaceChildren();
  const bars = merge(places);
  if (!bars.length) return false;
  const width = box.clientWidth || 600;
  const highest = Math.max(...bars.map((bar) => bar.score), 1e-6);
  const [start_s, end_s] = [places[0].start_s, places.at(-1).end_s];
  const x = (seconds) => LEFT + ((seconds - start_s) / (end_s - start_s || 1)) * (width - LEFT);
  const y = (score) => HEIGHT - BELOW - (score / highest) * (HEIGHT - BELOW - ABOVE);
  const plot = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "group", "aria-label": "Novelty over time" });
  for (const part of [0, 0.5, 1]) {
    plot.append(draw("line", { x1: LEFT, x2: width, y1: y(part * highest), y2: y(part * highest) }));
    plot.append(draw("text", { x: LEFT - 4, y: y(part * highest) + 4, "text-anchor": "end" }, (part * highest).toPrecision(2)));
  }
  for (const part of [0, 0.5, 1]) {
    const seconds = start_s + part * (end_s - start_s);
    plot.append(draw("text", { x: x(seconds), y: HEIGHT - 4, "text-anchor": ["start", "middle", "end"][part * 2] }, showTime(seconds)));
  }
  const thick = Math.max(1, (width - LEFT) / Math.max(bars.length, Math.min(places.length, BARS)) - 1);
  for (const bar of bars) {
    const z = bar.z === null ? "" : `, z ${bar.z.toFixed(1)}`;
    const group = draw("g", { tabindex: -1, role: "button", class: "novel", "data-row": bar.row });
    group.append(draw("title", {}, `${showSpan(bar)}: novelty ${bar.score.toFixed(4)}${z}`));
    group.append(draw("rect", { class: "bar", x: x(bar.start_s), width: thick, y: y(bar.score), height: HEIGHT - BELOW - y(bar.score) }));
    group.append(draw("rect", { class: "hit", x: x(bar.start_s), width: thick, y: ABOVE, height: HEIGHT - BELOW - ABOVE }));
    group.addEventListener("click", () => choose(bar.row));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(bar.row);
    });
    plot.append(group);
  }
  plot.querySelector(".novel").setAttribute("tabindex", 0);
  box.append(plot);
  return true;
}

export function markNovelty(box, row) {
  box.querySelectorAll(".novel").forEach((group) => {
    group.firstElementChild.nextElementSibling.classList.toggle("here", Number(group.dataset.row) === row);
  });
}
