// Sorting, jumps and the numbers of a tapped token. Everything else works without this file.
"use strict";

const groups = () => [...document.querySelectorAll(".group")];

// Puts the children of a place in order: by their number of this name, the highest first, then as
// they were. Without a name they are as they were.
function reorder(place, children, number) {
  const order = (child) => Number(child.dataset.order);
  const sorted = [...children].sort((a, b) => number(b) - number(a) || order(a) - order(b));
  for (const child of sorted) place.append(child);
}

// A sample without this number comes last.
function numberOf(name) {
  return (sample) => {
    const value = sample.dataset[name];
    return value === undefined || value === "" ? -Infinity : Number(value);
  };
}

function sort(name) {
  const number = name ? numberOf(name) : () => 0;
  const best = (group) => Math.max(...[...group.querySelectorAll(".sample")].map(number));
  for (const group of groups()) {
    const answers = group.querySelector(".answers");
    reorder(answers, answers.children, number);
  }
  if (!groups().length) return;
  // A mark keeps the place of the groups among what follows them.
  const mark = document.createComment("");
  groups().at(-1).after(mark);
  const all = groups().sort(
    (a, b) => (name ? best(b) - best(a) : 0) || a.dataset.order - b.dataset.order);
  for (const group of all) mark.before(group);
  mark.remove();
}

function jump(forward) {
  const shown = groups().filter((group) => group.offsetParent !== null);
  const tops = shown.map((group) => group.getBoundingClientRect().top);
  const next = forward ? tops.findIndex((top) => top > 200) : tops.findLastIndex((top) => top < -10);
  if (next >= 0) window.scrollBy({ top: tops[next] - 180 });
}

function tell(token) {
  const note = document.getElementById("note");
  document.querySelectorAll(".t.chosen").forEach((other) => other.classList.remove("chosen"));
  note.hidden = !token;
  if (!token) return;
  token.classList.add("chosen");
  note.textContent = token.title;
}

const select = document.getElementById("sort");
if (select) {
  document.querySelector(".sorting").hidden = false;
  select.addEventListener("change", () => sort(select.value));
  document.addEventListener("click", (event) => tell(event.target.closest(".completion .t[title]")));
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") tell(null);
    if (event.key === "j" || event.key === "k") jump(event.key === "j");
  });
}
