/* The frame: steps, the step of the address (#/train?dataset=1), and the connection. */
import check from "/assets/check.js";
import { connect, server } from "/assets/kit.js";
import look from "/assets/look.js";
import predict from "/assets/predict.js";
import { h } from "/assets/shared.js";
import study from "/assets/study.js";
import train from "/assets/train.js";

const views = { study, check, train, look, predict };
const [main, steps, fault, place, offline] = ["main", "steps", "fault", "place", "offline"]
  .map((id) => document.getElementById(id));
let shown = null;

const open = () => {
  const [id, query] = location.hash.replace(/^#\//, "").split("?");
  const view = views[id] ? id : "study";
  const values = Object.fromEntries(new URLSearchParams(query));
  if (shown && shown.id === view && shown.show) { shown.show(values); return; }
  if (shown && shown.leave) shown.leave();
  main.replaceChildren();
  scrollTo(0, 0);
  for (const link of steps.children) link.ariaCurrent = link.dataset.view === view ? "page" : null;
  steps.querySelector("[aria-current]").scrollIntoView({ block: "nearest" }); // on a phone
  document.title = `${views[view].title} – nnunet-bridge`;
  shown = { id: view, ...views[view].mount(main, values) };
  if (server.state) shown.update(server.state);
};
const update = (state) => {
  place.textContent = state.workspace;
  fault.textContent = state.error || "";
  fault.hidden = !state.error;
  shown.update(state);
};

steps.append(...Object.entries(views).map(([id, { title }], count) => (
  h("a", { href: `#/${id}`, "data-view": id }, h("span", String(count + 1)), title))));
addEventListener("hashchange", open);
connect((connected) => { offline.hidden = connected; }, update);
open();
