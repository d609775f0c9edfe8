/* Three planes of one image that scroll together, with labels over it. The server sends all voxels once; the slices
   are cut here. Axes run to the left, the back and the head, so pictures show the patient's right on the left. */
import { h } from "/assets/kit.js";
import { annotate, slicesOf } from "/assets/shared.js";

const PLANES = [
  { name: "Axial", axes: [0, 1, 2], letters: "RLAP" },
  { name: "Coronal", axes: [0, 2, 1], letters: "RLHF" },
  { name: "Sagittal", axes: [1, 2, 0], letters: "APHF" },
];
const SIDES = ["LR", "PA", "HF"];
const BARS_MM = [200, 100, 50, 20, 10, 5, 2, 1];
const LONGEST = 640; // pixels of a canvas
const OUTLINE = 2;
const DIFFERS = [226, 26, 138];
const IGNORED = [110, 110, 110];
const CROSS = "#ffd166";
const LAYERS = [["image", 1], ["labels", 0.4], ["prediction", 1], ["disagreement", 0]];

/* Voxels with their header: a line of JSON, then the values. */
export const readVolume = async (path, values) => {
  const response = await fetch(`${path}?${new URLSearchParams(values)}`);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || `The server answered ${response.status}.`);
  const bytes = await response.arrayBuffer();
  const start = new Uint8Array(bytes).indexOf(10) + 1;
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 0, start)));
  return { ...header, voxels: header.bits === 8 ? new Uint8Array(bytes, start) : new Uint16Array(bytes, start) };
};

const paintsOf = (labels) => Object.fromEntries(labels.map(({ value, colour }) => [value, [1, 3, 5].map((n) => parseInt(colour.slice(n, n + 2), 16))]));

/* The place where the slices hold most labelled voxels. */
const fullest = ({ shape, voxels }) => {
  const counts = shape.map((size) => new Uint32Array(size));
  for (let k = 0, place = 0; k < shape[2]; k++) for (let j = 0; j < shape[1]; j++) for (let i = 0; i < shape[0]; i++) {
    if (voxels[place++]) { counts[0][i]++; counts[1][j]++; counts[2][k]++; }
  }
  const best = counts.map((along) => along.indexOf(along.reduce((a, b) => Math.max(a, b), 0)));
  return best.map((index, axis) => (counts[axis][index] ? index : shape[axis] >> 1));
};

export const sliceViewer = () => {
  const shown = { image: null, labels: null, prediction: null };
  const opacity = Object.fromEntries(LAYERS);
  let placed = false, frame = null, point = [0, 0, 0], limits = [0, 1], waiting = 0;
  const at = h("p", { class: "soft about", "aria-live": "polite" });
  const legend = h("p", { class: "legend on-black" });

  const placeMm = (index) => frame.affine.slice(0, 3).map((row) => row[3] + row[0] * index[0] + row[1] * index[1] + row[2] * index[2]);

  /* --- Window --- */
  const slider = (text, act) => {
    const input = h("input", { type: "range", step: "any", "aria-label": text });
    input.addEventListener("input", () => { act(Number(input.value)); draw(); });
    return [input, h("label", { class: "slider" }, h("span", {}, text), input)];
  };
  const setWindow = (level, width) => { limits = [level - width / 2, level + width / 2]; };
  const level = () => (limits[0] + limits[1]) / 2;
  const width = () => limits[1] - limits[0];
  const [levelInput, levelBox] = slider("Level", (value) => setWindow(value, width()));
  const [widthInput, widthBox] = slider("Width", (value) => setWindow(level(), Math.max(value, 1e-6)));
  const resetWindow = () => {
    const { window: own, low, step } = shown.image || { window: [0, 1], low: 0, step: 1 };
    limits = [...own];
    Object.assign(levelInput, { min: low, max: own[1] + width() });
    Object.assign(widthInput, { min: step, max: own[1] + width() - low });
    draw();
  };

  /* --- Layers --- */
  const layerBoxes = Object.fromEntries(LAYERS.map(([name, share]) => {
    const input = h("input", { type: "range", min: "0", max: "1", step: "0.05", value: String(share), "aria-label": `Opacity of ${name}` });
    const button = h("button", { type: "button", "aria-pressed": String(share > 0) }, name);
    const set = (value) => { opacity[name] = value; button.setAttribute("aria-pressed", String(value > 0)); draw(); };
    input.addEventListener("input", () => set(Number(input.value)));
    button.addEventListener("click", () => { if (!Number(input.value)) input.value = "0.8"; set(opacity[name] ? 0 : Number(input.value)); });
    return [name, h("span", { class: "layer" }, button, input)];
  }));

  /* --- Planes --- */
  const stageOf = (plane) => {
    const [across, down, through] = plane.axes;
    const canvas = h("canvas");
    const stage = h("div", { class: "stage", tabindex: "0", role: "img" }, canvas,
      ...["l", "r", "t", "bo"].map((side) => h("b", { class: side })), h("span", { class: "name" }), h("span", { class: "bar" }));
    const range = h("input", { type: "range", min: "0", "aria-label": `${plane.name} slice` });
    const output = h("output");
    const box = h("div", { class: "plane" }, stage, h("label", { class: "slider" }, h("span", {}, plane.name), range, output));
    const flips = down === 2;
    /* The slices run from the head down, from the front to the back, from right to left. */
    const placeOf = (index) => (through === 2 ? frame.shape[2] - 1 - index : index);
    const turn = (step) => {
      const next = placeOf(Math.min(frame.shape[through] - 1, Math.max(0, placeOf(point[through]) + step)));
      if (next === point[through]) return false;
      point[through] = next;
      draw();
      return true;
    };
    range.addEventListener("input", () => { if (frame) { point[through] = placeOf(Number(range.value)); draw(); } });
    stage.addEventListener("keydown", (event) => {
      const step = frame && slicesOf(event.key, frame.shape[through]);
      if (step) { turn(step); event.preventDefault(); }
    });
    stage.addEventListener("wheel", (event) => { if (frame && turn(Math.sign(event.deltaY))) event.preventDefault(); }, { passive: false });
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    let drag = null;
    const follow = (event) => {
      if (!frame || !drag) return;
      if (drag.window) {
        const [centre, size] = drag.window;
        setWindow(centre + (event.clientY - drag.y) / 256 * size, Math.max(size * Math.exp((event.clientX - drag.x) / 256), 1e-6));
      } else {
        const { left, top, width: wide, height: high } = canvas.getBoundingClientRect();
        const shares = [(event.clientX - left) / wide, (event.clientY - top) / high];
        if (flips) shares[1] = 1 - shares[1];
        [across, down].forEach((axis, n) => { point[axis] = Math.min(frame.shape[axis] - 1, Math.max(0, Math.floor(shares[n] * frame.shape[axis]))); });
      }
      draw();
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      drag = { x: event.clientX, y: event.clientY, window: event.button === 2 || event.shiftKey ? [level(), width()] : null };
      stage.focus({ preventScroll: true });
      follow(event);
    });
    canvas.addEventListener("pointermove", follow);
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { drag = null; });

    const small = h("canvas");
    const grey = (base, steps, sizes) => {
      const { voxels, low, step } = shown.image;
      const first = (limits[0] - low) / step, scale = 255 * step / width();
      Object.assign(small, { width: sizes[0], height: sizes[1] });
      const data = small.getContext("2d").createImageData(...sizes);
      const pixels = new Uint32Array(data.data.buffer);
      for (let y = 0, n = 0; y < sizes[1]; y++) {
        let place = base + steps[1] * (flips ? sizes[1] - 1 - y : y);
        for (let x = 0; x < sizes[0]; x++, place += steps[0]) {
          const value = Math.min(255, Math.max(0, (voxels[place] - first) * scale)) | 0;
          pixels[n++] = 0xff000000 | value << 16 | value << 8 | value;
        }
      }
      small.getContext("2d").putImageData(data, 0, 0);
      return small;
    };
    const overlay = (base, steps, sizes, wide, high) => {
      const columns = Int32Array.from({ length: wide }, (_, x) => steps[0] * Math.floor((x + 0.5) * sizes[0] / wide));
      const rows = Int32Array.from({ length: high }, (_, y) => {
        const row = Math.floor((y + 0.5) * sizes[1] / high);
        return base + steps[1] * (flips ? sizes[1] - 1 - row : row);
      });
      const drawn = shown.labels && shown.labels.voxels, found = shown.prediction && shown.prediction.voxels;
      const paints = paintsOf((shown.labels || shown.prediction).labels);
      const data = new ImageData(wide, high);
      const pixels = data.data;
      const put = (n, [red, green, blue], share) => {
        const under = pixels[n + 3] / 255 * (1 - share), all = share + under;
        [red, green, blue].forEach((value, c) => { pixels[n + c] = (value * share + pixels[n + c] * under) / all; });
        pixels[n + 3] = 255 * all;
      };
      /* Beyond the picture a place is undefined, and so is its sum. */
      const differs = (place, value) => !Number.isNaN(place) && found[place] !== value;
      const edge = (x, y, value) => differs(rows[y] + columns[x - OUTLINE], value) || differs(rows[y] + columns[x + OUTLINE], value)
        || differs(rows[y - OUTLINE] + columns[x], value) || differs(rows[y + OUTLINE] + columns[x], value);
      for (let y = 0, n = 0; y < high; y++) for (let x = 0; x < wide; x++, n += 4) {
        const place = rows[y] + columns[x];
        const one = drawn ? drawn[place] : 0, other = found ? found[place] : 0;
        if (!one && !other) continue;
        if (one && opacity.labels) put(n, paints[one] || IGNORED, opacity.labels);
        if (drawn && found && one !== other && opacity.disagreement) put(n, DIFFERS, opacity.disagreement);
        if (!other || !opacity.prediction) continue;
        if (edge(x, y, other)) put(n, paints[other] || IGNORED, opacity.prediction);
        else if (!drawn) put(n, paints[other] || IGNORED, 0.3 * opacity.prediction);
      }
      return data;
    };
    const tint = h("canvas");
    const paint = () => {
      const { shape, spacing_mm: spacing } = frame;
      const strides = [1, shape[0], shape[0] * shape[1]];
      const mm = [across, down].map((axis) => shape[axis] * spacing[axis]);
      const scale = LONGEST / Math.max(...mm);
      const [wide, high] = mm.map((side) => Math.max(1, Math.round(side * scale)));
      if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
      const cut = [point[through] * strides[through], [strides[across], strides[down]], [shape[across], shape[down]]];
      const pen = canvas.getContext("2d");
      pen.clearRect(0, 0, wide, high); // the stage is black
      pen.globalAlpha = opacity.image;
      if (shown.image && opacity.image) pen.drawImage(grey(...cut), 0, 0, wide, high);
      pen.globalAlpha = 1;
      if (shown.labels || shown.prediction) {
        Object.assign(tint, { width: wide, height: high });
        tint.getContext("2d").putImageData(overlay(...cut, wide, high), 0, 0);
        pen.drawImage(tint, 0, 0);
      }
      const x = (point[across] + 0.5) / shape[across] * wide;
      const y = (flips ? shape[down] - 0.5 - point[down] : point[down] + 0.5) / shape[down] * high;
      pen.fillStyle = CROSS;
      pen.globalAlpha = 0.75;
      for (const [start, end] of [[0, x - 10], [x + 10, wide]]) pen.fillRect(start, y, end - start, 1);
      for (const [start, end] of [[0, y - 10], [y + 10, high]]) pen.fillRect(x, start, 1, end - start);
      pen.globalAlpha = 1;
      const bar = BARS_MM.find((length) => 3 * length <= mm[0]) || 1;
      annotate((selector) => stage.querySelector(selector), plane.letters, bar, bar / mm[0]);
      const [first, step] = frame.numbers[through];
      const number = first + step * point[through];
      stage.querySelector(".name").textContent = `${plane.name} ${number}`;
      stage.setAttribute("aria-label", `${plane.name} plane, slice ${number}. Arrow keys scroll.`);
      Object.assign(range, { max: shape[through] - 1, value: placeOf(point[through]), ariaValueText: `slice ${number}` });
      output.textContent = `${number} (${placeMm(shape.map((size, axis) => (axis === through ? point[axis] : (size - 1) / 2)))[through].toFixed(1)} mm)`;
    };
    return { box, paint };
  };
  const stages = PLANES.map(stageOf);

  const paintAll = () => {
    waiting = 0;
    if (!frame) return;
    for (const stage of stages) stage.paint();
    levelInput.value = level();
    widthInput.value = width();
    const sides = placeMm(point).map((mm, axis) => `${SIDES[axis][Number(mm < 0)]} ${Math.abs(mm).toFixed(1)}`);
    const place = point[0] + frame.shape[0] * (point[1] + frame.shape[1] * point[2]);
    const named = (volume) => volume && (volume.labels.find((label) => label.value === volume.voxels[place]) || { name: "none" }).name;
    const value = shown.image && Number((shown.image.low + shown.image.step * shown.image.voxels[place]).toPrecision(5));
    at.textContent = [
      `${sides.join(", ")} mm`,
      shown.image && `value ${value}`, shown.labels && `labels: ${named(shown.labels)}`, shown.prediction && `prediction: ${named(shown.prediction)}`,
    ].filter(Boolean).join(" · ");
  };
  function draw() { waiting = waiting || requestAnimationFrame(paintAll); }

  /* Show an image, a labelmap or a prediction; a new image takes the others away and resets place and window. */
  const show = (part, volume) => {
    const again = part === "image" && volume !== null && volume === shown.image;
    if (part === "image") Object.assign(shown, { labels: null, prediction: null });
    shown[part] = volume;
    frame = shown.image || shown.labels || shown.prediction;
    if (part === "image" && !again) { placed = false; resetWindow(); }
    if (frame && !placed) point = part === "image" ? frame.shape.map((size) => size >> 1) : fullest(volume);
    placed = placed || part !== "image";
    for (const [name] of LAYERS) layerBoxes[name].hidden = name === "disagreement" ? !(shown.labels && shown.prediction) : !shown[name];
    const named = shown.labels || shown.prediction;
    legend.replaceChildren(...(named ? named.labels : []).map(({ name, colour }) => {
      const swatch = h("i", { class: "swatch" });
      swatch.style.background = colour;
      return h("span", {}, swatch, name);
    }));
    box.hidden = !frame;
    windowRow.hidden = !shown.image;
    draw();
  };
  const windowRow = h("div", { class: "row", role: "group", "aria-label": "Window" }, levelBox, widthBox, h("button", { type: "button", onclick: resetWindow }, "Reset window"));
  const box = h("div", { class: "viewer", hidden: true },
    h("div", { class: "row", role: "group", "aria-label": "Layers" }, Object.values(layerBoxes)),
    h("div", { class: "planes" }, stages.map((stage) => stage.box)), at, legend,
    windowRow,
    h("p", { class: "hint" }, "Click or drag to move the crosshair in all planes. Scroll, or press the arrow keys, Page Up, Page Down, Home or End to turn slices. Drag with the right button, or with Shift, to change the window. The labels are filled, the prediction is outlined."));
  return { box, show };
};
