"use strict";
// The colours: as the system says, until the button is pressed. A file's storage may be denied.
const root = document.documentElement;
const button = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const stored = { get() { try { return localStorage.getItem("distcnn-theme"); } catch { return null; } },
  set(theme) { try { localStorage.setItem("distcnn-theme", theme); } catch { /* for this page alone */ } } };
function shown() { return root.dataset.theme || (dark.matches ? "dark" : "light"); }
function label() { button.textContent = shown() === "dark" ? "Light colours" : "Dark colours"; }
if (["dark", "light"].includes(stored.get())) root.dataset.theme = stored.get();
button.addEventListener("click", () => {
  root.dataset.theme = shown() === "dark" ? "light" : "dark";
  stored.set(root.dataset.theme);
  label();
});
dark.addEventListener("change", label);
button.hidden = false;
label();
// What scrolls can be reached by the keyboard, what does not scroll is skipped.
function reachable() {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0; else box.removeAttribute("tabindex");
  }
}
addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true);
reachable();
// On paper nothing can be opened.
const opened = [];
addEventListener("beforeprint", () => {
  for (const closed of document.querySelectorAll("details:not([open])")) { closed.open = true; opened.push(closed); }
});
addEventListener("afterprint", () => { for (const closed of opened.splice(0)) closed.open = false; });
