import { h } from "/assets/kit.js";

export default {
  title: "Look",
  mount(root) {
    root.append(h("section", {}, h("h2", {}, "Look")));
    return {};
  },
};
