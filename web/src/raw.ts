// The tokens of an answer, prompts included, in the colours of their channels; with a token's probability where it is known.

import { h, number, seconds } from "./dom";
import { changePage, pageSettings } from "./settings";
import type { RawMessage, RawToken, RawTrace } from "./types";

const KINDS = ["system", "developer", "user", "tool", "analysis", "commentary", "final"];
const FOLDED_FROM = 150; // tokens of a message that the model did not write

export function rawView(trace: RawTrace): Node[] {
  const known = trace.rounds.some((round) => round.messages.some((message) => message.tokens.some((token) => token[2] !== undefined)));
  const tip = new Tip();
  const rounds = trace.rounds.map((round, index) =>
    h(
      "section.round",
      {},
      h(
        "h3",
        {},
        trace.rounds.length > 1 ? `Round ${index + 1}` : "One round",
        h(
          "span.quiet",
          {},
          ` ${number(round.prompt_tokens)} tokens in${round.cached_tokens ? `, ${number(round.cached_tokens)} from the cache` : ""}, ` +
            `${number(round.sampled_tokens)} out` +
            (round.first !== null && round.last !== null ? ` in ${seconds(round.last - round.first)}` : ""),
        ),
      ),
      round.known ? h("p.quiet", {}, `… ${number(round.known)} messages as above …`) : null,
      ...round.messages.map((message) => messageView(message, tip)),
    ),
  );
  const view = h("div.raw", {}, ...rounds, tip.element);
  view.classList.toggle("shaded", known);
  return [legend(known), view];
}

function legend(known: boolean): HTMLElement {
  const box = h("input", {
    type: "checkbox",
    checked: pageSettings().probabilities,
    onchange: () => changePage({ probabilities: box.checked }),
  });
  return h(
    "div.legend",
    {},
    h("div.kinds", {}, ...KINDS.map((kind) => h(`span.kind.${kind}` as "span.kind", {}, kind))),
    h(
      "label.check",
      {},
      box,
      h("span", {}, "Probabilities", h("span.quiet", {}, known ? " point at a token, or move with ← and →" : " are asked for from the next answer on")),
    ),
  );
}

function kindOf(message: RawMessage): string {
  if (message.role === "assistant") return KINDS.includes(message.channel ?? "") ? message.channel! : "final";
  return KINDS.includes(message.role) ? message.role : "tool";
}

function messageView(message: RawMessage, tip: Tip): HTMLElement {
  const kind = kindOf(message);
  const name = message.role === "tool" ? (message.name ?? "tool") : message.role;
  const label = [name, message.channel, message.recipient && `to ${message.recipient}`].filter(Boolean).join(" · ");
  const tokens = message.tokens.map((token) => tokenView(token));
  const count = h("span.quiet", {}, ` ${number(message.tokens.length)}`);
  const body = h("div.raw-tokens", { tabIndex: 0, role: "group", "aria-label": `Tokens of ${label}` }, ...tokens);
  const box = h("details.raw-message", { open: message.sampled || message.tokens.length <= FOLDED_FROM }, h("summary.raw-label", {}, label, count), body);
  box.classList.add(kind);
  if (message.sampled) box.classList.add("sampled");
  for (const repair of message.repairs) box.append(h("p.repair", {}, repair));
  tip.watch(body, tokens, message.tokens);
  return box;
}

function tokenView(token: RawToken): HTMLElement {
  const [text, id, logprob] = token;
  const special = id >= 199_998;
  const shown = special ? text : text.replace(/\n/g, "↵\n");
  const view = h("span.token", {}, shown);
  if (special) view.classList.add("special");
  if (logprob !== undefined) view.classList.add(`p${Math.min(4, Math.floor(-logprob / 0.7))}`); // halves of probability
  return view;
}

/** What is known of the token under the pointer, or at the keyboard's place. */
class Tip {
  readonly element = h("div.tip", { hidden: true, role: "tooltip" });

  watch(box: HTMLElement, views: HTMLElement[], tokens: RawToken[]): void {
    const places = new Map<EventTarget, number>(views.map((view, index) => [view, index]));
    let at = -1;
    const show = (index: number) => {
      views[at]?.classList.remove("here");
      at = index;
      views[at]?.classList.add("here");
      if (views[at]) this.show(views[at]!, tokens[at]!);
      else this.element.hidden = true;
    };
    box.addEventListener("pointerover", (event) => show(places.get(event.target as EventTarget) ?? -1));
    box.addEventListener("pointerleave", () => show(-1));
    box.addEventListener("blur", () => show(-1));
    box.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show(Math.max(0, Math.min(views.length - 1, at + step)));
    });
  }

  private show(view: HTMLElement, [text, id, logprob, top]: RawToken): void {
    const rows = (top ?? []).map(([other, each]) =>
      h("tr", {}, h("td.mono", {}, JSON.stringify(other).slice(1, -1) || "·"), h("td", {}, percent(each)), h("td", {}, h("meter", { value: Math.exp(each), max: 1, "aria-hidden": "true" }))),
    );
    this.element.replaceChildren(
      h("div", {}, h("b.mono", {}, JSON.stringify(text).slice(1, -1)), h("span.quiet", {}, ` ${id}`), logprob === undefined ? null : h("b", {}, ` ${percent(logprob)}`)),
      ...(rows.length ? [h("table", {}, h("tbody", {}, ...rows))] : []),
    );
    this.element.hidden = false;
    const place = view.getBoundingClientRect();
    const own = this.element.getBoundingClientRect();
    const below = place.bottom + own.height + 8 < window.innerHeight;
    this.element.style.left = `${Math.max(8, Math.min(place.left, window.innerWidth - own.width - 8))}px`;
    this.element.style.top = `${below ? place.bottom + 6 : place.top - own.height - 6}px`;
  }
}

function percent(logprob: number): string {
  const value = 100 * Math.exp(logprob);
  return value >= 99.995 ? "100 %" : value >= 0.1 ? `${value.toFixed(value >= 10 ? 1 : 2)} %` : "< 0.1 %";
}
