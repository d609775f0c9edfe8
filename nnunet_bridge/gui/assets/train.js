import { h } from "/assets/kit.js";

export default {
  title: "Train",
  mount(root) {
    root.append(h("section", {}, h("h2", {}, "Train")));
    return {};
  },
};
