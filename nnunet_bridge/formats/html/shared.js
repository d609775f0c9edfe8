/* What the pages and the slice viewer of `gui` share. The pages set this file into their block without the word
   `export`; `gui` loads it as a module. */
export const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

/* Text of a case: why it is shown, and its name. */
export const titleOf = (found) => `${found.reason || "case"}: ${found.id}`;

/* A row of buttons of which one, or any number, is pressed; `colours` edge some of them. */
export const choice = (box, words, { many = false, pressed = [], colours = new Map() } = {}, changed) => {
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

/* One of a few words is a row of buttons, one of many a list. */
export const chooseOne = (box, words, pressed, changed) => {
  if (words.length < 5) { choice(box, words, { pressed: [pressed] }, (state) => changed([...state][0])); return; }
  const name = box.getAttribute("aria-label");
  const list = make("select");
  list.setAttribute("aria-label", name);
  list.append(...words.map((word) => make("option", { textContent: word, selected: word === pressed })));
  list.addEventListener("change", () => changed(list.value));
  box.replaceChildren(make("span", { textContent: name.toLowerCase() }), list);
};

/* Slices by which a key scrolls through `all` of them; 0 for another key. */
export const slicesOf = (key, all) => ({
  ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -5, PageDown: 5, Home: -all, End: all,
}[key] || 0);

/* Write the sides of the patient at the left, right, top and bottom of a picture, and a bar of some millimetres. */
export const annotate = (part, letters, barMm, barShare) => {
  [".l", ".r", ".t", ".bo"].forEach((side, n) => { part(side).textContent = letters[n]; });
  part(".bar").style.width = `${100 * barShare}%`;
  part(".bar").textContent = `${barMm} mm`;
};
