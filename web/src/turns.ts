// The conversation as it is shown: a question and its answer after the other.

import { answerForm, nameOf, viewOf, type Context, type View } from "./cards";
import type { Chat } from "./chat";
import { announce, copyButton, h, iconButton, number, seconds } from "./dom";
import { openCalls, textOf } from "./fold";
import { Markdown } from "./markdown";
import { pagesOf, type Page } from "./pages";
import type { Item, Turn } from "./types";

export interface Doings {
  openSource: Context["openSource"];
  openRaw: (turn: Turn) => void;
  branch: (turn: Turn) => void;
}

const REASONS: Record<string, string> = {
  max_output_tokens: "The answer was cut off: it has reached its longest length or the context is full.",
  max_messages: "The answer was ended: it has reached its limit of calls or time.",
};

/** A row of versions: ‹ 2 / 3 › */
function pager(what: string, versions: Turn[], own: Turn, show: (turn: Turn) => void): HTMLElement | null {
  if (versions.length < 2) return null;
  const at = versions.indexOf(own);
  const step = (name: string, label: string, to: number) => {
    const button = iconButton(name, label, () => show(versions[to]!));
    button.disabled = !versions[to];
    return button;
  };
  return h(
    "span.pager",
    { role: "group", "aria-label": `Versions of this ${what}` },
    step("left", `Previous ${what}`, at - 1),
    h("span", {}, `${at + 1} / ${versions.length}`),
    step("right", `Next ${what}`, at + 1),
  );
}

export class TurnView {
  readonly element = h("div.turn");
  private readonly question = h("div.question-place");
  private readonly items = h("div.items");
  private readonly wait = h("div.wait", { "aria-hidden": "true" }, h("i"), h("i"), h("i"));
  private readonly foot = h("div.foot");
  private readonly views: { view: View | null; type: string; shown: Item | null; state: string }[] = [];
  private editing = false;

  constructor(
    private readonly chat: Chat,
    readonly turn: Turn,
    private readonly doings: Doings,
  ) {
    this.element.append(
      this.question,
      h("article.answer", { "aria-label": "Answer" }, this.items, this.wait, this.foot),
    );
    this.element.classList.toggle("continued", !this.asked);
    this.update(null);
  }

  private get asked(): boolean {
    return this.turn.input.some((item) => item.type === "message" && item.role === "user");
  }

  private get live(): boolean {
    return this.chat.live?.turn === this.turn;
  }

  /** Show what has changed: an item, or with null everything. */
  update(index: number | null): void {
    const { output } = this.turn.response;
    if (index === null) {
      for (const old of this.views.splice(output.length)) old.view?.element.remove();
      output.forEach((_, each) => this.showItem(each));
      this.showQuestion();
    } else {
      for (let each = Math.max(0, index - 1); each <= index; each++) this.showItem(each);
    }
    if (index === null || !this.live) this.showFoot();
    this.wait.hidden = !this.live || (output.length > 0 && this.active(output.length - 1));
  }

  /** What goes on by itself: how long it has been thinking. */
  tick(): void {
    const last = this.turn.response.output.length - 1;
    if (last >= 0 && this.turn.response.output[last]!.type === "reasoning") this.showItem(last);
  }

  private active(index: number): boolean {
    const item = this.turn.response.output[index]!;
    return this.live && !["completed", "failed", "incomplete"].includes(item.status ?? "completed");
  }

  private showItem(index: number): void {
    const item = this.turn.response.output[index];
    if (!item) return;
    let known = this.views[index];
    if (!known || known.type !== item.type) {
      known?.view?.element.remove();
      known = { view: viewOf(item, index, this.context), type: item.type, shown: null, state: "" };
      this.views[index] = known;
      if (known.view) {
        const next = this.views.slice(index + 1).find((each) => each?.view)?.view;
        this.items.insertBefore(known.view.element, next?.element ?? null);
      }
    }
    const answer = item.call_id ? this.outputOf(item.call_id) : "";
    const state = JSON.stringify([item, this.active(index), this.duration(index), answer]);
    if (state === known.state) return;
    known.state = state;
    known.view?.update(item);
  }

  private readonly context: Context = {
    duration: (index) => this.duration(index),
    active: (index) => this.active(index),
    pages: () => this.pages(),
    outputOf: (callId) => this.outputOf(callId),
    openSource: (page, citation) => this.doings.openSource(page, citation),
  };

  private pages(): Map<number, Page> {
    return pagesOf(this.turn.response);
  }

  private outputOf(callId: string): string | undefined {
    for (const turn of this.chat.path) {
      const output = turn.input.find((item) => item.call_id === callId && item.output !== undefined)?.output;
      if (output !== undefined) return typeof output === "string" ? output : JSON.stringify(output);
    }
    return undefined;
  }

  /** The server's own figures where they are there: the n-th item of a kind is the n-th span of it. */
  private duration(index: number): number | null {
    const item = this.turn.response.output[index]!;
    const seen = this.live ? this.chat.live!.items.get(index) : undefined;
    if (seen) return (seen.to ?? (performance.now() - this.chat.live!.began) / 1000) - seen.from;
    const spans = this.turn.timing?.spans;
    if (!spans) return null;
    const kind = item.type === "reasoning" ? "reasoning" : item.type === "message" ? "message" : "tool";
    const kindOf = (type: string) => (type === "reasoning" || type === "message" ? type : isHosted(type) ? "tool" : "other");
    if (kindOf(item.type) !== kind) return null;
    const nth = this.turn.response.output.slice(0, index).filter((each) => kindOf(each.type) === kind).length;
    const span = spans.filter((each) => each.kind === kind)[nth];
    return span && span.to !== null ? span.to - span.from : null;
  }

  private showQuestion(): void {
    if (this.editing) return;
    const texts = this.turn.input.filter((item) => item.type === "message" && textOf(item));
    this.question.replaceChildren(...texts.map((item) => this.bubble(item, item === texts.at(-1))));
  }

  private bubble(item: Item, last: boolean): HTMLElement {
    const text = textOf(item);
    const mine = item.role === "user";
    const shown = mine ? h("div.question", {}, text) : said(text);
    const bubble = h("article.bubble", { "aria-label": mine ? "Question" : "Earlier answer" }, shown);
    if (!mine) bubble.classList.add("earlier");
    if (mine && last) {
      const edit = iconButton("edit", "Edit question", () => this.edit(text));
      edit.disabled = this.chat.live !== null;
      const versions = this.chat.tree.get(this.turn.response.id) ? this.chat.tree.versions(this.turn).questions : [];
      const pages = pager("question", versions, this.turn, (turn) => this.chat.show(turn));
      bubble.append(h("div.tools", {}, pages, copyButton(() => text, "Copy question"), edit));
      if (pages) bubble.classList.add("has-versions");
    }
    return bubble;
  }

  private edit(text: string): void {
    this.editing = true;
    const area = h("textarea", { value: text, rows: Math.min(12, text.split("\n").length + 1), "aria-label": "Question" });
    const done = () => {
      this.editing = false;
      this.showQuestion();
    };
    const send = async () => {
      const changed = area.value.trim();
      done();
      if (changed) await this.chat.edit(this.turn, changed).catch(() => undefined);
    };
    const form = h(
      "form.edit",
      {
        onsubmit: (event: Event) => {
          event.preventDefault();
          void send();
        },
      },
      area,
      h("div.row", {}, h("button", { type: "button", onclick: done }, "Cancel"), h("button.primary", { type: "submit" }, "Ask anew")),
    );
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        done();
      }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        void send();
      }
    });
    this.question.replaceChildren(form);
    area.focus();
  }

  private showFoot(): void {
    this.foot.replaceChildren();
    const { response, timing } = this.turn;
    if (this.live || !response.id) return;
    const problem =
      response.error?.message ??
      (response.status === "cancelled" ? "You have stopped this answer." : REASONS[response.incomplete_details?.reason ?? ""]);
    if (problem) this.foot.append(h("p.problem", {}, problem));
    const calls = openCalls(response);
    const isLast = this.chat.last === this.turn;
    if (calls.length && isLast && response.status === "completed") {
      this.foot.append(answerForm(calls, (outputs) => void this.chat.answer(outputs).catch(() => undefined)));
    }
    const text = response.output.filter((item) => item.type === "message").map(textOf).join("\n\n");
    const figures = [
      timing?.tokens_per_second && `${number(Math.round(timing.tokens_per_second * 10) / 10)} tokens/s`,
      timing && `${number(timing.output_tokens)} tokens`,
      timing?.first_token_s && timing.first_token_s >= 0.05 && `first after ${seconds(timing.first_token_s)}`,
    ].filter(Boolean);
    const busy = this.chat.live !== null;
    const retry = iconButton("retry", "Try again", () => void this.chat.retry(this.turn).catch(() => undefined));
    retry.disabled = busy;
    this.foot.append(
      h(
        "div.tools",
        {},
        pager("answer", this.chat.tree.versions(this.turn).answers, this.turn, (turn) => this.chat.show(turn)),
        text ? copyButton(() => text, "Copy answer") : null,
        retry,
        timing?.spans && this.turn.timing && this.chat.id ? iconButton("branch", "Branch into a new conversation", () => this.doings.branch(this.turn)) : null,
        this.chat.id ? iconButton("raw", "Show the tokens", () => this.doings.openRaw(this.turn)) : null,
        h("span.figures", {}, figures.join(" · ")),
      ),
    );
  }
}

function said(text: string): HTMLElement {
  const markdown = new Markdown();
  markdown.update(text);
  return markdown.element;
}

function isHosted(type: string): boolean {
  return ["code_interpreter_call", "web_search_call", "mcp_call"].includes(type);
}

/** All the turns of the branch that is shown. */
export class Conversation {
  readonly element = h("section.turns", { "aria-label": "Conversation" });
  private views: TurnView[] = [];
  private waiting = new Map<Turn, Set<number | null>>();
  private frame = 0;

  constructor(
    private readonly chat: Chat,
    private readonly doings: Doings,
  ) {}

  showPath(): void {
    const path = this.chat.path;
    const known = new Map(this.views.map((view) => [view.turn, view]));
    this.views = path.map((turn) => known.get(turn) ?? new TurnView(this.chat, turn, this.doings));
    this.element.replaceChildren(...this.earlier(), ...this.views.map((view) => view.element));
    for (const view of this.views) if (known.has(view.turn)) view.update(null);
  }

  /** What other clients have said in it. */
  private earlier(): HTMLElement[] {
    if (this.chat.path.length) return [];
    return this.chat.earlier
      .filter((item) => item.type === "message")
      .map((item) =>
        item.role === "user" ? h("article.bubble", { "aria-label": "Question" }, h("div.question", {}, textOf(item))) : h("article.answer", { "aria-label": "Answer" }, said(textOf(item))),
      );
  }

  /** Changes are shown once a frame, however many tokens come in it. */
  change(turn: Turn, item: number | null): void {
    const items = this.waiting.get(turn) ?? new Set();
    this.waiting.set(turn, items.add(item));
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  private draw(): void {
    this.frame = 0;
    const changed = this.waiting;
    this.waiting = new Map();
    for (const [turn, items] of changed) {
      const view = this.views.find((each) => each.turn === turn);
      if (!view) continue;
      if (items.has(null)) view.update(null);
      else for (const item of items) view.update(item);
    }
  }

  /** Buttons that depend on whether something is under way. */
  state(): void {
    for (const view of this.views) view.update(null);
  }

  tick(): void {
    this.views.at(-1)?.tick();
  }

  announceEnd(turn: Turn): void {
    const text = turn.response.output.filter((item) => item.type === "message").map(textOf).join(" ");
    const calls = openCalls(turn.response);
    announce(calls.length ? `The model calls ${calls.map(nameOf).join(", ")}.` : `Answer: ${text.slice(0, 500)}`);
  }
}
