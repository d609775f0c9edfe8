import { h } from "/assets/kit.js";

export default {
  title: "Predict",
  mount(root) {
    root.append(h("section", {}, h("h2", {}, "Predict")));
    return {};
  },
};
