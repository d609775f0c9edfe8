/* What the pages and the slice viewer of `gui` share. The pages set this file into their block without the word
   `export`; `gui` loads it as a module. */

/* Replace the content of an element; null, false and "" are left out. */
export const put = (element, ...children) => {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child || child === 0));
};

/* An element: `h("p.soft", { hidden: true }, "text")`. Functions answer events, such as `onclick`. Text becomes text
   nodes and attributes, never HTML. */
export const h = (words, ...children) => {
  const [tag, ...classes] = words.split(".");
  const element = document.createElement(tag);
  const isPlain = children[0] && Object.getPrototypeOf(children[0]) === Object.prototype;
  const properties = isPlain ? children.shift() : {};
  if (tag === "button") element.type = "button";
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  put(element, children);
  return element;
};

/* The names of a legend, each with its colour. */
export const swatches = (colours) => [...colours].map(([name, colour]) => {
  const swatch = h("i.swatch");
  swatch.style.background = colour;
  return h("span", swatch, name);
});

/* Text of a case: why it is shown, and its name. */
export const titleOf = (found) => `${found.reason || "case"}: ${found.id}`;

/* A row of buttons of which one, or any number, is pressed; `colours` edge some of them. */
export const choice = (box, words, { many = false, pressed = [], colours = new Map() } = {}, changed) => {
  const state = new Set(pressed);
  const buttons = words.map((word) => {
    const button = h("button", word);
    if (colours.has(word)) Object.assign(button.style, { borderColor: colours.get(word), borderWidth: "2px" });
    button.addEventListener("click", () => {
      if (many) { if (!state.delete(word)) state.add(word); }
      else { state.clear(); state.add(word); }
      show();
      changed(state);
    });
    return button;
  });
  put(box, h("span", box.getAttribute("aria-label").toLowerCase()), buttons);
  const show = () => buttons.forEach((button) => {
    button.setAttribute("aria-pressed", String(state.has(button.textContent)));
  });
  show();
  return state;
};

/* One of a few words is a row of buttons, one of many a list. */
export const chooseOne = (box, words, pressed, changed) => {
  if (words.length < 5) { choice(box, words, { pressed: [pressed] }, (state) => changed([...state][0])); return; }
  const name = box.getAttribute("aria-label");
  const options = words.map((word) => h("option", { selected: word === pressed }, word));
  const list = h("select", { "aria-label": name, onchange: () => changed(list.value) }, options);
  put(box, h("span", name.toLowerCase()), list);
};

/* Slices by which a key scrolls through `all` of them; 0 for another key. */
export const slicesOf = (key, all) => ({
  ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -5, PageDown: 5, Home: -all, End: all,
}[key] || 0);

/* Turn slices by keys and wheel; `turn` gets how many, and returns whether it could. */
export const turnable = (stage, count, turn) => {
  stage.addEventListener("keydown", (event) => {
    const step = slicesOf(event.key, count());
    if (!step) return;
    turn(step);
    event.preventDefault();
  });
  stage.addEventListener("wheel", (event) => {
    if (turn(Math.sign(event.deltaY))) event.preventDefault();
  }, { passive: false });
};

/* The sides of the patient at the left, right, top and bottom of a picture. */
export const sideLetters = () => ["l", "r", "t", "bo"].map((side) => h("b", { class: side }));

/* A canvas for slices, with sides, name and a bar of some millimetres, and the slider below it. */
export const sliceStage = (name, label) => {
  const canvas = h("canvas"), title = h("span.name"), bar = h("span.bar"), letters = sideLetters();
  const stage = h("div.stage", { tabindex: "0", role: "img", "aria-label": label }, canvas, letters, title, bar);
  const range = h("input", { type: "range", min: "0", value: "0", "aria-label": name });
  const output = h("output");
  const annotate = (text, sides, barMm, barShare) => {
    title.textContent = text;
    letters.forEach((letter, n) => { letter.textContent = sides[n]; });
    bar.style.width = `${100 * barShare}%`;
    bar.textContent = `${barMm} mm`;
  };
  return { stage, canvas, range, output, annotate, slider: h("label.slider", h("span", name), range, output) };
};
