// Entries that hold all words, or else most of them; a hit in a heading or in the sentence below it counts for more.
"use strict";
const entries = [];
for (const section of document.querySelectorAll("main section")) {
  const boost = Number(section.dataset.boost);
  let entry = { id: section.id, title: section.querySelector("h2").textContent, text: "", boost };
  entries.push(entry);
  for (const node of section.children) {
    if (node.tagName === "H3" && node.id) {
      entry = { id: node.id, title: node.textContent, text: "", boost };
      entries.push(entry);
    } else if (node.tagName !== "PRE" && node.tagName !== "H2") {
      entry.text += node.textContent + " ";
    }
  }
}
for (const entry of entries) {
  entry.head = (entry.title + " " + entry.id).toLowerCase();
  entry.first = entry.text.slice(0, 240).toLowerCase();
  entry.lower = entry.text.toLowerCase();
}
const field = document.getElementById("search"), hits = document.getElementById("hits");
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const scored = words.length === 0 ? [] : entries.map((entry) => {
    const each = words.map((word) =>
      entry.head.includes(word) ? 4 : entry.first.includes(word) ? 2 : entry.lower.includes(word) ? 0.5 : 0);
    return { entry, found: each.filter(Boolean).length, score: each.reduce((a, b) => a + b) * entry.boost };
  }).filter((item) => item.found);
  scored.sort((a, b) => b.found - a.found || b.score - a.score);
  hits.replaceChildren(...scored.slice(0, 20).map(({ entry }) => {
    const item = document.createElement("li"), link = document.createElement("a"), said = document.createElement("small");
    link.href = "#" + entry.id;
    link.textContent = entry.title;
    link.addEventListener("click", () => hits.replaceChildren());
    said.textContent = entry.text.trim().slice(0, 160);
    item.append(link, said);
    return item;
  }));
});
