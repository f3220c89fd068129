/* The search page. The index (search-index.js, made by site_search.py) holds the text of every section, so
 * nothing is fetched: the search works from a folder as well as from a server. */
"use strict";

(() => {
  const LIMIT = 30; // results shown
  const PER_PAGE = 3; // of which so many from one page
  const COMBINING = /\p{M}/gu;
  const CJK = /[\u3040-\u30ff\u3400-\u9fff]/;

  // What is compared: without accents, case, hyphens within words, and commas within numbers. A sign stays
  // one sign, or becomes nothing, so that a place in the folded text can be found again in the text itself.
  const fold = text =>
    text.normalize("NFKD").replace(COMBINING, "").toLowerCase()
      .replace(/(?<=\p{L})[-\u2010\u2011\u00ad](?=\p{L})/gu, "")
      .replace(/(?<=\d),(?=\d{3})/g, "")
      .replace(/\s+/g, " ");

  const escaped = text => text.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&");

  // A term is found at the beginning of a word, a number only as a whole, Chinese and Japanese anywhere.
  const pattern = term => {
    if (CJK.test(term)) return new RegExp(escaped(term), "gu");
    if (/^[\d.]+$/.test(term)) return new RegExp(`(?<![\\d.])${escaped(term)}(?![.]?\\d)`, "gu");
    const stem = term.length > 3 ? term.replace(/s$/, "") : term; // layers finds layer
    const start = /^[\p{L}\d]/u.test(stem) ? "(?<![\\p{L}\\d])" : "";
    return new RegExp(start + escaped(stem), "gu");
  };

  let sections = null;
  const prepare = () => {
    const { pages, texts } = window.SEARCH_INDEX;
    sections = texts.map(([page, anchor, title, text]) => {
      const [file, pageTitle, weight] = pages[page];
      return { page, file, pageTitle, weight, anchor, title, text,
               inTitle: fold(title), inPage: fold(pageTitle), folded: fold(text) };
    });
  };

  const count = (text, regex) => {
    let found = 0;
    regex.lastIndex = 0;
    while (found < 8 && regex.exec(text)) found += 1;
    return found;
  };

  const score = (section, terms, phrase, whole) => {
    let sum = 0;
    let met = 0;
    for (const term of terms) {
      const inTitle = count(section.inTitle, term) > 0;
      const inText = count(section.folded, term);
      const inPage = count(section.inPage, term) > 0;
      if (inTitle || inText) met += 1;
      sum += 8 * inTitle + 4 * inPage + Math.log2(1 + inText);
    }
    if (!met) return [0, 0];
    if (terms.length > 1) sum += 6 * Math.min(count(section.folded, phrase), 3);
    if (count(section.inTitle, phrase)) sum += 12;
    if (section.inTitle === whole) sum += 20;
    return [met, sum * section.weight];
  };

  const search = query => {
    const whole = fold(query.replace(/["“”]/g, " ")).trim();
    const words = whole.split(" ").filter(Boolean);
    if (!words.length) return { hits: [], all: true };
    const terms = words.map(pattern);
    const phrase = pattern(whole);
    const scored = sections
      .map(section => [section, ...score(section, terms, phrase, whole)])
      .filter(([, met]) => met);
    const all = scored.some(([, met]) => met === terms.length);
    const wanted = all ? terms.length : Math.max(0, ...scored.map(([, met]) => met));
    const shown = new Map();
    const hits = scored
      .filter(([, met]) => met === wanted)
      .sort((a, b) => b[2] - a[2])
      .filter(([section]) => {
        shown.set(section.page, (shown.get(section.page) || 0) + 1);
        return shown.get(section.page) <= PER_PAGE;
      })
      .map(([section]) => section);
    return { hits, all, terms, phrase };
  };

  // Where the pattern is found in the text itself: its signs are folded one by one until the place is met.
  const place = (text, folded, regex) => {
    regex.lastIndex = 0;
    const found = regex.exec(folded);
    if (!found) return -1;
    // The folded text is hardly shorter than the text: begin close to the place, and look on from there.
    let at = 0;
    let length = 0;
    while (at < text.length && length < found.index) {
      const step = Math.max(1, Math.floor((found.index - length) / 2));
      length += fold(text.slice(at, at + step)).length;
      at += step;
    }
    return Math.min(at, text.length - 1);
  };

  const snippet = (section, terms, phrase) => {
    const first = [phrase, ...terms]
      .map(regex => place(section.text, section.folded, regex))
      .find(at => at >= 0);
    let start = Math.max(0, (first === undefined ? 0 : first) - 90);
    if (start) start = section.text.indexOf(" ", start) + 1 || start;
    const cut = section.text.slice(start, start + 260);
    const paragraph = document.createElement("p");
    paragraph.className = "search-snippet";
    paragraph.append(start ? "… " : "");
    for (const part of cut.split(/(\s+)/)) {
      const folded = fold(part);
      const hit = terms.some(regex => { regex.lastIndex = 0; return regex.test(folded); });
      if (hit && part.trim()) {
        const mark = document.createElement("mark");
        mark.textContent = part;
        paragraph.append(mark);
      } else paragraph.append(part);
    }
    paragraph.append(start + 260 < section.text.length ? " …" : "");
    return paragraph;
  };

  const show = query => {
    const out = document.getElementById("search-results");
    out.replaceChildren();
    const status = document.createElement("p");
    status.setAttribute("role", "status");
    out.append(status);
    if (!query.trim()) return;
    if (!sections) prepare();
    const { hits, all, terms, phrase } = search(query);
    status.textContent = !hits.length
      ? `Nothing was found for “${query}”. Try fewer words, or the beginning of one.`
      : `${hits.length} ${hits.length === 1 ? "section" : "sections"} for “${query}”` +
        (all ? "." : "; none has all of the words.");
    const list = document.createElement("ol");
    list.className = "search-hits";
    for (const section of hits.slice(0, LIMIT)) {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = section.file + (section.anchor ? `#${section.anchor}` : "");
      link.textContent = section.title;
      item.append(link);
      if (section.title !== section.pageTitle) {
        const where = document.createElement("span");
        where.className = "search-where";
        where.textContent = section.pageTitle;
        item.append(" ", where);
      }
      item.append(snippet(section, terms, phrase));
      list.append(item);
    }
    out.append(list);
  };

  document.addEventListener("DOMContentLoaded", () => {
    const query = new URLSearchParams(location.search).get("q") || "";
    for (const field of document.querySelectorAll('input[name="q"]')) {
      field.value = query;
      field.addEventListener("input", () => show(field.value));
    }
    show(query);
  });
})();
