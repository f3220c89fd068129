// Turns the whole book on one HTML page into a book for paper; pdf.py runs it in the page before it prints.
// It is called with {title, note}, and returns all headings in order, [{text, id}]: id is that of a section in
// the contents, else null.
"use strict";

(book) => {
  const article = document.querySelector("article");
  const make = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  // Paper is white, has no buttons, and nothing on it can be clicked to unfold.
  document.documentElement.dataset.theme = "light";
  // Where something needs scripts, what stands there without them is printed.
  for (const node of article.querySelectorAll("noscript")) {
    const live = node.closest(".lab, .resnetbook-instrument");
    const content = document.createRange().createContextualFragment(node.textContent);
    if (live) live.before(content);
    node.replaceWith(live ? "" : content);
  }
  for (const node of article.querySelectorAll(".lab, .resnetbook-instrument")) {
    node.replaceWith(make("p", {}, make("em", {}, "On the site, something stands here that you can operate.")));
  }
  for (const node of article.querySelectorAll("script, button, canvas, .headerlink, .colab-button")) node.remove();
  // Code that only sets up, draws or makes a table is folded on the site, and left out here.
  for (const node of article.querySelectorAll("details.hide")) node.remove();
  for (const node of article.querySelectorAll("details.set-up")) node.replaceWith(...[...node.childNodes].slice(1));

  // Each page of the site is a chapter. Its anchor stands before it; most of its sections have names that
  // occur in other chapters too, so their ids are made different, and links within a chapter follow.
  const documents = [...article.querySelectorAll("span[id^='document-']")];
  const chapters = documents.map((span) => span.nextElementSibling);
  for (const [number, chapter] of chapters.entries()) {
    const renamed = new Map();
    for (const node of [chapter, ...chapter.querySelectorAll("[id]")]) {
      if (!node.id || document.querySelectorAll(`[id="${CSS.escape(node.id)}"]`).length < 2) continue;
      renamed.set(node.id, `c${number}-${node.id}`);
      node.id = renamed.get(node.id);
    }
    for (const link of chapter.querySelectorAll("a[href^='#']")) {
      const id = decodeURIComponent(link.getAttribute("href").slice(1));
      if (renamed.has(id)) link.setAttribute("href", `#${renamed.get(id)}`);
    }
  }

  // Links: within the book, or to the site, or plain text where neither is.
  for (const link of article.querySelectorAll("a[href]")) {
    const href = link.getAttribute("href");
    if (/^(https?|mailto):/.test(href)) continue;
    const [, page, anchor] = href.match(/^([^#]*)(?:#(.*))?$/);
    const stem = page.replace(/^book\//, "").replace(/\.html$/, "");
    const id = [anchor, `document-${anchor}`, `document-book/${stem}`].find((name) => name && document.getElementById(name));
    if (id && (page === "" || page.endsWith(".html"))) link.setAttribute("href", `#${id}`);
    else link.replaceWith(...link.childNodes);
  }

  // Hints, solutions and answers go to the end, so that a reader can try first.
  const answers = make("section", { id: "hints-solutions-and-answers" });
  answers.append(make("h2", {}, "Hints, solutions and answers"));
  let moved = 0;
  for (const chapter of chapters) {
    const folds = [...chapter.querySelectorAll("details")];
    const here = folds.filter((fold) => /^(Hint|Solution|Answer)\b/.test(fold.querySelector("summary").textContent.trim()));
    if (here.length) answers.append(make("h3", {}, chapter.querySelector("h2").textContent));
    for (const fold of here) {
      moved += 1;
      const words = fold.querySelector("summary").textContent.trim();
      const [there, back] = [`answer-${moved}`, `asked-${moved}`];
      const reference = make("a", { href: `#${there}`, id: back }, words);
      fold.querySelector("summary").remove();
      const kept = make("div", { id: there, class: "answer" });
      kept.append(make("p", {}, make("a", { href: `#${back}` }, make("strong", {}, words))), ...fold.childNodes);
      answers.append(kept);
      fold.replaceWith(make("p", { class: "see-answer" }, reference));
    }
    // What else is folded: long tables stay away (the runs page alone would be a hundred pages).
    const others = folds.filter((fold) => fold.isConnected);
    for (const fold of others) {
      if (others.length > 20) fold.remove();
      else fold.replaceWith(make("p", {}, make("strong", {}, fold.querySelector("summary").textContent)), ...[...fold.childNodes].slice(1));
    }
  }
  article.append(answers);

  // A title page, and a list of what is in the book.
  const contents = make("nav", { id: "contents" }, make("h2", {}, "Contents"));
  const listed = [];
  for (const section of [article.querySelector("section"), ...chapters, answers]) {
    const heading = section.querySelector("h1, h2");
    listed.push({ text: heading.textContent.trim(), id: section.id, level: 1 });
    const parts = [...section.querySelectorAll(":scope > section > h3")];
    // The runs page has a section for each of some sixty experiments.
    for (const part of parts.length > 30 ? [] : parts) {
      listed.push({ text: part.textContent.trim(), id: part.parentElement.id, level: 2 });
    }
  }
  for (const { text, id, level } of listed) {
    const number = make("span", { class: "page-number", "data-for": id });
    contents.append(make("p", { class: `level-${level}` }, make("a", { href: `#${id}` }, text), " ", number));
  }
  const cover = make("header", { id: "cover" }, make("p", { class: "title" }, book.title));
  for (const line of book.note) cover.append(make("p", {}, line));

  const body = make("main", { id: "book" }, cover, contents, article);
  document.body.replaceChildren(body);
  document.title = book.title;
  const ids = new Set(listed.map((entry) => entry.id));
  return [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((heading) => ({
    text: heading.textContent.trim().replace(/\s+/g, " "),
    id: ids.has(heading.parentElement.id) ? heading.parentElement.id : null,
  }));
}
