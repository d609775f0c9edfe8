/* The frame: steps, the view of the address (#/train?dataset=1), and the connection. */
import { connect, h, server } from "/assets/kit.js";
import study from "/assets/study.js";
import check from "/assets/check.js";
import train from "/assets/train.js";
import look from "/assets/look.js";
import predict from "/assets/predict.js";

const views = { study, check, train, look, predict };
const main = document.getElementById("main");
const steps = document.getElementById("steps");
let shown = null;

const open = () => {
  const [id, query = ""] = location.hash.replace(/^#\//, "").split("?");
  const view = views[id] ? id : "study";
  const values = Object.fromEntries(new URLSearchParams(query));
  if (shown && shown.id === view && shown.show) { shown.show(values); return; }
  if (shown && shown.leave) shown.leave();
  main.replaceChildren();
  for (const link of steps.children) link.ariaCurrent = link.dataset.view === view ? "page" : null;
  document.title = `${views[view].title} – nnunet-bridge`;
  shown = { id: view, ...views[view].mount(main, values) };
  if (server.state) shown.update(server.state);
};

Object.entries(views).forEach(([id, view], place) => steps.append(h("a", { href: `#/${id}`, "data-view": id }, h("span", {}, String(place + 1)), view.title)));
addEventListener("hashchange", open);
const fault = document.getElementById("fault");
const update = (state) => {
  document.getElementById("place").textContent = state.workspace;
  fault.textContent = state.error || "";
  fault.hidden = !state.error;
  shown.update(state);
};
connect((connected) => { document.getElementById("offline").hidden = connected; }, update);
open();
