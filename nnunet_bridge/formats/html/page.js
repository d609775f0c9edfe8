/* What all pages do: tabs, rows of choices, the order of predicted cases, the slice viewer. `base.html.j2` sets this
   file into one strict block, after `shared.js` and, where there are surfaces, `surfaces.js`. */
const read = (id) => {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : [];
};
const cases = read("cases");
const models = read("models");

/* Tabs: without this script every panel is shown. */
for (const section of document.querySelectorAll("[data-tabs]")) {
  const panels = [...section.querySelectorAll(".panel")];
  const names = [...new Set(panels.map((panel) => panel.dataset.tab))];
  if (names.length < 2) continue;
  const buttons = names.map((name) => h("button", { role: "tab", onclick: () => choose(name) }, name));
  const list = h("div.tabs", { role: "tablist", "aria-label": section.dataset.tabs }, buttons);
  const choose = (name) => {
    panels.forEach((panel) => { panel.hidden = panel.dataset.tab !== name; });
    buttons.forEach((button) => {
      const chosen = button.textContent === name;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
    });
  };
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const now = buttons.indexOf(document.activeElement);
    const next = buttons[(now + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
    event.preventDefault();
  });
  panels[0].before(list);
  choose(names[0]);
}

/* Slices and surfaces show the same case. */
const onCase = (act) => document.addEventListener("case", (event) => act(cases[event.detail]));
const showCase = (found) => document.dispatchEvent(new CustomEvent("case", { detail: cases.indexOf(found) }));

/* Predicted cases with their ratings. Without this script all are shown, the worst first. */
const ratedList = document.querySelector(".rated-list");
const sorting = document.querySelector("[data-sort]");
if (ratedList && sorting) {
  const rated = [...ratedList.children];
  const levels = [...new Set(rated.map((item) => item.dataset.level))];
  const orders = {
    "worst first": (a, b) => a.dataset.worst - b.dataset.worst,
    "lowest agreement": (a, b) => a.dataset.agreement - b.dataset.agreement || a.dataset.worst - b.dataset.worst,
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
  };
  choice(sorting, Object.keys(orders), { pressed: ["worst first"] }, (state) => {
    ratedList.append(...rated.sort(orders[[...state][0]]));
  });
  choice(document.querySelector("[data-levels]"), levels, { many: true, pressed: levels }, (state) => {
    for (const item of rated) item.hidden = !state.has(item.dataset.level);
  });
}

/* A click on a picture enlarges it. */
for (const picture of document.querySelectorAll(".zoom")) {
  picture.addEventListener("click", () => picture.setAttribute("aria-expanded", String(picture.parentElement.classList.toggle("zoomed"))));
}

/* Slices */
const viewer = document.getElementById("viewer");
if (viewer && cases.length) startViewer();

function startViewer() {
  viewer.hidden = false;
  const part = (selector) => viewer.querySelector(selector);
  const boxes = (name) => part(`[data-choice=${name}]`);
  const { stage, canvas, range, output, annotate, slider } = sliceStage("slice", "Slice viewer. Arrow keys scroll through the slices.");
  part(".about").after(stage, slider);
  const context = canvas.getContext("2d");
  const tint = h("canvas");
  const pictures = new Map();
  let shownCase = cases[0];
  let plane = shownCase.planes[0];
  let frame = plane.start;
  const modelColour = (name) => {
    const place = models.indexOf(name);
    return getComputedStyle(stage).getPropertyValue(`--m${Math.max(place, 0) % 4}`).trim();
  };
  let layers = new Set();

  const picture = (address) => {
    if (!pictures.has(address)) {
      const image = new Image();
      image.addEventListener("load", draw);
      image.src = address;
      pictures.set(address, image);
    }
    const image = pictures.get(address);
    return image.complete && image.naturalWidth ? image : null;
  };
  const cut = (target, image, scale) => {
    const width = plane.width * scale;
    const height = plane.height * scale;
    const column = frame % plane.columns;
    const row = Math.floor(frame / plane.columns);
    target.drawImage(image, column * width, row * height, width, height, 0, 0, canvas.width, canvas.height);
  };
  function draw() {
    const scale = Math.max(2, Math.round(768 / Math.max(plane.width, plane.height)));
    canvas.width = plane.width * scale;
    canvas.height = plane.height * scale;
    const image = layers.has("image") ? picture(plane.image) : null;
    if (image) cut(context, image, 1);
    for (const { name, sprite, kind } of plane.layers) {
      if (!layers.has(name)) continue;
      const labels = picture(sprite);
      if (!labels) continue;
      if (kind !== "outline") { cut(context, labels, 2); continue; }
      tint.width = canvas.width;
      tint.height = canvas.height;
      const pen = tint.getContext("2d");
      cut(pen, labels, 2);
      pen.globalCompositeOperation = "source-in";
      pen.fillStyle = modelColour(name);
      pen.fillRect(0, 0, tint.width, tint.height);
      context.drawImage(tint, 0, 0);
    }
    part(".legend").classList.toggle("disagreeing", layers.has("disagreement"));
    for (const item of viewer.querySelectorAll("[data-value]")) item.hidden = !plane.present[frame].includes(Number(item.dataset.value));
    output.textContent = plane.indices[frame];
    annotate(`${shownCase.id}, ${plane.plane} ${plane.indices[frame]}`, plane.letters, plane.bar_mm, plane.bar_share);
    Object.assign(range, { max: plane.indices.length - 1, value: frame });
    const scores = shownCase.dice.map(([name, dice]) => `${name} ${dice}`).join(", ");
    const title = titleOf(shownCase);
    part(".about").textContent = `${title[0].toUpperCase()}${title.slice(1)}. ${scores ? `Mean Dice: ${scores}.` : ""} ${shownCase.failures.map((words) => `${words}.`).join(" ")}`;
  }
  const turn = (step) => {
    const next = Math.min(plane.indices.length - 1, Math.max(0, frame + step));
    if (next === frame) return false;
    frame = next;
    draw();
    return true;
  };
  const choosePlane = (name) => {
    plane = shownCase.planes.find((found) => found.plane === name) || shownCase.planes[0];
    frame = plane.start;
    small.forEach(([button, found]) => {
      const own = found.planes.find((one) => one.plane === plane.plane) || found.planes[0];
      button.querySelector("img").src = own.picture;
      button.setAttribute("aria-pressed", String(found === shownCase));
    });
    draw();
  };
  const small = cases.map((found) => {
    const scores = found.dice.map(([name, dice]) => `${name} ${dice}`).join(", ");
    const button = h("button.small", { "aria-label": titleOf(found), title: [`Mean Dice: ${scores}`, ...found.failures].join("; "), onclick: () => showCase(found) },
      h("img", { alt: "" }), h("span", found.id), h("small", found.dice.map(([, dice]) => dice).join(" · ")));
    button.classList.toggle("failing", found.failures.length > 0);
    boxes("case").append(button);
    return [button, found];
  });
  boxes("case").hidden = cases.length < 2;
  const offerPlanes = (name) => choice(
    boxes("plane"), shownCase.planes.map((found) => found.plane), { pressed: [name] },
    (state) => choosePlane([...state][0]),
  );
  onCase((found) => {
    shownCase = found;
    choosePlane(plane.plane);
    offerPlanes(plane.plane);
  });
  offerPlanes(plane.plane);
  const names = ["image", ...plane.layers.map((layer) => layer.name)];
  const colours = new Map(models.map((name, place) => [name, `var(--m${place % 4})`]));
  layers = choice(boxes("layer"), names, { many: true, pressed: names, colours }, draw);
  range.addEventListener("input", () => { frame = Number(range.value); draw(); });
  turnable(stage, () => plane.indices.length, turn);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  choosePlane(plane.plane);
}

/* Surfaces */
const surfaces = document.getElementById("meshes");
if (surfaces) showSurfaces(surfaces, cases, models, { onCase, showCase });
