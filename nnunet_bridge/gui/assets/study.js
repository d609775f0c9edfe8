/* Step 1: choose a study, correct its case table, or run everything at once. */
import { choosePath, commandBox, field, get, h, name, post, select, server } from "/assets/kit.js";
import { picture, pager } from "/assets/cases.js";

const NEW = "\u0000new";
let left = {}; // changes that were not saved when the step was left
const DRAWN = ["mask", "labelmap", "segmentation", "surface"];

/* A list of structures; "New name …" adds one. */
const structureList = (overview, value, onchange, more = []) => {
  const list = select([...more, ...new Set([...overview.structures, value].filter(Boolean)), [NEW, "New name …"]], value, (chosen) => {
    if (chosen === NEW) {
      const added = (prompt("Name of the new structure. It gets the next value in [labels] of the recipe.") || "").trim();
      if (added && ![...list.options].some((option) => option.value === added)) list.lastChild.before(h("option", { value: added }, added));
      list.value = added || value;
    }
    onchange(list.value);
  });
  return list;
};
const sides = (overview, value, onchange, empty) => select([["", empty], ...overview.sides], value, onchange);

const mount = (root) => {
  const top = h("section");
  const body = h("section", { hidden: true });
  const run = h("section", { hidden: true });
  root.append(top, body, run);
  let boxes = [];
  let runBoxes = [];
  let now = null;
  let known = "";
  let changes = {};

  const pick = async () => {
    const folder = await choosePath("Choose the folder of a study", { start: now.study });
    if (folder) await post("/api/study/choose", { study: folder });
  };
  const box = (label, command, values) => {
    const made = commandBox(label, () => ({ command, values }), { mine: (job) => job.command === command && Object.keys(values).every((key) => (job.values[key] || false) === values[key]) });
    boxes.push(made);
    return made.box;
  };
  const demo = () => box("Try it with synthetic patients", "demo", { folder: `${server.state.workspace}/synthetic`, only_study: true });

  const welcome = () => [h("h2", {}, "Study"), h("div", { class: "ways" },
    h("div", {}, h("h3", {}, "Your own patients"), h("p", {}, "Choose the folder with the scans (DICOM, NIfTI, NRRD or MetaImage) and the masks. Nothing in it is changed."),
      h("button", { type: "button", class: "primary", onclick: pick }, "Choose a study folder")),
    h("div", {}, h("h3", {}, "No patients yet"), h("p", {}, "Make ten synthetic lower limbs and go the whole way in about ten minutes. Their scores are not results."), demo()))];

  const place = (overview) => [
    h("h2", {}, name(overview.study)),
    h("p", { class: "path" }, overview.study),
    h("div", { class: "row" }, h("button", { type: "button", onclick: pick }, "Choose another study"),
      overview.recipes.length > 1 ? select(overview.recipes, overview.recipe, (recipe) => post("/api/study/choose", { study: overview.study, recipe })) : null),
    overview.recipe ? h("p", {}, "Recipe: ", h("span", { class: "path" }, overview.recipe)) : h("p", {}, "This study has no recipe yet. Look through it: the names of its files and folders say what each one is."),
    overview.recipe ? null : box("Look through the study", "init", { study: overview.study, out: overview.own }),
    h("details", {}, h("summary", {}, overview.recipe ? "Look through the study again, or make synthetic patients" : "Make synthetic patients instead"),
      overview.table ? box("Add new patients", "init", { study: overview.study, out: overview.recipe, update: true }) : null,
      overview.recipe && (overview.recipe === overview.own || !overview.table) ? box(overview.table ? "Write the table anew" : "Write a case table", "init", { study: overview.study, out: overview.own, force: overview.recipes.includes(overview.own) }) : null, demo())];

  /* The case table. */
  const problem = h("p", { class: "error", role: "alert" });
  const say = (text) => { problem.textContent = text || ""; };
  const count = h("span", { role: "status" });
  const bar = h("div", { class: "row savebar", hidden: true }, count,
    h("button", { type: "button", class: "primary", onclick: () => save({ changes }) }, "Save"),
    h("button", { type: "button", onclick: () => { changes = {}; load(); } }, "Discard"));
  const noteChanges = () => {
    const many = Object.keys(changes).length;
    bar.hidden = !many;
    count.textContent = `${many} ${many === 1 ? "row is" : "rows are"} changed, not saved.`;
  };
  const change = (lines, column, value) => {
    for (const line of lines) changes[line] = { ...changes[line], [column]: value };
    noteChanges();
  };
  let overview = null;
  const save = async (content) => {
    try {
      const answer = await post("/api/study/save", { ...places(), sha256: overview.sha256, ...content });
      if (content.changes || content.names) changes = {};
      known = JSON.stringify([answer.study, answer.recipe, answer.changed]);
      show(answer);
    } catch (error) { say(error.message); problem.scrollIntoView({ block: "center" }); }
  };

  const unknownNames = () => overview.unknown.length ? [h("h3", {}, `${overview.unknown.length} unknown ${overview.unknown.length === 1 ? "name" : "names"}`),
    h("ul", { class: "mend" }, overview.unknown.map((one) => {
      let structure = one.taken_as === one.name ? "" : one.taken_as;
      let side = "";
      const apply = h("button", { type: "button", disabled: !structure, onclick: () => save({ changes, names: [[one.name, structure, side]] }) }, `Apply to ${one.rows} ${one.rows === 1 ? "row" : "rows"}`);
      const list = structureList(overview, structure, (value) => { structure = value; apply.disabled = !value; }, [["", "Choose …"], ["ignore", "Leave it out"]]);
      return h("li", {}, h("div", {}, h("strong", {}, one.name), " ", h("span", { class: "soft" }, one.hint), h("small", { class: "path" }, one.files.join(", "), one.rows > one.files.length ? " …" : "")),
        h("div", { class: "row" }, field("Structure", list), field("Side", sides(overview, "", (value) => { side = value; }, "as it is")), apply));
    }))] : [];

  const unplaced = () => overview.unused.length ? [h("details", { open: overview.unused.length < 5 }, h("summary", {}, h("strong", {}, `${overview.unused.length} ${overview.unused.length === 1 ? "file" : "files"} without a case`)),
    h("datalist", { id: "cases" }, overview.cases.map((each) => h("option", { value: each }))),
    h("ul", { class: "mend" }, overview.unused.map(({ file, reason }) => {
      const row = { file, structure: "", side: "", role: /\.seg\.nrrd$/i.test(file) ? "segmentation" : /\.(stl|ply|obj|vtk)$/i.test(file) ? "surface" : "mask" };
      const which = h("input", { list: "cases" });
      const add = (role) => save({ added: [{ ...row, case: which.value, role }] });
      return h("li", {}, h("div", {}, h("strong", { class: "path" }, file), " ", h("span", { class: "soft" }, reason)),
        h("div", { class: "row" }, field("Case", which), field("Structure", structureList(overview, "", (value) => { row.structure = value; }, [["", "–"]])), field("Side", sides(overview, "", (value) => { row.side = value; }, "–")),
          h("button", { type: "button", onclick: () => add(row.role) }, "Add"), h("button", { type: "button", class: "quiet", onclick: () => add("ignore") }, "Leave it out")));
    })))] : [];

  const tableRow = (row) => {
    const shown = { ...row, ...changes[row.line] };
    const item = h("li", {});
    const put = (column) => (value) => { change([row.line], column, value); shown[column] = value; arrange(); };
    const input = (column, kind) => h("input", { ...kind, value: shown[column] || "", onchange: (event) => put(column)(event.target.value) });
    const parts = {
      role: field("Role", select([...new Set([shown.role, ...overview.roles])], shown.role, put("role"))),
      channel: field("Channel", select(["", ...overview.channels], shown.channel || "", put("channel"))),
      structure: field("Structure", structureList(overview, shown.structure || "", put("structure"), [["", "–"]])),
      side: field("Side", sides(overview, (shown.side || "").toLowerCase(), put("side"), "–")),
      value: field("Value", input("value", { type: "number", min: 1 })),
      state: field("State", select(overview.states, (shown.state || "drawn").toLowerCase(), put("state"))),
      series: field("Series", input("series")),
    };
    const arrange = () => {
      const drawn = DRAWN.includes(shown.role);
      item.classList.toggle("edited", Boolean(changes[row.line]));
      for (const part of ["structure", "side", "state"]) parts[part].hidden = !drawn;
      parts.value.hidden = !(shown.role === "labelmap" || shown.role === "segmentation" || shown.value);
      parts.channel.hidden = shown.role !== "image" || overview.channels.length < 2;
      parts.series.hidden = shown.role !== "image" || !row.series;
    };
    arrange();
    item.append(h("div", { class: "file" }, h("span", { class: "path" }, row.file || "no file"), row.note ? h("small", { class: "soft" }, row.note) : null), ...Object.values(parts));
    return item;
  };
  const tableCase = (one) => {
    const lines = one.rows.map((row) => row.line);
    const first = { ...one.rows[0], ...changes[one.rows[0].line] };
    const whole = (column) => h("input", { value: first[column] || "", onchange: (event) => change(lines, column, event.target.value) });
    return h("li", { class: "case" }, h("div", {}, h("h4", {}, one.case || "Without a case"), one.case ? picture({ ...places(), case: one.case }) : null),
      h("div", {}, h("div", { class: "form" }, field("Patient", whole("patient")), field("Visit", whole("visit")),
        field("Use", select([["", "by its masks"], ...overview.splits], (first.split || "").toLowerCase(), (value) => change(lines, "split", value)))),
      h("ul", { class: "files" }, one.rows.map(tableRow))));
  };
  const places = () => ({ study: overview.study, recipe: overview.recipe });
  const plannedCase = (one) => h("li", { class: "case" }, h("div", {}, h("h4", {}, one.case), picture({ ...places(), case: one.case })),
    h("div", {}, h("p", { class: "soft" }, `For ${one.split === "test" ? "testing" : "training"}. `, h("span", { class: "path" }, one.image)),
      h("ul", { class: "plain" }, one.masks.map((mask) => h("li", {}, h("strong", {}, [mask.side, mask.structure].filter(Boolean).join(" ") || "several structures"), " ", h("span", { class: "path soft" }, mask.file)))),
      one.messages.map((message) => h("p", {}, message))));

  const list = h("ul", { class: "cases" });
  const pages = pager(async (asked) => {
    try {
      const found = await get("/api/study/cases", { ...places(), ...asked });
      if (found.sha256 && found.sha256 !== overview.sha256) await load();
      list.replaceChildren(...found.cases.map(found.table ? tableCase : plannedCase));
      return found;
    } catch (error) { list.replaceChildren(); say(error.message); return null; }
  });

  const show = (found) => {
    overview = found;
    if (left.sha256 && left.sha256 === found.sha256) changes = left.changes;
    left = {};
    say(found.fault);
    noteChanges();
    boxes = [];
    top.replaceChildren(...(found.study ? place(found) : welcome()).filter(Boolean));
    body.hidden = !(found.study && found.recipe);
    run.hidden = body.hidden;
    if (!body.hidden) {
      body.replaceChildren(h("h2", {}, "Cases"), found.table
        ? h("p", { class: "soft" }, "The case table says what each file is. Correct it here or in a spreadsheet: ", h("span", { class: "path" }, found.table))
        : h("p", { class: "soft" }, "The patterns of the recipe decide which files belong to a case. To decide file by file, write a case table (above)."),
      problem, ...(found.table ? [...unknownNames(), ...unplaced()] : []), pages.box, list, bar);
      if (!found.fault || found.table) pages.open(); else list.replaceChildren();
    }
    if (!run.hidden && run.dataset.shown !== found.recipe) { run.dataset.shown = found.recipe; runForm(found); }
    [...boxes, ...runBoxes].forEach((each) => each.update(server.state));
  };

  const runForm = (found) => {
    const values = { study: found.study, recipe: found.recipe, configuration: ["2d", "3d_fullres"], fold: ["0"], budget: "smoke", yes: false };
    const all = commandBox("Run everything", () => ({ command: "run", values }), { mine: (job) => job.command === "run" && job.values.study === found.study });
    const budget = select([["smoke", "smoke: minutes, checks the way"], ["quick", "quick: hours"], ["full", "full: days, the published method"]], "smoke", (value) => { values.budget = value; all.refresh(); });
    const yes = h("input", { type: "checkbox", onchange: (event) => { values.yes = event.target.checked; all.refresh(); } });
    runBoxes = [all];
    run.replaceChildren(h("h2", {}, "Next"), h("p", {}, "Go step by step: ", h("a", { href: "#/check" }, "check and convert the cases"), ". Or run all steps at once, from here to the comparison of two models."),
      h("div", { class: "form" }, field("Length of training", budget), h("label", { class: "row" }, yes, "Start even if it takes days")), all.box);
  };

  async function load() {
    try { show(await get("/api/study")); } catch (error) { say(error.message); }
  }
  return {
    leave: () => { left = { sha256: overview && overview.sha256, changes }; },
    update: (state) => {
      now = state.study;
      [...boxes, ...runBoxes].forEach((each) => each.update(state));
      const key = JSON.stringify([now.study, now.recipe, now.changed]);
      if (key === known) return;
      known = key;
      if (Object.keys(changes).length && overview.recipe === now.recipe) say("The case table was changed by another program or tab. Discard your changes to load it.");
      else { changes = {}; load(); }
    },
  };
};

export default { title: "Study", mount };
