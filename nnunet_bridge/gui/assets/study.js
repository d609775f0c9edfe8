import { h } from "/assets/kit.js";

export default {
  title: "Study",
  mount(root) {
    root.append(h("section", {}, h("h2", {}, "Study")));
    return {};
  },
};
