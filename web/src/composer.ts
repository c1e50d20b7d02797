// Where a question is written: the field, effort and tools, how full the context is, and the button that sends or stops.

import type { Chat } from "./chat";
import { h, icon, number, set } from "./dom";
import type { Effort, Server, Settings } from "./types";

const EFFORTS: Effort[] = ["low", "medium", "high"];

export class Composer {
  readonly element: HTMLFormElement;
  private readonly field = h("textarea", { rows: 1, placeholder: "Ask anything", "aria-label": "Question", id: "question" });
  private readonly button = h("button.send", { type: "submit" });
  private readonly effort: HTMLSelectElement;
  private readonly tools: { name: "code_interpreter" | "web_search"; button: HTMLButtonElement }[];
  private readonly meter = h("span.meter", { role: "meter", "aria-label": "Context in use", "aria-valuemin": 0 }, h("i"));
  private readonly figures = h("span.meter-text", { "aria-hidden": "true" });

  constructor(
    private readonly chat: () => Chat,
    private readonly server: Server,
    editLast: () => void,
  ) {
    this.effort = h(
      "select",
      { "aria-label": "Reasoning effort", title: "How long the model thinks before it answers" },
      ...EFFORTS.map((each) => h("option", { value: each }, `Effort: ${each}`)),
    );
    this.effort.addEventListener("change", () => void this.change({ effort: this.effort.value as Effort }));
    this.tools = [
      this.tool("code_interpreter", "python", "Python", "Let the model run programs, in a sandbox of the server's"),
      this.tool("web_search", "web", "Web", "Let the model search and read pages"),
    ].flatMap((each) => each ?? []);
    this.element = h(
      "form.composer",
      {
        onsubmit: (event: Event) => {
          event.preventDefault();
          if (this.chat().live) void this.chat().stop();
          else void this.send();
        },
      },
      this.field,
      h("div.controls", {}, this.effort, ...this.tools.map(({ button }) => button), h("span.spring"), this.figures, this.meter, this.button),
    );
    this.field.addEventListener("input", () => this.fit());
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        if (!this.chat().live) void this.send();
      }
      if (event.key === "ArrowUp" && !this.field.value) {
        event.preventDefault();
        editLast();
      }
    });
  }

  focus(): void {
    this.field.focus();
  }

  /** Put a question in and send it. */
  async ask(text: string): Promise<void> {
    this.field.value = text;
    await this.send();
  }

  private tool(name: "code_interpreter" | "web_search", symbol: string, label: string, title: string) {
    if (!this.server.tools[name]) return null;
    const button = h("button.toggle", { type: "button", title }, icon(symbol), h("span", {}, label));
    button.addEventListener("click", () => void this.change({ [name]: !this.chat().settings[name] }));
    return { name, button };
  }

  private async change(change: Partial<Settings>): Promise<void> {
    await this.chat().change(change).catch(() => undefined); // it is in force; keeping it is tried again with the next
  }

  private async send(): Promise<void> {
    const text = this.field.value.trim();
    if (!text || this.chat().live) return;
    this.field.value = "";
    this.fit();
    try {
      await this.chat().send(text);
    } catch {
      if (!this.field.value) this.field.value = text; // it has not arrived
      this.fit();
    }
  }

  private fit(): void {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, window.innerHeight * 0.4)}px`;
    this.update();
  }

  update(): void {
    const chat = this.chat();
    this.effort.value = chat.settings.effort;
    for (const { name, button } of this.tools) button.setAttribute("aria-pressed", String(chat.settings[name]));
    const label = chat.live ? "Stop" : "Send";
    if (this.button.title !== label) {
      this.button.replaceChildren(icon(chat.live ? "stop" : "send"));
      set(this.button, { title: label, "aria-label": label });
    }
    this.button.disabled = !chat.live && !this.field.value.trim();
    this.measure();
  }

  /** Tokens in the context, and tokens a second of the answer under way. */
  measure(): void {
    const chat = this.chat();
    const used = chat.contextTokens;
    const all = this.server.context_tokens;
    const share = Math.min(1, used / all);
    const rate = chat.live?.rate;
    this.figures.textContent = rate ? `${number(Math.round(rate))} tokens/s` : used ? `${number(used)} / ${number(all)}` : "";
    const text = `${number(used)} of ${number(all)} tokens of context`;
    set(this.meter, { title: text, "aria-valuenow": used, "aria-valuemax": all, "aria-valuetext": text });
    this.meter.classList.toggle("full", share > 0.85);
    this.meter.style.setProperty("--share", String(Math.max(share, used ? 0.02 : 0)));
    this.meter.hidden = used === 0;
  }
}
