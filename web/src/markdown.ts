// Markdown as it streams in, made into elements. What a model writes is hostile until proven otherwise:
//   1. HTML in it is shown as the text that it is (marked's `html` tokens are escaped),
//   2. what marked makes goes through DOMPurify, which knows the few tags that may come out,
//   3. images become links, so that nothing is fetched from anywhere,
//   4. and the policy that the server sends with the page forbids every script and every address but the server's own.

import DOMPurify from "dompurify";
import { Marked, type MarkedToken, type Token, type Tokens } from "marked";
import { copyButton, h } from "./dom";
import { highlighted } from "./highlight";

const TAGS = [
  "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "input", "li", "ol", "p",
  "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const ATTRIBUTES = ["align", "checked", "class", "data-cite", "data-math", "disabled", "href", "start", "type"];
const CITATION = /^【(\d{1,6})†L(\d{1,7})(?:-L?(\d{1,7}))?】/;

const marked = new Marked({ gfm: true });
marked.use({
  extensions: [
    {
      name: "math",
      level: "inline",
      start: (text: string) => text.search(/\$|\\[([]/),
      tokenizer(text: string) {
        const found =
          /^\$\$([^]+?)\$\$/.exec(text) ??
          /^\\\[([^]+?)\\\]/.exec(text) ??
          /^\\\(([^]+?)\\\)/.exec(text) ??
          /^\$(?![\s\d.,]*\$)(?!\s)((?:\\.|[^$\\\n])+?)(?<!\s)\$(?![\w$])/.exec(text);
        if (!found) return undefined;
        const display = found[0].startsWith("$$") || found[0].startsWith("\\[");
        return { type: "math", raw: found[0], text: found[1], display };
      },
      renderer: (token) => mathPlace(token as unknown as MathToken),
    },
    {
      name: "mathBlock",
      level: "block",
      start: (text: string) => text.match(/(?:^|\n)(\$\$|\\\[)/)?.index,
      tokenizer(text: string) {
        const found = /^\$\$([^]+?)\$\$(?:\n|$)/.exec(text) ?? /^\\\[([^]+?)\\\](?:\n|$)/.exec(text);
        return found ? { type: "mathBlock", raw: found[0], text: found[1], display: true } : undefined;
      },
      renderer: (token) => `<p>${mathPlace(token as unknown as MathToken)}</p>`,
    },
    {
      name: "citation",
      level: "inline",
      start: (text: string) => text.indexOf("【"),
      tokenizer(text: string) {
        const found = CITATION.exec(text);
        return found ? { type: "citation", raw: found[0], text: found[0] } : undefined;
      },
      renderer: (token) => `<span data-cite="${escape(token.raw)}">${escape(token.raw)}</span>`,
    },
  ],
  renderer: {
    html: ({ text }: Tokens.HTML | Tokens.Tag) => escape(text),
    image: ({ href, text }: Tokens.Image) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    code: ({ text, lang }: Tokens.Code) => {
      const language = (lang ?? "").match(/^[\w+#-]*/)?.[0] ?? "";
      return `<pre><code class="language-${escape(language)}">${highlighted(text, language.toLowerCase()) ?? escape(text)}</code></pre>`;
    },
  },
});

interface MathToken {
  text: string;
  display: boolean;
}

function mathPlace(token: MathToken): string {
  return `<code class="math" data-math="${token.display ? "display" : "inline"}">${escape(token.text.trim())}</code>`;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

export interface Citation {
  cursor: number;
  first: number;
  last: number;
}

/** What a citation's mark becomes; null leaves the mark as it is. */
export type Cite = (citation: Citation) => HTMLElement | null;

/** A text that grows. Blocks that have not changed are left alone, so that a selection in them survives. */
export class Markdown {
  readonly element = h("div.markdown");
  private blocks: { raw: string; nodes: ChildNode[] }[] = [];

  constructor(private readonly cite: Cite = () => null) {}

  update(text: string): void {
    const tokens = marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
    let same = 0;
    while (same < tokens.length && this.blocks[same]?.raw === tokens[same]!.raw) same += 1;
    for (const block of this.blocks.splice(same)) for (const node of block.nodes) node.remove();
    for (const token of tokens.slice(same)) {
      const nodes = [...this.render(token).childNodes];
      this.element.append(...nodes);
      this.blocks.push({ raw: token.raw, nodes });
    }
  }

  private render(token: Token): DocumentFragment {
    const html = marked.parser([token as MarkedToken]);
    const fragment = DOMPurify.sanitize(html, {
      ALLOWED_TAGS: TAGS,
      ALLOWED_ATTR: ATTRIBUTES,
      ALLOW_DATA_ATTR: false,
      ALLOW_ARIA_ATTR: false,
      ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|#)/i,
      ADD_URI_SAFE_ATTR: ["data-cite", "data-math", "start", "type", "align"],
      RETURN_DOM_FRAGMENT: true,
    });
    for (const link of fragment.querySelectorAll("a")) {
      link.target = "_blank";
      link.rel = "noopener noreferrer nofollow";
    }
    for (const box of fragment.querySelectorAll("input")) box.replaceWith(box.checked ? "☑ " : "☐ ");
    for (const table of fragment.querySelectorAll("table")) {
      const scroller = h("div.table", { tabIndex: 0, role: "group", "aria-label": "Table" });
      table.replaceWith(scroller);
      scroller.append(table);
    }
    for (const code of fragment.querySelectorAll("pre > code")) dress(code);
    for (const place of fragment.querySelectorAll<HTMLElement>("code.math[data-math]")) void typeset(place);
    for (const mark of fragment.querySelectorAll<HTMLElement>("[data-cite]")) {
      const found = CITATION.exec(mark.dataset["cite"] ?? "");
      const first = Number(found?.[2]);
      const shown = found && this.cite({ cursor: Number(found[1]), first, last: Number(found[3] ?? first) });
      if (shown) place(mark, shown);
      else mark.replaceWith(mark.textContent ?? "");
    }
    return fragment;
  }
}

/** A citation where its mark was; no line ends between it and a full stop. */
function place(mark: HTMLElement, citation: HTMLElement): void {
  const next = mark.nextSibling;
  const stop = next instanceof Text ? (/^[.,;:!?)\]”’]+/.exec(next.data)?.[0] ?? "") : "";
  if (stop) (next as Text).deleteData(0, stop.length);
  mark.replaceWith(h("span.nowrap", {}, citation, stop));
}

/** A block of code under a bar with its language and a button to copy it. */
function dress(code: Element): void {
  const pre = code.parentElement!;
  const language = code.className.replace("language-", "") || "text";
  const frame = h("div.code");
  pre.replaceWith(frame);
  pre.tabIndex = 0; // a keyboard scrolls it
  pre.setAttribute("aria-label", `Code, ${language}`);
  pre.setAttribute("role", "group");
  frame.append(h("div.code-bar", {}, h("span", {}, language), copyButton(() => code.textContent ?? "", "Copy code")), pre);
}

/** A program or some JSON as a block of its own. */
export function codeBlock(text: string, language: string, label: string): HTMLElement {
  const code = h("code");
  const html = highlighted(text, language);
  if (html === null) code.textContent = text;
  else code.append(DOMPurify.sanitize(html, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true }));
  return h("pre.block", { tabIndex: 0, role: "group", "aria-label": label }, code);
}

let temml: Promise<typeof import("temml")> | null = null;

/** TeX as MathML, which browsers set without fonts of ours; loaded when the first formula comes. */
async function typeset(place: HTMLElement): Promise<void> {
  const source = place.textContent ?? "";
  const display = place.dataset["math"] === "display";
  const { default: tex } = await (temml ??= import("temml"));
  const shown = h("span.maths");
  try {
    tex.render(source, shown, { displayMode: display, throwOnError: true, trust: false, maxExpand: 200, maxSize: [20, 40] });
  } catch {
    return; // what is no TeX, or not yet, stays as it was written
  }
  shown.querySelectorAll("[href]").forEach((each) => each.removeAttribute("href"));
  if (display) shown.classList.add("display");
  place.replaceWith(shown);
}
