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
const mounted = {}; // steps that were opened; another step only hides them
let shown = "";

const open = () => {
  if (!server.state) return;
  const [id, query] = location.hash.replace(/^#\//, "").split("?");
  const values = Object.fromEntries(new URLSearchParams(query)), known = mounted[id];
  shown = views[id] ? id : "study";
  if (known && known.show) known.show(values);
  if (!mounted[shown]) {
    const box = h("div");
    main.append(box);
    mounted[shown] = { box, ...views[shown].mount(box, values) };
  }
  for (const [each, { box }] of Object.entries(mounted)) box.hidden = each !== shown;
  for (const link of steps.children) link.ariaCurrent = link.dataset.view === shown ? "page" : null;
  steps.querySelector("[aria-current]").scrollIntoView({ block: "nearest" }); // on a phone
  scrollTo(0, 0);
  document.title = `${views[shown].title} – nnunet-bridge`;
  mounted[shown].update(server.state);
};
const update = (state) => {
  fault.textContent = state.error || "";
  fault.hidden = !state.error;
  if (!server.state) return;
  place.textContent = server.state.workspace;
  if (shown) mounted[shown].update(server.state);
  else open();
};

steps.append(...Object.entries(views).map(([id, { title }], count) => (
  h("a", { href: `#/${id}`, "data-view": id }, h("span", String(count + 1)), title))));
addEventListener("hashchange", open);
connect((connected) => { offline.hidden = connected; }, update);
