/* Step 1: choose a study and correct its case table. */
import { picture } from "/assets/cases.js";
import {
  chooseFolder, commandBox, counted, field, get, name, pager, post, render, select, server, soft, trouble,
} from "/assets/kit.js";
import { h, put } from "/assets/shared.js";

const NEW = "\u0000new";
const DRAWN = ["mask", "labelmap", "segmentation", "surface"];

/* The case table: unknown names, and the cases in pages. `load` reads the study, `saved` gets it after a change. */
const caseTable = ({ load, saved }) => {
  const top = h("div"), list = h("ul.cases"), bar = h("div.row.savebar", { hidden: true }), problem = trouble();
  let overview = {}, changes = {}, page = { cases: [] }, drawnAt = 0;
  const added = new Set(); // names of structures that no file has yet
  const places = () => ({ study: overview.study, recipe: overview.recipe });
  const change = (lines, column) => (value) => {
    for (const line of lines) changes[line] = { ...changes[line], [column]: value };
    draw();
  };
  const save = async (names = []) => {
    const asked = { ...places(), sha256: overview.sha256, changes, names };
    const answer = await problem.attempt(() => post("/api/study/save", asked));
    if (!answer) { problem.box.scrollIntoView({ block: "center" }); return; }
    changes = {};
    saved(answer);
  };

  /* A list of structures; "New name …" adds one. `more` are words before them. */
  const structures = (value, onchange, more = [["", "–"]]) => {
    const words = new Set([...overview.structures, ...added, value].filter(Boolean));
    return select([...more, ...words, [NEW, "New name …"]], value, (chosen) => {
      if (chosen !== NEW) { onchange(chosen); return; }
      const word = (prompt("Name of the new structure. It gets the next value in [labels].") || "").trim();
      if (word) added.add(word);
      document.activeElement.blur(); // so that the list is drawn again with the new name
      onchange(word || value);
    });
  };
  const sides = (value, onchange, empty = "–") => select([["", empty], ...overview.sides], value, onchange);

  const named = {}; // structure and side chosen for an unknown name
  const unknownName = ({ name: word, taken_as: guess, rows, files, hint }) => {
    const { structure, side } = { structure: guess === word ? "" : guess, side: "", ...named[word] };
    const set = (part) => (value) => { named[word] = { structure, side, [part]: value }; drawTop(); };
    const apply = () => save([[word, structure, side]]);
    return h("li",
      h("div", h("strong", word), " ", h("span.soft", hint),
        h("small.path", files.join(", "), rows > files.length && " …")),
      h("div.row",
        field("Structure", structures(structure, set("structure"), [["", "Choose …"], ["ignore", "Leave it out"]])),
        field("Side", sides(side, set("side"), "as it is")),
        h("button", { disabled: !structure, onclick: apply }, `Apply to ${counted(rows, "row")}`)));
  };
  const drawTop = () => {
    const { table, unknown, unused } = overview;
    render(top, table ? [
      soft("The case table says what each file is. Correct it here or in a spreadsheet: ", h("span.path", table)),
      unknown.length > 0 && [h("h3", counted(unknown.length, "unknown name")), h("ul.mend", unknown.map(unknownName))],
      unused.length > 0 && h("details", h("summary", `${counted(unused.length, "file")} in no line of the table`),
        h("ul.plain", unused.map(({ file, reason }) => h("li", h("span.path", file), " ", h("span.soft", reason)))))]
      : soft("The patterns of the recipe decide which files belong to a case. To decide file by file, write a case "
        + "table (above)."));
  };

  const entry = (value, act, more) => h("input", { ...more, value, onchange: ({ target }) => act(target.value) });
  const tableRow = (row) => {
    const shown = { ...row, ...changes[row.line] }, { role } = shown, put = (column) => change([row.line], column);
    const lower = (column, usual = "") => (shown[column] || usual).toLowerCase();
    const input = (column, more) => entry(shown[column], put(column), more);
    const { roles, channels, states } = overview, isDrawn = DRAWN.includes(role), isImage = role === "image";
    return h("li", { class: changes[row.line] ? "edited" : "" },
      h("div.file", h("span.path", row.file || "no file"), h("small.soft", row.note)),
      field("Role", select([...new Set([role, ...roles])], role, put("role"))),
      isImage && channels.length > 1
        && field("Channel", select(["", ...channels], shown.channel || "", put("channel"))),
      isDrawn && field("Structure", structures(shown.structure || "", put("structure"))),
      isDrawn && field("Side", sides(lower("side"), put("side"))),
      (["labelmap", "segmentation"].includes(role) || shown.value)
        && field("Value", input("value", { type: "number", min: 1 })),
      isDrawn && field("State", select(states, lower("state", "drawn"), put("state"))),
      isImage && row.series && field("Series", input("series")));
  };
  const shownCase = (word) => h("div", h("h4", word || "Without a case"),
    word && picture({ ...places(), case: word, time: drawnAt }));
  const tableCase = ({ case: word, rows }) => {
    const lines = rows.map((row) => row.line), first = { ...rows[0], ...changes[lines[0]] };
    const whole = (column) => entry(first[column] || "", change(lines, column));
    const uses = [["", "by its masks"], ...overview.splits];
    const use = select(uses, (first.split || "").toLowerCase(), change(lines, "split"));
    return h("li.case", shownCase(word),
      h("div", h("div.form", field("Patient", whole("patient")), field("Visit", whole("visit")), field("Use", use)),
        h("ul.files", rows.map(tableRow))));
  };
  const plannedCase = ({ case: word, split, image, masks, messages }) => h("li.case", shownCase(word),
    h("div", soft(`For ${split === "test" ? "testing" : "training"}. `, h("span.path", image)),
      h("ul.plain", masks.map(({ side, structure, file }) => h("li",
        h("strong", `${side} ${structure}`.trim() || "several structures"), " ", h("span.path.soft", file)))),
      messages.map((message) => h("p", message))));
  const discard = () => { changes = {}; load(); };
  const draw = () => {
    const many = Object.keys(changes).length;
    render(list, page.cases.map(page.table ? tableCase : plannedCase));
    bar.hidden = !many;
    render(bar, h("span", { role: "status" }, `${counted(many, "row")} changed, not saved.`),
      h("button.primary", { onclick: () => save() }, "Save"), h("button", { onclick: discard }, "Discard"));
  };
  const pages = pager(async (asked) => {
    const found = await problem.attempt(() => get("/api/study/cases", { ...places(), ...asked }));
    if (found && found.sha256 && found.sha256 !== overview.sha256) { load(); return null; }
    page = found || { cases: [] };
    drawnAt = Date.now();
    draw();
    return found;
  });

  const show = async (found) => {
    overview = found;
    drawTop();
    if (!found.fault || found.table) await pages.open();
    else { page = { cases: [] }; draw(); }
    if (found.fault) problem.say(found.fault);
  };
  /* Whether there are changes that loading the study would lose. */
  const isChanged = (recipe) => Object.keys(changes).length > 0 && overview.recipe === recipe;
  return { parts: [top, problem.box, pages.box, list, bar], show, isChanged, discard, say: problem.say };
};

const mount = (root) => {
  const top = h("section"), problem = trouble();
  let boxes = [], now = {}, known = "";

  const choose = (study, recipe) => problem.attempt(() => post("/api/study/choose", { study, recipe }));
  const pick = async () => {
    const folder = await chooseFolder("Choose the folder of a study", now.study);
    if (folder) choose(folder);
  };
  const box = (label, command, values) => {
    const mine = (job) => job.command === command
      && Object.entries(values).every(([key, value]) => (job.values[key] || false) === value);
    boxes.push(commandBox(label, () => ({ command, values }), { mine }));
    return boxes.at(-1).box;
  };
  const demo = () => box("Try it with synthetic patients", "demo",
    { folder: `${server.state.workspace}/synthetic`, only_study: true });

  const welcome = () => [h("h2", "Study"), h("div.ways",
    h("div", h("h3", "Your own patients"),
      h("p", "Choose the folder with scans (DICOM, NIfTI, NRRD or MetaImage) and masks. Nothing in it is changed."),
      h("button.primary", { onclick: pick }, "Choose a study folder")),
    h("div", h("h3", "No patients yet"),
      h("p", "Make ten synthetic lower limbs and go the whole way in ten minutes. Their scores are not results."),
      demo()))];
  const place = ({ study, recipe, recipes, own, table }) => [
    h("h2", name(study)), h("p.path", study),
    h("div.row", h("button", { onclick: pick }, "Choose another study"),
      recipes.length > 1 && select(recipes, recipe, (other) => choose(study, other))),
    recipe ? h("p", "Recipe: ", h("span.path", recipe)) : [
      h("p", "This study has no recipe yet. Look through it: names of files and folders say what each one is."),
      box("Look through the study", "init", { study, out: own })],
    h("details",
      h("summary", recipe ? "Look through it again, or make synthetic patients" : "Make synthetic patients instead"),
      table && box("Add new patients", "init", { study, out: recipe, update: true }),
      recipe && (recipe === own || !table) && box(table ? "Write the table anew" : "Write a case table", "init",
        { study, out: own, force: recipes.includes(own) }),
      demo()),
  ];
  const show = (found) => {
    const isReady = Boolean(found.study && found.recipe);
    boxes = [];
    put(top, found.study ? place(found) : welcome(), problem.box);
    body.hidden = !isReady;
    if (isReady) table.show(found);
    boxes.forEach((each) => each.update(server.state));
  };
  const load = async () => {
    const found = await problem.attempt(() => get("/api/study"));
    if (found) show(found);
  };
  const table = caseTable({ load, saved: (answer) => {
    known = JSON.stringify([answer.study, answer.recipe, answer.changed]);
    show(answer);
  } });
  const body = h("section", { hidden: true }, h("h2", "Cases"), table.parts,
    h("p", "Next: ", h("a", { href: "#/check" }, "check and convert"), ", or nnunet-bridge run in a terminal."));
  root.append(top, body);

  const update = (state) => {
    now = state.study;
    boxes.forEach((each) => each.update(state));
    const key = JSON.stringify([now.study, now.recipe, now.changed]);
    if (key === known) return;
    known = key;
    if (!table.isChanged(now.recipe)) { table.discard(); return; }
    table.say("The case table was changed by another program or tab. Discard your changes to load it.");
  };
  return { update };
};

export default { title: "Study", mount };
