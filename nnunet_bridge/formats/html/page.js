/* What all pages do: tabs, rows of choices, the order of predicted cases, the slice viewer. `base.html.j2` sets this
   file, and `surfaces.js` after it, into one strict block. */
const read = (id) => {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : [];
};
const cases = read("cases");
const models = read("models");
const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

/* Tabs: without this script every panel is shown. */
for (const section of document.querySelectorAll("[data-tabs]")) {
  const panels = [...section.querySelectorAll(".panel")];
  const names = [...new Set(panels.map((panel) => panel.dataset.tab))];
  if (names.length < 2) continue;
  const list = make("div", { className: "tabs" });
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", section.dataset.tabs);
  const buttons = names.map((name) => {
    const button = make("button", { type: "button", textContent: name });
    button.setAttribute("role", "tab");
    button.addEventListener("click", () => choose(name));
    list.append(button);
    return button;
  });
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

/* A row of buttons of which one, or any number, is pressed; `colours` edge some of them. */
const choice = (box, words, { many = false, pressed = [], colours = new Map() } = {}, changed) => {
  box.replaceChildren(make("span", { textContent: box.getAttribute("aria-label").toLowerCase() }));
  const state = new Set(pressed);
  const buttons = words.map((word) => {
    const button = make("button", { type: "button", textContent: word });
    if (colours.has(word)) Object.assign(button.style, { borderColor: colours.get(word), borderWidth: "2px" });
    button.addEventListener("click", () => {
      if (many) { if (!state.delete(word)) state.add(word); }
      else { state.clear(); state.add(word); }
      show();
      changed(state);
    });
    box.append(button);
    return button;
  });
  const show = () => buttons.forEach((button) => {
    button.setAttribute("aria-pressed", String(state.has(button.textContent)));
  });
  show();
  return state;
};

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

/* Slices */
const viewer = document.getElementById("viewer");
if (viewer && cases.length) startViewer();

function startViewer() {
  viewer.hidden = false;
  const part = (selector) => viewer.querySelector(selector);
  const boxes = (name) => part(`[data-choice=${name}]`);
  const canvas = part("canvas");
  const context = canvas.getContext("2d");
  const slider = part("input");
  const tint = make("canvas");
  const pictures = new Map();
  const caseNames = cases.map((found) => `${found.reason}: ${found.id}`);
  let shownCase = cases[0];
  let plane = shownCase.planes[0];
  let frame = plane.start;
  const modelColour = (name) => {
    const place = models.indexOf(name);
    return getComputedStyle(part(".stage")).getPropertyValue(`--m${Math.max(place, 0) % 4}`).trim();
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
    part("output").textContent = plane.indices[frame];
    slider.max = plane.indices.length - 1;
    slider.value = frame;
    [".l", ".r", ".t", ".bo"].forEach((side, n) => { part(side).textContent = plane.letters[n]; });
    const scores = shownCase.dice.map(([name, dice]) => `${name} ${dice}`).join(", ");
    part(".about").textContent = scores ? `Mean Dice of this case: ${scores}` : "";
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
    draw();
  };
  const offerPlanes = (name) => choice(
    boxes("plane"), shownCase.planes.map((found) => found.plane), { pressed: [name] },
    (state) => choosePlane([...state][0]),
  );
  choice(boxes("case"), caseNames, { pressed: [caseNames[0]] }, (state) => {
    shownCase = cases[caseNames.indexOf([...state][0])];
    choosePlane(plane.plane);
    offerPlanes(plane.plane);
  });
  offerPlanes(plane.plane);
  const names = ["image", ...plane.layers.map((layer) => layer.name)];
  const atFirst = names.filter((name) => name !== "disagreement");
  const colours = new Map(models.map((name, place) => [name, `var(--m${place % 4})`]));
  layers = choice(boxes("layer"), names, { many: true, pressed: atFirst, colours }, draw);
  slider.addEventListener("input", () => { frame = Number(slider.value); draw(); });
  const stage = part(".stage");
  stage.addEventListener("keydown", (event) => {
    const all = plane.indices.length;
    const step = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -5, PageDown: 5, Home: -all, End: all }[event.key];
    if (!step) return;
    turn(step);
    event.preventDefault();
  });
  stage.addEventListener("wheel", (event) => {
    if (turn(Math.sign(event.deltaY))) event.preventDefault();
  }, { passive: false });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
