// The panel at the side, in which sources, tokens and settings are shown; over the whole page on a phone.

import { h, iconButton } from "./dom";

export class Panel {
  readonly element: HTMLElement;
  private readonly title = h("h2", { tabIndex: -1 });
  private readonly body = h("div.panel-body");
  private opener: Element | null = null;
  private onClose: () => void = () => undefined;

  constructor() {
    const close = iconButton("close", "Close", () => this.close());
    this.element = h("aside.panel", { hidden: true, "aria-label": "Details" }, h("header", {}, this.title, close), this.body);
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.close();
    });
  }

  get isOpen(): boolean {
    return !this.element.hidden;
  }

  /** onClose: called once, also when something else is shown instead. */
  open(title: string, content: Node[], onClose: () => void = () => undefined, wide = false): void {
    if (!this.isOpen) this.opener = document.activeElement;
    this.onClose();
    this.onClose = onClose;
    this.title.textContent = title;
    this.element.setAttribute("aria-label", title);
    this.element.classList.toggle("wide", wide);
    this.body.replaceChildren(...content);
    this.body.scrollTop = 0;
    this.element.hidden = false;
    document.body.classList.add("with-panel");
    this.title.focus();
  }

  close(): void {
    if (!this.isOpen) return;
    this.onClose();
    this.onClose = () => undefined;
    this.element.hidden = true;
    document.body.classList.remove("with-panel");
    this.body.replaceChildren();
    if (this.opener instanceof HTMLElement && this.opener.isConnected) this.opener.focus();
    this.opener = null;
  }
}
