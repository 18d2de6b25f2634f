// What does the page do: it asks the server on this machine, and shows what it is told?

import { card, make, moveByArrows, showSpan, thumbnail } from "./cards.js";
import { CorpusMap } from "./map.js";
import { markNovelty, plotNovelty } from "./novelty.js";

const get = (id) => document.getElementById(id);
const STRIP = 60; // clips of a video that are shown at once
const state = { map: null, query: null, video: null, places: [], listed: 0, turn: 0, wish: 0, blob: null };

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is vjepa2 search still running?");
  }
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

function say(words, bad = false) {
  get("said").textContent = words;
  get("said").classList.toggle("bad", bad);
}

// one thing is done for the latest wish; an error is told
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    say(error.message, true);
  }
}

function play(source, clip, name) {
  const player = get("player");
  get("player-note").hidden = true;
  player.src = `${source}#t=${clip.start_s},${clip.end_s}`;
  player.setAttribute("aria-label", `${name}, ${showSpan(clip)}`);
  get("playing").textContent = `${name}, ${showSpan(clip)}`;
  get("screen").hidden = false;
  player.play().catch(() => {}); // the browser may want a click first, or not know the codec: "error" tells that
}

const playClip = (clip) => play(`/videos/${clip.video}`, clip, clip.name);

get("player").addEventListener("error", async () => {
  const note = get("player-note");
  const source = get("player").src;
  let why = "This browser cannot play this video: its container or codec is unknown to it. The search does not depend on that.";
  if (source && !source.startsWith("blob:")) {
    const answer = await fetch(source.split("#")[0], { headers: { Range: "bytes=0-0" } }).catch(() => null);
    if (answer && !answer.ok) why = (await answer.json().catch(() => ({}))).error ?? why;
  }
  note.textContent = why;
  note.hidden = false;
});

function showFound(found, empty) {
  const list = get("found");
  list.replaceChildren(...found.map((clip) => make("li", {}, card(clip, playClip, (each) => choose(each.row)))));
  get("nearest-none").hidden = found.length > 0;
  get("nearest-none").textContent = empty;
  const queried = state.query?.row ?? null;
  state.map?.mark(queried, found.map((clip) => clip.row));
}

async function searchNow() {
  const turn = ++state.turn;
  const { query } = state;
  if (!query) return;
  get("others").disabled = Boolean(query.upload); // an upload is no video of the corpus
  const top = get("top").value;
  const path = query.upload
    ? `/api/uploads/${query.upload}/nearest?clip=${query.clip}&top=${top}`
    : `/api/clips/${query.row}/nearest?top=${top}&others=${get("others").checked}`;
  await attempt(async () => {
    const { found } = await ask(path);
    if (turn === state.turn) {
      showFound(found, get("others").checked ? "There is no other video." : "There is no other clip.");
      say(`${found.length} nearest clips of ${query.name}.`);
    }
  });
}

// a clip of the corpus becomes the query
async function choose(row) {
  const wish = ++state.wish;
  await attempt(async () => {
    const clip = await ask(`/api/clips/${row}`);
    if (wish !== state.wish) return; // another was chosen in the meantime
    state.query = { row, name: `${clip.name}, ${showSpan(clip)}` };
    history.replaceState(null, "", `#${row}`);
    playClip(clip);
    get("query-name").textContent = state.query.name;
    await Promise.all([searchNow(), showVideo(clip.video)]);
    if (wish === state.wish) markPlace(row);
  });
}

async function showVideo(number) {
  if (state.video === number) return;
  const { wish } = state;
  const video = await ask(`/api/videos/${number}`);
  if (wish !== state.wish) return;
  [state.video, state.places] = [number, video.places];
  get("strip").replaceChildren();
  growStrip();
  const shown = plotNovelty(get("novelty-plot"), video.places, choose);
  get("novelty-says").textContent = shown
    ? `How unlike its own past each clip of ${video.name} is: 1 less the third largest cosine to up to 256 clips that lie side by side before it. It says that, and nothing more.`
    : `${video.name} has ${video.clips} clip${video.clips === 1 ? "" : "s"}: too few. A clip is judged once 16 that lie side by side are before it.`;
  document.querySelectorAll("#videos button").forEach((button) => {
    button.setAttribute("aria-current", Number(button.dataset.video) === number);
  });
}

function growStrip() {
  const strip = get("strip");
  const next = state.places.slice(strip.children.length, strip.children.length + STRIP);
  strip.append(...next.map((place) => {
    const button = make("button", { type: "button", title: showSpan(place), data: { row: place.row } },
      thumbnail(place.row), showSpan(place).split(" ")[0]);
    button.addEventListener("click", () => choose(place.row));
    return button;
  }));
  strip.hidden = state.places.length < 2;
  get("more-strip").hidden = strip.children.length >= state.places.length;
}

function markPlace(row) {
  const first = state.places[0]?.row ?? 0;
  while (row - first >= get("strip").children.length && get("strip").children.length < state.places.length) growStrip();
  for (const button of get("strip").children) {
    const here = Number(button.dataset.row) === row;
    button.setAttribute("aria-current", here);
    if (here) get("strip").scrollLeft = button.offsetLeft - get("strip").offsetLeft - get("strip").clientWidth / 2 + button.offsetWidth / 2;
  }
  markNovelty(get("novelty-plot"), row);
}

async function listVideos(more = false) {
  const text = get("filter").value;
  await attempt(async () => {
    const first = more ? state.listed : 0;
    const { total, videos } = await ask(`/api/videos?first=${first}&count=50&text=${encodeURIComponent(text)}`);
    if (text !== get("filter").value) return;
    const items = videos.map((video) => {
      const count = make("span", { className: "count" }, `${video.clips} clip${video.clips === 1 ? "" : "s"}`);
      const button = make("button", { type: "button", data: { video: video.video } }, make("span", {}, video.name), count);
      button.setAttribute("aria-current", video.video === state.video);
      button.addEventListener("click", () => choose(video.first));
      return make("li", {}, button);
    });
    if (more) get("videos").append(...items);
    else get("videos").replaceChildren(...items);
    state.listed = first + videos.length;
    get("more-videos").hidden = state.listed >= total;
    get("matches").textContent = total ? `${state.listed} of ${total}` : "No video of the corpus has that in its name.";
  });
}

async function upload(file) {
  if (!file) return;
  say(`Embedding ${file.name} …`);
  get("drop").classList.remove("over");
  const told = await attempt(async () => {
    try {
      return await ask("/api/uploads", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    } catch (error) {
      throw new Error(`${file.name}: ${error.message}`);
    }
  });
  get("file").value = "";
  if (!told) return;
  state.wish++;
  if (state.blob) URL.revokeObjectURL(state.blob);
  state.blob = URL.createObjectURL(file);
  [state.video, state.places] = [null, []];
  history.replaceState(null, "", "#");
  get("more-strip").hidden = true;
  get("novelty-plot").replaceChildren();
  get("novelty-says").textContent = "Novelty is shown of the corpus's videos.";
  const clips = told.clips.map((clip, number) => {
    const button = make("button", { type: "button" }, showSpan(clip));
    button.addEventListener("click", () => chooseUploaded(told, number, file.name));
    return button;
  });
  get("strip").replaceChildren(...clips);
  get("strip").hidden = clips.length < 2;
  await chooseUploaded(told, 0, file.name);
  if (told.total > told.clips.length) say(`Only the first ${told.clips.length} of ${told.total} clips of ${file.name} were embedded.`);
}

async function chooseUploaded(told, clip, name) {
  state.query = { upload: told.upload, clip, name: `${name}, ${showSpan(told.clips[clip])}` };
  [...get("strip").children].forEach((button, number) => button.setAttribute("aria-current", number === clip));
  get("query-name").textContent = state.query.name;
  play(state.blob, told.clips[clip], name);
  await searchNow();
}

async function findPairs(event) {
  event.preventDefault();
  const threshold = get("threshold").value;
  get("pairs-says").textContent = "Each clip is held to each …";
  get("pairs-found").replaceChildren();
  try {
    const { total, pairs } = await ask(`/api/pairs?threshold=${encodeURIComponent(threshold)}`);
    const shown = total > pairs.length ? `; the ${pairs.length} most alike are shown` : "";
    get("pairs-says").textContent = total ? `${total} pair${total === 1 ? "" : "s"} of videos${shown}.` : "None. A lower number finds more.";
    const both = (pair) => [pair.left, pair.right].map((clip) => card(clip, playClip, (each) => choose(each.row)));
    get("pairs-found").append(...pairs.map((pair) => make("li", {},
      make("p", {}, `cosine ${pair.cosine.toFixed(4)}, ${pair.pairs} pair${pair.pairs === 1 ? "" : "s"} of clips`),
      make("div", { className: "two" }, ...both(pair)))));
  } catch (error) {
    get("pairs-says").textContent = error.message;
  }
}

function showCorpus(about) {
  const { run, policy } = about;
  document.title = `${about.name}: search`;
  get("title").textContent = `Corpus ${about.name}`;
  get("facts").textContent = `${about.clips.toLocaleString("en")} clips of ${about.videos.toLocaleString("en")} videos, sampled ${policy.sampling}; ` +
    `${run.model}, ${run.backend}, ${run.precision}, bundle ${run.bundle.slice(0, 12)}; ${about.index}` +
    (about.seal ? `; sealed ${about.seal.slice(0, 12)}` : "");
  const notes = [];
  if (about.warning) notes.push(make("p", { className: "loud" }, `The bundle says: ${about.warning}`));
  if (!about.seal) notes.push(make("p", { className: "missing" }, `Not sealed: ${about.shards} of ${about.planned} shards are here, as they were when this page's server started, and nothing vouches that they are all.`));
  if (about.rejected_count) {
    const shown = about.rejected.map((video) => make("li", {}, `${video.name}: ${video.reason ?? "no reason is known"}`));
    if (about.rejected_count > shown.length) shown.push(make("li", {}, `and ${about.rejected_count - shown.length} more`));
    notes.push(make("details", {}, make("summary", {}, `${about.rejected_count} rejected video${about.rejected_count === 1 ? "" : "s"}, not here`), make("ul", {}, ...shown)));
  }
  get("notes").replaceChildren(...notes);
  get("drop").hidden = !about.uploads;
  get("no-upload").hidden = about.uploads;
}

function showMap(points, clips) {
  const part = points.rows.length < clips ? `${points.rows.length.toLocaleString("en")} of the clips, evenly taken` : "every clip";
  get("map-says").textContent = `${part[0].toUpperCase()}${part.slice(1)}, by the first two principal components (PCA), which keep ${(100 * points.kept).toFixed(1)} % of the variance: what is near here may be far apart in truth. Click, or arrows and Enter; + − 0, or the wheel after a click, zoom.`;
  let turn = 0;
  const show = async (row) => {
    const mine = ++turn;
    if (row === null) return (get("map-point").textContent = "\u00a0");
    await new Promise((done) => setTimeout(done, 40)); // what the pointer only passes is not asked for
    if (mine !== turn) return;
    const clip = await attempt(() => ask(`/api/clips/${row}`));
    if (clip && mine === turn) get("map-point").textContent = `${clip.name}, ${showSpan(clip)}`;
  };
  state.map = new CorpusMap(get("canvas"), points, show, choose);
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => state.map.zoom({ in: 1.5, out: 1 / 1.5, all: 0 }[button.dataset.zoom]));
  }
}

function listen() {
  let waiting;
  get("filter").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(listVideos, 150);
  });
  get("more-videos").addEventListener("click", () => listVideos(true));
  get("more-strip").addEventListener("click", growStrip);
  get("others").addEventListener("change", searchNow);
  get("top").addEventListener("change", searchNow);
  get("pairs-form").addEventListener("submit", findPairs);
  get("file").addEventListener("change", (event) => upload(event.target.files[0]));
  const allowed = (event) => !get("drop").hidden && event.dataTransfer.types.includes("Files");
  addEventListener("dragover", (event) => {
    event.preventDefault();
    get("drop").classList.toggle("over", allowed(event));
  });
  addEventListener("dragleave", (event) => event.relatedTarget || get("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would leave the page for the file
    if (allowed(event)) upload(event.dataTransfer.files[0]);
  });
  get("close").addEventListener("click", () => {
    get("player").pause();
    get("screen").hidden = true;
  });
  moveByArrows(get("found"), ".play");
  moveByArrows(get("videos"), "button");
  moveByArrows(get("strip"), "button");
  moveByArrows(get("novelty-plot"), ".novel");
}

listen();
await attempt(async () => {
  const [about, points] = await Promise.all([ask("/api/corpus"), ask("/api/map"), listVideos()]);
  showCorpus(about);
  showMap(points, about.clips);
  const row = location.hash.slice(1);
  if (/^\d+$/.test(row)) await choose(Number(row));
});
