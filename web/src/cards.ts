// The parts of an answer: thoughts, text, and calls of tools as cards. Each view shows one item and follows its changes.

import { diffView, patchIn, patchSummary } from "./diff";
import { copyButton, h, icon, number, seconds } from "./dom";
import { textOf } from "./fold";
import { Markdown, codeBlock, type Citation } from "./markdown";
import { openable, pageOf, plain, type Page } from "./pages";
import type { Item } from "./types";

export interface Context {
  /** How long the item took, in seconds; null where it is not known. */
  duration: (index: number) => number | null;
  /** Whether the item is being written or computed now. */
  active: (index: number) => boolean;
  pages: () => Map<number, Page>;
  /** What a call was answered by hand. */
  outputOf: (callId: string) => string | undefined;
  /** Show a page at its quoted lines. */
  openSource: (page: Page, citation: Citation | null) => void;
}

export interface View {
  element: HTMLElement;
  update: (item: Item) => void;
}

export function viewOf(item: Item, index: number, context: Context): View | null {
  switch (item.type) {
    case "reasoning":
      return thought(index, context);
    case "message":
      return message(context);
    case "code_interpreter_call":
      return python(index, context);
    case "web_search_call":
      return web(index, context);
    case "mcp_list_tools":
      return null;
    default:
      return call(index, context);
  }
}

function message(context: Context): View {
  const markdown = new Markdown((citation) => citationButton(citation, context));
  return {
    element: markdown.element,
    update: (item) => {
      markdown.update(textOf(item));
      shorten(markdown.element);
    },
  };
}

/** A page that has been named before is not named again: its lines are enough. */
function shorten(text: HTMLElement): void {
  const named = new Set<string>();
  for (const mark of text.querySelectorAll<HTMLElement>(".citation")) {
    const page = mark.dataset["page"]!;
    mark.textContent = named.has(page) ? mark.dataset["lines"]! : page.length > 24 ? `${page.slice(0, 23)}…` : page;
    named.add(page);
  }
}

function citationButton(citation: Citation, context: Context): HTMLElement | null {
  const page = context.pages().get(citation.cursor);
  if (!page) return null;
  const lines = citation.first === citation.last ? `line ${citation.first}` : `lines ${citation.first} to ${citation.last}`;
  return h("button.citation", {
    type: "button",
    title: `${page.title}, ${lines}`,
    "aria-label": `Source: ${page.title}, ${lines}`,
    "data-page": page.title,
    "data-lines": citation.first === citation.last ? `L${citation.first}` : `L${citation.first}–${citation.last}`,
    onclick: () => context.openSource(page, citation),
  });
}

function thought(index: number, context: Context): View {
  const label = h("span.label");
  const text = new Markdown();
  const element = h("details.thought", {}, h("summary", {}, icon("thought"), label), text.element);
  return {
    element,
    update: (item) => {
      const active = context.active(index);
      const duration = context.duration(index);
      element.classList.toggle("active", active);
      label.textContent = active ? "Thinking" : duration === null ? "Thought" : `Thought for ${seconds(duration)}`;
      if (active && duration !== null && duration >= 1) label.textContent = `Thinking, ${seconds(duration)}`;
      text.update(textOf(item));
    },
  };
}

/** A card that can be folded: what it is about in its head, the rest below. */
function card(symbol: string, kind: string) {
  const title = h("span.label");
  const note = h("span.note");
  const body = h("div.card-body");
  const element = h("details.card", {}, h("summary", {}, icon(symbol), title, note), body);
  element.classList.add(kind);
  return { element, title, note, body };
}

/** The state of a call, in the head of its card. */
function tell(note: HTMLElement, item: Item, index: number, context: Context, doing: string): void {
  const duration = context.duration(index);
  const took = duration === null || duration < 0.05 ? "" : seconds(duration);
  const failed = item.status === "failed";
  const cut = item.status === "incomplete";
  note.textContent = context.active(index) ? `${doing}…` : failed ? "failed" : cut ? "stopped" : took;
  note.classList.toggle("failed", failed);
}

function python(index: number, context: Context): View {
  const { element, title, note, body } = card("python", "python");
  title.textContent = "Python";
  element.open = true;
  return {
    element,
    update: (item) => {
      tell(note, item, index, context, item.status === "running" ? "running" : "writing");
      const logs = (item.outputs ?? []).map((output) => output.logs ?? "").join("\n");
      const code = item.code ?? "";
      body.replaceChildren(
        h("div.with-copy", {}, codeBlock(code, "python", "Program"), copyButton(() => code, "Copy program")),
        ...(logs ? [h("div.output-label", {}, "Output"), h("pre.block.output", { tabIndex: 0, role: "group", "aria-label": "Output" }, logs)] : []),
      );
    },
  };
}

function web(index: number, context: Context): View {
  const { element, title, note, body } = card("search", "web");
  return {
    element,
    update: (item) => {
      const page = pageOf(item);
      const action = item.action;
      tell(note, item, index, context, action?.type === "search" ? "searching" : "opening");
      element.querySelector(".icon")!.replaceWith(icon(action?.type === "open_page" ? "page" : "search"));
      if (action?.type === "search") title.textContent = `Searched for “${action.query ?? ""}”`;
      else if (action?.type === "find_in_page") title.textContent = `Looked for “${action.pattern ?? ""}” in the page`;
      else title.replaceChildren("Opened ", h("b", {}, page?.title ?? action?.url ?? "a page"));
      const failure = item.results?.[0]?.text;
      if (page && action?.type === "search") body.replaceChildren(results(page));
      else if (page) body.replaceChildren(pageView(page, null, 12), showAll(page, context));
      else if (failure) body.replaceChildren(h("pre.block.output", {}, failure));
      element.classList.toggle("empty", !page && !failure);
    },
  };
}

function results(page: Page): HTMLElement {
  const links = page.links.filter((link) => link.title);
  if (!links.length) return h("p.quiet", {}, "Nothing was found.");
  return h("ol.results", {}, ...links.map((link) => h("li", {}, link.title, link.domain && h("span.quiet", {}, ` ${link.domain}`))));
}

function showAll(page: Page, context: Context): HTMLElement {
  return h(
    "button.link",
    { type: "button", onclick: () => context.openSource(page, null) },
    page.lines.length > 12 ? `Show all ${page.lines.length} lines` : "Show the page",
  );
}

/** Numbered lines, the quoted ones marked. */
export function pageView(page: Page, citation: Citation | null, most = Infinity): HTMLElement {
  const view = h("div.page-lines", { tabIndex: 0, role: "group", "aria-label": `Lines of ${page.title}` });
  for (const line of page.lines.slice(0, most)) {
    const quoted = citation !== null && line.number >= citation.first && line.number <= citation.last;
    const text = plain(line.text);
    view.append(
      h("div.page-line", {}, h("span.line-number", { "aria-hidden": "true" }, String(line.number)), quoted ? h("mark", {}, text || " ") : h("span", {}, text || " ")),
    );
  }
  return view;
}

export function sourceLink(page: Page): HTMLElement {
  const address = openable(page.url);
  return address
    ? h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, address)
    : h("span.quiet", {}, decodeURIComponent(page.url.replace(/%(?![0-9a-f]{2})/gi, "%25")));
}

/** Functions, custom tools, MCP's, patches, shells: what is called, with what, and the answer. */
function call(index: number, context: Context): View {
  const { element, title, note, body } = card("call", "call");
  element.open = true;
  return {
    element,
    update: (item) => {
      const content = item.arguments ?? item.input ?? "";
      const commands = item.action?.commands?.join("\n") ?? item.action?.command?.join(" ");
      const patch = item.operation ? (item.operation.diff ?? "") : patchIn(content);
      tell(note, item, index, context, "calling");
      title.replaceChildren(...head(item, patch));
      if (patch !== null) element.querySelector(".icon")!.replaceWith(icon("patch"));
      const shown: HTMLElement[] = [];
      if (patch !== null) shown.push(diffView(patch, item.operation?.path));
      else if (commands) shown.push(codeBlock(commands, "bash", "Commands"));
      else if (content) shown.push(codeBlock(pretty(content), "json", "Arguments"));
      const answer = item.call_id ? context.outputOf(item.call_id) : outputOf(item);
      if (answer !== undefined) {
        const label = item.call_id ? "Answer" : "Output";
        shown.push(h("div.output-label", {}, label), h("pre.block.output", { tabIndex: 0, role: "group", "aria-label": label }, answer || "(empty)"));
      }
      body.replaceChildren(...shown);
    },
  };
}

function head(item: Item, patch: string | null): (string | HTMLElement)[] {
  if (patch !== null) return ["Patch ", h("b", {}, patchSummary(patch, item.operation?.path))];
  if (item.type === "mcp_call") return [h("b", {}, item.name ?? ""), h("span.quiet", {}, ` on ${item.server_label}`)];
  return [h("b.mono", {}, nameOf(item))];
}

export function nameOf(call: Item): string {
  return call.name ?? call.type.replace(/_call$/, "");
}

function outputOf(item: Item): string | undefined {
  const given = item.error ?? item.output;
  if (given === undefined || given === null) return undefined;
  const content = (given as { content?: { text?: string }[] }).content;
  if (Array.isArray(content)) return content.map((part) => part.text ?? "").join("\n");
  return typeof given === "string" ? given : JSON.stringify(given, null, 2);
}

function pretty(content: string): string {
  try {
    return JSON.stringify(JSON.parse(content), null, 2);
  } catch {
    return content; // still being written, or free text
  }
}

/** Where the user answers a call that waits. */
export function answerForm(calls: Item[], send: (outputs: Map<string, string>) => void): HTMLElement {
  const areas = calls.map((each) => {
    const area = h("textarea", { rows: 3, spellcheck: false, placeholder: "What it returns", required: true });
    const label = calls.length > 1 ? `Answer to ${nameOf(each)}, call ${calls.indexOf(each) + 1}` : `Answer to ${nameOf(each)}`;
    return { id: each.call_id!, area, row: h("label", {}, h("span", {}, label), area) };
  });
  const submit = (event: Event) => {
    event.preventDefault();
    send(new Map(areas.map(({ id, area }) => [id, area.value])));
  };
  const form = h(
    "form.answer-form",
    { onsubmit: submit },
    h("p.quiet", {}, "The model has called a function of yours and waits for what it returns."),
    ...areas.map(({ row }) => row),
    h("div.row", {}, h("button.primary", { type: "submit" }, calls.length > 1 ? `Send ${number(calls.length)} answers` : "Send answer")),
  );
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return form;
}
