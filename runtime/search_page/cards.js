// What does a clip look like on the page? Names go in as text, never as markup.

export function make(tag, properties = {}, ...children) {
  const { data, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

export function showTime(seconds) {
  const tenths = Math.round(seconds * 10);
  const minutes = Math.floor(tenths / 600);
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return `${minutes}:${rest}`;
}

export const showSpan = (clip) => `${showTime(clip.start_s)} – ${showTime(clip.end_s)}`;

export function thumbnail(row) {
  const image = make("img", { alt: "", loading: "lazy", width: 256, height: 144, src: `/thumbnails/${row}` });
  image.addEventListener("error", () => image.classList.add("none"));
  return image;
}

// `play` and `search` are told the clip
export function card(clip, play, search) {
  const facts = make("span", { className: "row" }, make("span", {}, showSpan(clip)));
  if (clip.cosine !== null) facts.append(make("span", { title: "cosine" }, clip.cosine.toFixed(4)));
  const words = make("span", { className: "words" }, make("b", { title: clip.name }, clip.name), facts);
  if (clip.status !== "ok") words.append(make("span", { className: "row" }, `the video is ${clip.status}`));
  const player = make("button", { type: "button", className: "play", ariaLabel: describe(clip) }, thumbnail(clip.row), words);
  const from = make("button", { type: "button", className: "from" }, "Search from this");
  const box = make("div", { className: "card", data: { row: clip.row } }, player, from);
  player.addEventListener("click", () => {
    document.querySelectorAll(".card.playing").forEach((other) => other.classList.remove("playing"));
    box.classList.add("playing");
    play(clip);
  });
  from.addEventListener("click", () => search(clip));
  return box;
}

function describe(clip) {
  const alike = clip.cosine === null ? "" : `, cosine ${clip.cosine.toFixed(4)}`;
  return `Play ${clip.name} from ${showSpan(clip)}${alike}`;
}

// left and right go to the neighbour, up and down to the one above and below
export function moveByArrows(list, selector) {
  list.addEventListener("keydown", (event) => {
    const items = [...list.querySelectorAll(selector)];
    const here = items.indexOf(document.activeElement);
    if (here < 0) return;
    const top = (item) => Math.round(item.getBoundingClientRect().top);
    const columns = Math.max(1, items.filter((item) => top(item) === top(items[0])).length);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const there = event.key === "Home" ? 0 : event.key === "End" ? items.length - 1 : here + (step ?? NaN);
    if (Number.isNaN(there)) return;
    event.preventDefault();
    items[Math.min(items.length - 1, Math.max(0, there))].focus();
  });
}
