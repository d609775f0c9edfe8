/* Three planes of one image that scroll together, with labels over it. The server sends all voxels once; the slices
   are cut here. Axes run to the left, the back and the head, so pictures show the patient's right on the left. */
import { fetched } from "/assets/kit.js";
import { h, put, sliceStage, swatches, turnable } from "/assets/shared.js";

const PLANES = [["Axial", [0, 1, 2], "RLAP"], ["Coronal", [0, 2, 1], "RLHF"], ["Sagittal", [1, 2, 0], "APHF"]];
const SIDES = ["LR", "PA", "HF"];
const BARS_MM = [200, 100, 50, 20, 10, 5, 2, 1];
const LONGEST = 640; // pixels of a canvas
const OUTLINE = 2;
const CROSS = "#ffd166";
/* A colour "#rrggbb" as a pixel of an image, whose bytes are red, green, blue and opacity. */
const pixelOf = (colour) => [5, 3, 1].reduce((pixel, n) => pixel << 8 | parseInt(colour.slice(n, n + 2), 16), 0xff);
const DIFFERS = pixelOf("#e21a8a");
const IGNORED = pixelOf("#6e6e6e");
const OPACITY = { image: 1, labels: 0.4, prediction: 1, disagreement: 0 };
const inside = (index, count) => Math.min(count - 1, Math.max(0, index));

/* Voxels with their header: a line of JSON, then the values. */
export const readVolume = async (path, values) => {
  const bytes = await (await fetched(path, { method: "POST", body: JSON.stringify(values) })).arrayBuffer();
  const start = new Uint8Array(bytes).indexOf(10) + 1;
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 0, start)));
  return { ...header, voxels: header.bits === 8 ? new Uint8Array(bytes, start) : new Uint16Array(bytes, start) };
};

export const sliceViewer = () => {
  const shown = { image: null, labels: null, prediction: null };
  const opacity = { ...OPACITY };
  let placed = false, frame = null, point = [0, 0, 0], level = 0, width = 1, waiting = 0;
  const at = h("p.soft.about", { "aria-live": "polite" }), legend = h("p.legend.on-black");

  const placeMm = ([i, j, k]) => frame.affine.slice(0, 3).map(([x, y, z, start]) => start + x * i + y * j + z * k);

  /* --- Window --- */
  const slider = (text, act) => {
    const oninput = () => { act(Number(input.value)); draw(); };
    const input = h("input", { type: "range", step: "any", "aria-label": text, oninput });
    return [input, h("label.slider", h("span", text), input)];
  };
  const [levelInput, levelBox] = slider("Level", (value) => { level = value; });
  const [widthInput, widthBox] = slider("Width", (value) => { width = value; });
  const resetWindow = () => {
    const { window: [black, white], low, step } = shown.image || { window: [0, 1], low: 0, step: 1 };
    level = (black + white) / 2;
    width = white - black;
    Object.assign(levelInput, { min: low, max: white + width });
    Object.assign(widthInput, { min: step, max: white + width - low });
    draw();
  };

  /* --- Layers --- */
  const layers = Object.entries(OPACITY).map(([name, value]) => {
    const oninput = ({ target }) => { opacity[name] = Number(target.value); draw(); };
    const input = h("input", { type: "range", min: "0", max: "1", step: "0.05", value, oninput });
    return h("label.layer", { "data-layer": name }, name, input);
  });

  /* --- Planes --- */
  const stageOf = ([plane, [across, down, through], letters]) => {
    const { stage, canvas, range, output, annotate, slider: scroll } = sliceStage(plane, `${plane} plane`);
    const box = h("div.plane", stage, scroll);
    const flips = down === 2;
    /* The slices run from the head down, from the front to the back, from right to left. */
    const placeOf = (index) => (through === 2 ? frame.shape[2] - 1 - index : index);
    const turn = (place) => {
      const before = point[through];
      point[through] = placeOf(inside(place, frame.shape[through]));
      draw();
      return point[through] !== before;
    };
    range.addEventListener("input", () => turn(Number(range.value)));
    turnable(stage, () => frame.shape[through], (step) => turn(placeOf(point[through]) + step));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    let drag = null;
    const follow = (event) => {
      if (!drag) return;
      if (drag.window) {
        level = drag.level + (event.clientY - drag.y) / 256 * drag.width;
        width = Math.max(drag.width * Math.exp((event.clientX - drag.x) / 256), 1e-6);
      } else {
        const right = event.offsetX / canvas.clientWidth, below = event.offsetY / canvas.clientHeight;
        for (const [axis, share] of [[across, right], [down, flips ? 1 - below : below]]) {
          point[axis] = inside(Math.floor(share * frame.shape[axis]), frame.shape[axis]);
        }
      }
      draw();
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      drag = { x: event.clientX, y: event.clientY, level, width, window: event.button === 2 || event.shiftKey };
      stage.focus({ preventScroll: true });
      follow(event);
    });
    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("lostpointercapture", () => { drag = null; });

    const cut = h("canvas");
    /* Where the voxels of so many rows or columns of pixels lie. */
    const placesOf = (axis, count) => {
      const size = frame.shape[axis], stride = frame.shape.slice(0, axis).reduce((a, b) => a * b, 1);
      const indices = Int32Array.from({ length: count }, (_, n) => Math.floor((n + 0.5) * size / count));
      return indices.map((index) => stride * (flips && axis === down ? size - 1 - index : index));
    };
    /* Draw a layer; `pixelAt` returns the pixel of a place, 0 for none. */
    const paintLayer = (name, columns, rows, pixelAt) => {
      Object.assign(cut, { width: columns.length, height: rows.length });
      const data = new ImageData(columns.length, rows.length), pixels = new Uint32Array(data.data.buffer);
      for (let y = 0, n = 0; y < rows.length; y++) {
        for (let x = 0; x < columns.length; x++) pixels[n++] = pixelAt(rows[y] + columns[x], x, y);
      }
      cut.getContext("2d").putImageData(data, 0, 0);
      const pen = canvas.getContext("2d");
      pen.globalAlpha = opacity[name];
      pen.drawImage(cut, 0, 0, canvas.width, canvas.height);
    };
    const paintImage = (base) => {
      const { voxels, low, step } = shown.image;
      const black = (level - width / 2 - low) / step, scale = 255 * step / width;
      paintLayer("image", placesOf(across, frame.shape[across]), placesOf(down, frame.shape[down]), (place) => {
        const value = Math.min(255, Math.max(0, (voxels[base + place] - black) * scale)) | 0;
        return 0xff000000 | value << 16 | value << 8 | value;
      });
    };
    const paintLabels = (base) => {
      const columns = placesOf(across, canvas.width), rows = placesOf(down, canvas.height).map((place) => base + place);
      const drawn = shown.labels && shown.labels.voxels, found = shown.prediction && shown.prediction.voxels;
      const named = (shown.labels || shown.prediction).labels;
      const pixels = Object.fromEntries(named.map(({ value, colour }) => [value, pixelOf(colour)]));
      const pixelOfValue = (value) => value && (pixels[value] || IGNORED);
      /* Beyond the picture there is no place. */
      const differs = (x, y, value) => (found[rows[y] + columns[x]] ?? value) !== value;
      const edge = (x, y, value) => differs(x - OUTLINE, y, value) || differs(x + OUTLINE, y, value)
        || differs(x, y - OUTLINE, value) || differs(x, y + OUTLINE, value);
      const filled = drawn ? 0 : 0x4dffffff; // faintly where no labels are
      const layer = (name, isThere, pixelAt) => {
        if (isThere && opacity[name]) paintLayer(name, columns, rows, pixelAt);
      };
      layer("labels", drawn, (place) => pixelOfValue(drawn[place]));
      layer("disagreement", drawn && found, (place) => drawn[place] !== found[place] && DIFFERS);
      layer("prediction", found, (place, x, y) => {
        const value = found[place];
        return value && pixelOfValue(value) & (edge(x, y, value) ? 0xffffffff : filled);
      });
    };
    const paint = () => {
      const { shape, spacing_mm: spacing } = frame;
      const mm = [across, down].map((axis) => shape[axis] * spacing[axis]);
      const scale = LONGEST / Math.max(...mm);
      const [wide, high] = mm.map((side) => Math.max(1, Math.round(side * scale)));
      Object.assign(canvas, { width: wide, height: high }); // empties it
      const pen = canvas.getContext("2d");
      const base = placesOf(through, shape[through])[point[through]];
      if (shown.image && opacity.image) paintImage(base);
      if (shown.labels || shown.prediction) paintLabels(base);
      const x = (point[across] + 0.5) / shape[across] * wide;
      const y = (flips ? shape[down] - 0.5 - point[down] : point[down] + 0.5) / shape[down] * high;
      pen.fillStyle = CROSS;
      pen.globalAlpha = 0.75;
      for (const [start, end] of [[0, x - 10], [x + 10, wide]]) pen.fillRect(start, y, end - start, 1);
      for (const [start, end] of [[0, y - 10], [y + 10, high]]) pen.fillRect(x, start, 1, end - start);
      pen.globalAlpha = 1;
      const bar = BARS_MM.find((length) => 2 * length <= mm[0]) || 1;
      const [first, step] = frame.numbers[through], number = first + step * point[through];
      annotate(`${plane} ${number}`, letters, bar, bar / mm[0]);
      stage.ariaLabel = `${plane} plane, slice ${number}. Arrow keys scroll.`;
      const value = placeOf(point[through]);
      Object.assign(range, { max: shape[through] - 1, value, ariaValueText: `slice ${number}` });
      const middle = shape.map((size, axis) => (axis === through ? point[axis] : (size - 1) / 2));
      output.textContent = `${number} (${placeMm(middle)[through].toFixed(1)} mm)`;
    };
    return { box, paint };
  };
  const stages = PLANES.map(stageOf);

  const paintAll = () => {
    waiting = 0;
    if (!frame) return;
    for (const stage of stages) stage.paint();
    levelInput.value = level;
    widthInput.value = width;
    const sides = placeMm(point).map((mm, axis) => `${SIDES[axis][Number(mm < 0)]} ${Math.abs(mm).toFixed(1)}`);
    const place = point[0] + frame.shape[0] * (point[1] + frame.shape[1] * point[2]);
    const valueOf = ({ low, step, voxels }) => Number((low + step * voxels[place]).toPrecision(5));
    const named = (part, { labels, voxels }) => {
      const found = labels.find((label) => label.value === voxels[place]);
      return `${part}: ${found ? found.name : "none"}`;
    };
    const { image, ...others } = shown;
    at.textContent = [`${sides.join(", ")} mm`, image && `value ${valueOf(image)}`,
      ...Object.entries(others).map(([part, volume]) => volume && named(part, volume))].filter(Boolean).join(" · ");
  };
  function draw() { waiting = waiting || requestAnimationFrame(paintAll); }

  /* Show an image, a labelmap or a prediction; a new image takes the others away and resets place and window. */
  const show = (part, volume) => {
    const again = part === "image" && volume !== null && volume === shown.image;
    if (part === "image") Object.assign(shown, { labels: null, prediction: null });
    shown[part] = volume;
    frame = shown.image || shown.labels || shown.prediction;
    if (part === "image" && !again) { placed = false; resetWindow(); }
    if (frame && !placed) point = [...volume.start];
    placed = placed || part !== "image";
    const there = { ...shown, disagreement: shown.labels && shown.prediction };
    for (const layer of layers) layer.hidden = !there[layer.dataset.layer];
    const named = shown.labels || shown.prediction;
    put(legend, swatches(named ? named.labels.map(({ name, colour }) => [name, colour]) : []));
    box.hidden = !frame;
    windowRow.hidden = !shown.image;
    draw();
  };
  const windowRow = h("div.row", { role: "group", "aria-label": "Window" }, levelBox, widthBox,
    h("button", { onclick: resetWindow }, "Reset window"));
  const box = h("div.viewer", { hidden: true },
    h("div.row", { role: "group", "aria-label": "Opacity of the layers" }, layers),
    h("div.planes", stages.map((stage) => stage.box)), at, legend, windowRow,
    h("p.hint", "Click or drag to move the crosshair in all planes. Scroll, or press the arrow keys, Page Up, Page "
      + "Down, Home or End to turn slices. Drag with the right button, or with Shift, to change the window. "
      + "Labels are filled, the prediction is outlined."));
  return { box, show };
};
