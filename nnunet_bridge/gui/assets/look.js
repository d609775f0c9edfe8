/* Step 4: a case in three planes, with its labels, a prediction, their scores and surfaces. */
import { choosePath, field, fill, get, h, name, number, pageRow, select } from "/assets/kit.js";
import { showSurfaces } from "/assets/surfaces.js";
import { readVolume, sliceViewer } from "/assets/viewer.js";

const COLUMNS = [["dice", "Dice", 4], ["hd95_mm", "HD95 (mm)", 2], ["assd_mm", "ASSD (mm)", 3], ["nsd", "NSD (1 mm)", 4],
  ["volume_reference_mm3", "volume (mm³)", 0], ["volume_prediction_mm3", "predicted (mm³)", 0], ["volume_error_percent", "error (%)", 1]];
const IMAGES = [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr", ".mgz", ".mgh", ".zip", ".dcm"];
const LABELMAPS = [".nii.gz", ".nii", ".nrrd", ".mha"];

/* The values that a request has. */
const given = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value));

/* Surfaces of a case, as the comparison page shows them. */
const scene = ({ case: found, scale_mm: scale }) => {
  const choices = [["Case", "case"], ["Surfaces of", "source"], ["Structures", "structure"], ["Colour", "colour"], ["Seen from", "camera"]];
  const box = h("div", {},
    h("div", { class: "tools" }, choices.map(([label, id]) => h("div", { class: "choice", role: "group", "aria-label": label, "data-choice": id, hidden: id === "case" }))),
    h("div", { class: "scene" },
      h("canvas", { tabindex: "0", role: "img", "aria-label": "Surfaces of the structures. Arrow keys rotate, Shift and arrow keys pan, plus and minus zoom, 0 shows everything." }),
      ["l", "r", "t", "bo"].map((side) => h("b", { class: side }))),
    h("p", { class: "legend about" }),
    h("p", { class: "scale" }, h("span", {}, `−${scale} mm, too small`), h("i"), h("span", {}, `+${scale} mm, too large`)),
    h("p", { class: "legend by-structure" }),
    h("p", { class: "hint" }, "Drag to rotate, with Shift to pan; click and scroll to zoom; double-click to see everything. Simplified for display: do not measure."));
  return { box, start: () => showSurfaces(box, [found], [found.meshes[found.meshes.length - 1].name], { onCase: () => null, showCase: () => null }) };
};

export default {
  title: "Look",
  mount(root, values) {
    const viewer = sliceViewer();
    const problem = h("p", { class: "error", role: "alert", hidden: true });
    const note = h("p", { class: "soft", role: "status" });
    const say = (text) => { problem.textContent = text || ""; problem.hidden = !text; };
    const scores = h("div", { class: "scroll" });
    const surfaces = h("div");
    const source = h("span"), caseBox = h("span"), runBox = h("span"), channelBox = h("span"), pages = h("span", { class: "row" });
    const find = h("input", { type: "search" });
    const kept = {}; // what was read last of each part
    let asked = {}, listed = { cases: [], total: 0 }, shown = {}, turn = 0, endSurfaces = () => null;

    /* --- What is shown: an image, labels and a prediction, each loaded when it is chosen --- */
    const load = async (part, path, query, mine) => {
      if (!path || mine !== turn) return null;
      note.textContent = `Reading the ${part} …`;
      const key = JSON.stringify([path, query]);
      try { if (!kept[part] || kept[part].key !== key) kept[part] = { key, volume: await readVolume(path, query) }; }
      catch (error) { if (mine === turn) say(error.message); return null; }
      if (mine === turn) viewer.show(part, kept[part].volume);
      return kept[part].volume;
    };
    const clear = () => {
      turn += 1;
      endSurfaces();
      endSurfaces = () => null;
      surfaces.replaceChildren();
      scores.replaceChildren();
      say("");
    };
    const showScores = async (compute = false) => {
      const mine = turn;
      const { reference, prediction, case: found } = shown;
      scores.replaceChildren();
      if (!prediction) return;
      if (compute) scores.append(h("p", { class: "soft" }, "Measuring …"));
      try {
        const query = given({ prediction, case: found, dataset: asked.dataset, reference, compute: compute ? 1 : "" });
        const { rows, source: table } = await get("/api/look/scores", query);
        if (mine !== turn) return;
        const columns = COLUMNS.filter(([key]) => rows.some((row) => typeof row[key] === "number"));
        scores.replaceChildren(
          ...(rows.length ? [h("table", {}, h("caption", { class: "soft" }, table ? `Scores of this case, from ${name(table)}` : "Scores of this case"),
            h("thead", {}, h("tr", {}, h("th", {}, "structure"), columns.map(([, label]) => h("th", {}, label)))),
            h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.structure), columns.map(([key, , digits]) => h("td", {}, number(row[key], digits)))))))] : []),
          ...(reference && !compute ? [h("button", { type: "button", onclick: () => showScores(true) }, rows.length ? "Measure surface distances" : "Measure against the labels")] : []));
      } catch (error) { if (mine === turn) scores.replaceChildren(h("p", { class: "error" }, error.message)); }
    };
    const showSurface = async () => {
      const mine = turn;
      const { reference, prediction, run, case: found } = shown;
      surfaces.replaceChildren(h("p", { class: "soft" }, "Making surfaces …"));
      try {
        const query = given({ case: found, name: run, dataset: asked.dataset, reference, prediction });
        const made = scene(await get("/api/look/surfaces", query));
        if (mine !== turn) return;
        surfaces.replaceChildren(made.box);
        endSurfaces = made.start();
      } catch (error) { if (mine === turn) surfaces.replaceChildren(h("p", { class: "error" }, error.message)); }
    };
    const display = async (found) => {
      clear();
      const mine = turn;
      shown = found;
      const scan = found.inputs && { inputs: JSON.stringify(found.inputs), case: found.inCase || "", series: found.series || "", kind: found.kind || "" };
      if (!scan || !kept.image || kept.image.key !== JSON.stringify(["/api/look/image", scan])) viewer.show("image", null);
      const image = await load("image", scan && "/api/look/image", scan, mine);
      const labelsOf = (path, under) => path && given({ path, onto: under && JSON.stringify(under.source), dataset: asked.dataset });
      const labels = await load("labels", found.reference && "/api/look/labels", labelsOf(found.reference, image), mine);
      await load("prediction", found.prediction && "/api/look/labels", labelsOf(found.prediction, image || labels), mine);
      if (mine !== turn) return;
      const hint = scan ? [] : ["Open the image of this case to see it under the labels."];
      const thin = image && image.spared > 1 ? `Every ${image.spared}th row and column is shown: the image is large.` : "";
      note.textContent = [thin, ...(image ? image.findings : hint)].filter(Boolean).join(" ");
      if (found.reference || found.prediction) surfaces.replaceChildren(h("button", { type: "button", onclick: showSurface }, "Show surfaces"));
      await showScores();
    };

    /* --- What there is --- */
    const chooseCase = (found, run, channel = 0) => {
      const runs = Object.keys(found.predictions);
      const chosen = runs.includes(run) ? run : runs[0];
      const change = () => chooseCase(found, chosen, channel);
      fill(caseBox, [listed, found.case], () => field("Case", select(listed.cases.map((each) => each.case), found.case, (id) => chooseCase(listed.cases.find((each) => each.case === id), chosen))));
      fill(runBox, [runs, chosen, found.case], () => (runs.length ? field("Prediction", select([...new Set(["", ...runs])].map((each) => [each, each || "none"]), chosen, (each) => chooseCase({ ...found, predictions: { "": undefined, ...found.predictions } }, each, channel))) : null));
      fill(channelBox, [found.images, channel], () => (found.images.length > 1 ? field("Channel", select(found.images.map((file, n) => [String(n), name(file)]), String(channel), (n) => { channel = Number(n); change(); })) : null));
      const inputs = found.images.length ? [found.images[channel]] : listed.inputs;
      display({ case: found.case, inputs, inCase: found.images.length ? "" : found.case, series: listed.series, kind: listed.image_type,
        reference: found.reference, prediction: found.predictions[chosen], run: chosen });
      return null;
    };
    const list = async (start = 0, wanted = "", run = "") => {
      const mine = (turn += 1);
      try {
        const found = await get("/api/look/cases", { ...asked, start, find: wanted || find.value });
        if (mine !== turn) return;
        listed = found;
        pages.replaceChildren(pageRow(start, listed.cases.length, listed.total, list));
        const first = listed.cases.find((each) => each.case === wanted) || listed.cases[0];
        if (first) { chooseCase(first, run); return; }
        [caseBox, runBox, channelBox].forEach((each) => fill(each, "", () => null));
        clear();
        viewer.show("image", null);
        note.textContent = "No case.";
      } catch (error) { say(error.message); }
    };
    const from = (word) => {
      const [part, ...rest] = word.split(" ");
      asked = part === "folder" ? { folder: rest.join(" ") } : { part, dataset: rest.join(" ") };
      find.value = "";
      list();
    };
    const openFile = async (title, endings) => {
      const path = await choosePath(title, { endings });
      if (path && endings === LABELMAPS) display({ case: name(path), ...shown, prediction: path, run: name(path) });
      else if (path) display({ case: name(path), ...(shown.inputs ? {} : shown), inCase: "", inputs: [path], series: "", kind: "" });
    };
    let waiting = 0;
    find.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => list(), 300); });
    root.append(h("section", {}, h("h2", {}, "Look"),
      h("div", { class: "form" }, source, field("Find a case", find), caseBox, runBox, channelBox),
      h("div", { class: "row" }, pages,
        h("button", { type: "button", onclick: async () => { const path = await choosePath("A folder of predictions"); if (path) from(`folder ${path}`); } }, "Folder of predictions…"),
        h("button", { type: "button", onclick: () => openFile("An image", IMAGES) }, "Open an image…"),
        h("button", { type: "button", onclick: () => openFile("A folder of DICOM files", null) }, "Open a DICOM folder…"),
        h("button", { type: "button", onclick: () => openFile("A labelmap", LABELMAPS) }, "Open a labelmap…")),
      problem, note, viewer.box),
    h("section", {}, h("h2", {}, "Scores and surfaces"), scores, surfaces));

    const show = (next) => {
      if (next.folder) asked = { folder: next.folder };
      else if (next.dataset) asked = { dataset: next.dataset, part: next.part || "Tr" };
      if (next.folder || next.dataset) list(0, next.case, next.run);
    };
    const update = (state) => {
      const ready = state.datasets.filter((each) => each.converted).map((each) => each.name);
      if (!asked.folder && !asked.dataset && ready.length) from(`Tr ${ready[0]}`);
      const words = [...ready.flatMap((each) => [[`Tr ${each}`, `${each}, training cases`], [`Ts ${each}`, `${each}, test cases`]]), ...(asked.folder ? [[`folder ${asked.folder}`, asked.folder]] : [])];
      const now = asked.folder ? `folder ${asked.folder}` : `${asked.part} ${asked.dataset}`;
      fill(source, [words, now], () => (words.length ? field("Cases of", select(words, now, from)) : h("p", { class: "soft" }, "No dataset yet: convert a study, or open an image.")));
    };
    show(values);
    return { update, show, leave: clear };
  },
};
