// On the pages of the book: fetch the playground only where there is something to mount.
if (document.querySelector("div[data-csos-demo]")) {
  import("./playground.js").then(({ mountAll }) => mountAll());
}
