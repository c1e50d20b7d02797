// The page: what is where, what the address says, and which keys do what.

import { ApiError, api, onKeyNeeded, setKey } from "./api";
import { pageView, sourceLink } from "./cards";
import { Chat, type Listener } from "./chat";
import { Composer } from "./composer";
import { announce, h, icon, iconButton } from "./dom";
import { Panel } from "./panel";
import { rawView } from "./raw";
import { applyTheme } from "./settings";
import { settingsView } from "./settingsview";
import { Sidebar, keyDialog } from "./sidebar";
import "./style.css";
import { Conversation, type Doings } from "./turns";
import type { Server, Turn } from "./types";

const NEAR_END = 80; // pixels from the end, within which the page follows what is written
const DEMO = "This is the demo model, a toy with four tiny layers: it calculates, looks things up in a few pages and calls functions. It knows nothing else.";

class Page {
  private chat!: Chat;
  private conversation!: Conversation;
  private readonly panel = new Panel();
  private readonly composer: Composer;
  private readonly sidebar: Sidebar;
  private readonly scroller = h("div.scroller", { tabIndex: -1 });
  private readonly title = h("input.title", { "aria-label": "Title of the conversation", spellcheck: false });
  private readonly heading = h("h1.visually-hidden");
  private readonly notice = h("div.notice", { role: "alert", hidden: true });
  private readonly connection = h("div.connection", { role: "status", hidden: true }, "The connection is lost. Trying again…");
  private readonly welcome: HTMLElement;
  private readonly others = new BroadcastChannel("gpt-oss");
  private readonly menu: HTMLButtonElement;
  private following = true;

  constructor(private readonly server: Server) {
    const settings = h("button.foot-button", { type: "button", onclick: () => this.openSettings() }, icon("settings"), "Settings");
    this.sidebar = new Sidebar((id) => this.deleted(id), h("div.sidebar-foot", {}, settings, h("span.quiet", { title: server.backend }, server.model.id)));
    this.composer = new Composer(() => this.chat, server, () => this.editLast());
    this.welcome = this.makeWelcome();
    this.menu = iconButton("menu", "Conversations", () => this.showSidebar(!document.body.classList.contains("with-sidebar")));
    this.menu.classList.add("menu");
    set(this.menu, false);
    this.title.addEventListener("change", () => void this.chat.rename(this.title.value).then(() => this.sidebar.refresh()));
    this.title.addEventListener("keydown", (event) => event.key === "Enter" && this.title.blur());
    const shade = h("div.shade", { onclick: () => this.showSidebar(false) });
    document.body.append(
      h("a.skip", { href: "#question", onclick: (event: Event) => (event.preventDefault(), this.composer.focus()) }, "To the question"),
      this.sidebar.element,
      shade,
      h(
        "main",
        {},
        h(server.stores ? "header.top" : "header.top.alone", {}, this.menu, this.heading, this.title, h("span.spring"), iconButton("settings", "Settings", () => this.openSettings())),
        this.scroller,
        h("div.dock", {}, this.connection, this.notice, this.composer.element),
      ),
      this.panel.element,
    );
    if (!server.stores) this.sidebar.element.remove();
    if (!server.stores) this.menu.remove();
    this.scroller.addEventListener("scroll", () => (this.following = this.distance() < NEAR_END), { passive: true });
    this.others.addEventListener("message", (event) => this.heard(event.data));
    window.addEventListener("hashchange", () => void this.route());
    window.addEventListener("online", () => void this.chat.refresh().catch(() => undefined));
    document.addEventListener("keydown", (event) => this.key(event));
    setInterval(() => this.tick(), 250);
    void this.sidebarRefresh();
    void this.route();
  }

  // ---- the address --------------------------------------------------------------------------------------------------

  /** #/ is a new conversation, #/c/ID one that is kept, #/c/ID/RESPONSE a branch of it. */
  private async route(): Promise<void> {
    const [, kind, id, at] = location.hash.split("/");
    const wanted = kind === "c" && id ? id : null;
    if (this.chat && wanted !== null && wanted === this.chat.id && !at) return; // it has come into being here
    this.chat?.leave();
    this.panel.close();
    this.showSidebar(false);
    this.tell("");
    this.connection.hidden = true;
    const chat: Chat = new Chat(
      this.server,
      this.listener(() => this.chat === chat),
    );
    this.chat = chat;
    this.conversation = new Conversation(chat, this.doings);
    this.scroller.replaceChildren(this.welcome);
    this.following = true;
    this.sidebar.choose(wanted);
    this.showState();
    if (wanted) {
      this.scroller.replaceChildren(this.conversation.element);
      try {
        await chat.open(wanted, at ?? null);
      } catch (error) {
        if (this.chat !== chat) return;
        this.tell((error as Error).message);
        this.scroller.replaceChildren(this.welcome);
      }
    }
    if (window.matchMedia("(pointer: fine)").matches) this.composer.focus();
  }

  /** shown: whether the conversation that tells is still the one on the page. */
  private listener(shown: () => boolean): Listener {
    const mine = () => this.conversation;
    return {
      path: () => {
        if (!shown()) return;
        const { id, head, tree } = this.chat;
        // The branch that was used last needs no name.
        const at = head && head !== tree.latest?.response.id ? `/${head}` : "";
        if (id && location.hash !== `#/c/${id}${at}`) history.replaceState(null, "", `#/c/${id}${at}`);
        if (!this.conversation.element.isConnected) this.scroller.replaceChildren(this.conversation.element);
        mine().showPath();
        this.following = true;
        this.follow();
      },
      turn: (turn, item) => {
        if (!shown()) return;
        mine().change(turn, item);
        requestAnimationFrame(() => this.follow());
      },
      state: () => shown() && this.showState(),
      created: (id) => {
        if (shown()) history.replaceState(null, "", `#/c/${id}`);
        if (shown()) this.sidebar.choose(id);
        void this.sidebarRefresh();
        this.others.postMessage({ conversation: id });
      },
      failed: (message) => shown() && this.tell(message),
      connection: (lost) => shown() && (this.connection.hidden = !lost),
    };
  }

  private wasLive: Turn | null = null;

  private showState(): void {
    const { chat } = this;
    const live = chat.live?.turn ?? null;
    if (live !== this.wasLive) {
      if (this.wasLive && !live && this.chat.path.includes(this.wasLive)) this.conversation.announceEnd(this.wasLive);
      if (live) {
        this.tell("");
        announce("The model is answering.");
      }
      this.wasLive = live;
      this.conversation.state();
      if (chat.id) {
        this.others.postMessage({ conversation: chat.id });
        void this.sidebarRefresh();
      }
      requestAnimationFrame(() => this.follow());
    }
    this.title.value = chat.title;
    this.title.hidden = !chat.id;
    this.heading.textContent = chat.title || "New conversation";
    document.title = chat.title ? `${chat.title} · gpt-oss` : "gpt-oss";
    this.composer.update();
  }

  private tick(): void {
    if (!this.chat?.live) return;
    this.conversation.tick();
    this.composer.measure();
  }

  /** Another tab has changed something. */
  private heard(message: { conversation?: string; deleted?: string }): void {
    void this.sidebarRefresh();
    if (message.deleted && message.deleted === this.chat.id) location.hash = "#/";
    if (message.conversation && message.conversation === this.chat.id) void this.chat.refresh().catch(() => undefined);
  }

  private deleted(id: string): void {
    this.others.postMessage({ deleted: id });
    if (id === this.chat.id) location.hash = "#/";
  }

  private async sidebarRefresh(): Promise<void> {
    if (this.server.stores) await this.sidebar.refresh().catch(() => undefined); // the list as it was is better than none
  }

  // ---- what is shown ------------------------------------------------------------------------------------------------

  private makeWelcome(): HTMLElement {
    const { tools, model } = this.server;
    const questions = [
      tools.code_interpreter && "What is 4821 * 377?",
      tools.web_search && "How high is Mount Everest?",
      model.id === "demo" ? "Who are you?" : "Explain attention sinks in two sentences.",
      model.id === "demo" ? null : "Write a haiku about a small computer.",
    ].filter((each): each is string => Boolean(each));
    const ask = (question: string) =>
      h("button.suggestion", { type: "button", onclick: () => void this.composer.ask(question) }, question);
    return h(
      "div.welcome",
      {},
      h("h2", {}, "What can I do for you?"),
      h("div.suggestions", {}, ...questions.slice(0, 4).map(ask)),
      model.id === "demo" ? h("p.quiet", {}, DEMO) : null,
      this.server.stores ? null : h("p.quiet", {}, "This server keeps nothing: the conversation ends with this tab."),
    );
  }

  private readonly doings: Doings = {
    openSource: (page, citation) => {
      const quoted = citation
        ? citation.first === citation.last
          ? `Line ${citation.first} is quoted.`
          : `Lines ${citation.first} to ${citation.last} are quoted.`
        : null;
      const lines = pageView(page, citation);
      this.panel.open(page.title, [h("p.source", {}, page.url ? sourceLink(page) : "Results of a search"), ...(quoted ? [h("p.quiet", {}, quoted)] : []), lines]);
      lines.querySelector("mark")?.scrollIntoView({ block: "center" });
    },
    openRaw: (turn) => {
      api.trace(turn.response.id).then(
        (trace) => this.panel.open("Tokens", rawView(trace), undefined, true),
        (error: Error) => this.tell(error.message),
      );
    },
    branch: (turn) => {
      this.chat.branch(turn).then(
        async (id) => {
          location.hash = `#/c/${id}`;
          await this.sidebarRefresh();
          announce("A new conversation, which begins like the one before");
        },
        (error: Error) => this.tell(error.message),
      );
    },
  };

  private openSettings(): void {
    const { content, close } = settingsView(this.chat, this.server);
    this.showSidebar(false);
    this.panel.open("Settings", content, close);
  }

  private showSidebar(open: boolean): void {
    document.body.classList.toggle("with-sidebar", open);
    set(this.menu, open);
  }

  private tell(message: string): void {
    this.notice.hidden = message === "";
    this.notice.replaceChildren(h("span", {}, message), iconButton("close", "Dismiss", () => this.tell("")));
  }

  private distance(): number {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
  }

  private follow(): void {
    if (this.following) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  private editLast(): void {
    const buttons = this.conversation.element.querySelectorAll<HTMLButtonElement>('button[aria-label="Edit question"]');
    [...buttons].at(-1)?.click();
  }

  private key(event: KeyboardEvent): void {
    const typing = event.target instanceof HTMLElement && /^(INPUT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape") {
      if (document.body.classList.contains("with-sidebar")) this.showSidebar(false);
      else if (this.panel.isOpen) this.panel.close();
      else void this.chat.stop();
    } else if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      this.composer.focus();
    } else if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      location.hash = "#/";
    }
  }
}

function set(menu: HTMLButtonElement, open: boolean): void {
  menu.setAttribute("aria-expanded", String(open));
  menu.setAttribute("aria-controls", "conversations");
}

async function start(): Promise<void> {
  applyTheme();
  onKeyNeeded((wrong) => keyDialog(wrong, setKey));
  try {
    const server = await api.server();
    new Page(server);
  } catch (error) {
    const reason = error instanceof ApiError ? error.message : "The server cannot be reached. Is it still running?";
    document.body.append(h("main.broken", {}, h("h1", {}, "gpt-oss"), h("p", { role: "alert" }, reason), h("button", { type: "button", onclick: () => location.reload() }, "Try again")));
  }
}

void start();
