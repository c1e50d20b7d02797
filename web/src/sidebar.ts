// The list of conversations, the ones used last at the top.

import { api } from "./api";
import { h, icon, iconButton } from "./dom";
import type { Conversation } from "./types";

const FILTER_FROM = 8; // conversations, from which on a field to search in them helps

export class Sidebar {
  readonly element: HTMLElement;
  private readonly list = h("ul.conversations");
  private readonly filter = h("input", { type: "search", placeholder: "Search", "aria-label": "Search conversations" });
  private conversations: Conversation[] = [];
  private current: string | null = null;

  constructor(
    private readonly onDelete: (id: string) => void,
    footer: HTMLElement,
  ) {
    this.filter.addEventListener("input", () => this.show());
    this.element = h(
      "nav.sidebar",
      { "aria-label": "Conversations", id: "conversations" },
      h("a.new", { href: "#/", title: "New conversation (Ctrl Shift O)" }, icon("plus"), "New conversation"),
      this.filter,
      this.list,
      footer,
    );
  }

  async refresh(): Promise<void> {
    this.conversations = await api.conversations();
    this.show();
  }

  choose(id: string | null): void {
    this.current = id;
    this.show();
  }

  private show(): void {
    this.filter.hidden = this.conversations.length < FILTER_FROM;
    const wanted = this.filter.value.trim().toLowerCase();
    const found = this.conversations.filter((each) => titleOf(each).toLowerCase().includes(wanted));
    this.list.replaceChildren(...found.map((each) => this.row(each)));
    if (!found.length && this.conversations.length) this.list.append(h("li.quiet.none", {}, "No conversation has that in its title."));
  }

  private row(conversation: Conversation): HTMLElement {
    const title = titleOf(conversation);
    const link = h("a", { href: `#/c/${conversation.id}`, title }, title);
    if (conversation.id === this.current) link.setAttribute("aria-current", "page");
    const remove = iconButton("trash", `Delete ${title}`, () => this.remove(conversation));
    return h("li", {}, link, remove);
  }

  private async remove(conversation: Conversation): Promise<void> {
    if (!(await confirmed(`Delete “${titleOf(conversation)}”?`, "It is deleted from the server for good.", "Delete"))) return;
    await api.deleteConversation(conversation.id);
    this.conversations = this.conversations.filter((each) => each !== conversation);
    this.show();
    this.onDelete(conversation.id);
  }
}

export function titleOf(conversation: Conversation): string {
  return conversation.metadata["title"] || `Untitled, ${new Date(conversation.created_at * 1000).toLocaleDateString()}`;
}

/** A question that is answered by yes or no. */
export function confirmed(question: string, more: string, yes: string): Promise<boolean> {
  const dialog = h(
    "dialog",
    { "aria-label": question },
    h(
      "form",
      { method: "dialog" },
      h("h2", {}, question),
      h("p", {}, more),
      h("div.row", {}, h("button", { value: "" }, "Cancel"), h("button.primary.danger", { value: "yes" }, yes)),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

/** Ask for the key of the server. */
export function keyDialog(wrong: boolean, keep: (key: string, remember: boolean) => void): Promise<void> {
  const field = h("input", { type: "password", required: true, autocomplete: "current-password", id: "key" });
  const remember = h("input", { type: "checkbox" });
  const dialog = h(
    "dialog.key-dialog",
    { "aria-labelledby": "key-title" },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "key-title" }, "This server asks for a key"),
      wrong ? h("p.problem", { role: "alert" }, "That key is not known here.") : null,
      h("label.field", {}, h("span.field-name", {}, "API key"), field),
      h("label.check", {}, remember, "Remember it in this browser"),
      h("div.row", {}, h("button.primary", { value: "yes" }, "Continue")),
    ),
  );
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      keep(field.value.trim(), remember.checked);
      dialog.remove();
      resolve();
    });
  });
}
