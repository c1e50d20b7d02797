// One conversation: its tree of turns, what is under way in it, and everything that can be done to it. It tells its
// listeners what has changed, and knows nothing of how it is shown.

import { ApiError, api, follow } from "./api";
import { fold, openCalls, outputType, textOf } from "./fold";
import { pageSettings, readSettings, newSettings, rememberSettings, requestOf, userMessage } from "./settings";
import { Tree } from "./tree";
import type { Answer, Conversation, Item, Server, Settings, StreamEvent, Turn } from "./types";

const LONGEST_TITLE = 60;
const RATE_WINDOW_MS = 3000;

export interface Listener {
  /** Turns have come or gone, or another branch is shown. */
  path: () => void;
  /** An item of a turn has changed, or with null the turn itself. */
  turn: (turn: Turn, item: number | null) => void;
  /** Title, settings, or what is under way. */
  state: () => unknown;
  /** The conversation is now kept on the server. */
  created: (id: string) => void;
  failed: (message: string) => unknown;
  connection: (lost: boolean) => unknown;
}

/** A turn under way, as this page sees it. */
export class Live {
  readonly began = performance.now();
  readonly stop = new AbortController();
  tokens = 0;
  /** The user wants no more of it. */
  stopping = false;
  private arrivals: number[] = [];
  /** When each item began and ended, in seconds since `began`. */
  readonly items = new Map<number, { from: number; to: number | null }>();

  constructor(
    readonly turn: Turn,
    readonly previous: string | null,
  ) {}

  see(event: StreamEvent): void {
    const now = performance.now();
    if (event.type.endsWith(".delta")) {
      this.tokens += 1;
      this.arrivals.push(now);
    }
    const index = event.output_index;
    if (index === undefined) return;
    if (event.type === "response.output_item.added") this.items.set(index, { from: (now - this.began) / 1000, to: null });
    const item = this.items.get(index);
    if (event.type === "response.output_item.done" && item) item.to = (now - this.began) / 1000;
  }

  /** Tokens a second just now. */
  get rate(): number | null {
    const now = performance.now();
    while (this.arrivals[0] !== undefined && this.arrivals[0] < now - RATE_WINDOW_MS) this.arrivals.shift();
    const first = this.arrivals[0];
    return first === undefined || this.arrivals.length < 3 ? null : (1000 * this.arrivals.length) / Math.max(now - first, 1);
  }
}

export class Chat {
  readonly tree = new Tree();
  title = "";
  settings: Settings = newSettings();
  head: string | null = null;
  live: Live | null = null;
  id: string | null = null;
  /** Items of a conversation that other clients have written; it goes on from them. */
  earlier: Item[] = [];
  private kept: Record<string, string> = {}; // metadata that is not ours

  constructor(
    private readonly server: Server,
    private readonly on: Listener,
  ) {}

  /** Read a conversation from the server, and follow what is under way in it. at: the turn whose branch to show. */
  async open(id: string, at: string | null): Promise<void> {
    const { conversation, data } = await api.turns(id);
    this.take(conversation);
    for (const turn of data) this.tree.add(turn);
    if (data.length === 0) this.earlier = await api.items(id);
    this.head = at && this.tree.get(at) ? this.tree.leafOf(at) : (this.tree.latest?.response.id ?? null);
    this.on.path();
    this.on.state();
    this.join();
  }

  /** What another tab has added meanwhile. */
  async refresh(): Promise<void> {
    if (!this.id || this.live) return;
    const { conversation, data } = await api.turns(this.id);
    if (this.live) return;
    this.take(conversation);
    const fresh = data.filter((turn) => !this.tree.get(turn.response.id));
    for (const turn of fresh) this.tree.add(turn);
    const last = fresh.at(-1);
    if (last && last.response.previous_response_id === this.head) {
      this.head = last.response.id;
      this.on.path();
      this.join();
    }
    this.on.state();
  }

  private take(conversation: Conversation): void {
    this.id = conversation.id;
    this.kept = conversation.metadata;
    this.title = conversation.metadata["title"] ?? "";
    if (conversation.metadata["settings"]) this.settings = readSettings(conversation.metadata["settings"]);
  }

  /** The turns that are shown, one that the server has not acknowledged yet at the end. */
  get path(): Turn[] {
    const live = this.live;
    if (live && !this.tree.get(live.turn.response.id)) return [...this.tree.pathTo(live.previous), live.turn];
    return this.tree.pathTo(this.head);
  }

  get last(): Turn | undefined {
    return this.head ? this.tree.get(this.head) : undefined;
  }

  /** Calls at the end that wait for the user's answer. */
  get waiting(): Item[] {
    const last = this.last;
    return last && last.response.status === "completed" ? openCalls(last.response) : [];
  }

  /** Tokens that the next question finds in the context. */
  get contextTokens(): number {
    const path = this.path;
    const now = this.live ? this.live.tokens : 0;
    for (const turn of path.reverse()) {
      if (turn.timing) return turn.timing.context_tokens + now;
      if (turn.response.usage && !this.live) return turn.response.usage.total_tokens;
    }
    return now;
  }

  async change(change: Partial<Settings>): Promise<void> {
    this.settings = { ...this.settings, ...change };
    rememberSettings(this.settings);
    this.on.state();
    await this.save();
  }

  async rename(title: string): Promise<void> {
    this.title = title.trim() || this.title;
    this.on.state();
    await this.save();
  }

  private async save(): Promise<void> {
    if (this.id) await api.updateConversation(this.id, this.metadata());
  }

  private metadata(): Record<string, string> {
    return { ...this.kept, title: this.title, settings: JSON.stringify(this.settings) };
  }

  send(text: string): Promise<void> {
    return this.ask([userMessage(text)], this.head);
  }

  /** Answer the calls that wait, by their call_id. */
  answer(outputs: Map<string, string>): Promise<void> {
    const items = this.waiting.map((call) => ({
      type: outputType(call),
      call_id: call.call_id!,
      output: outputs.get(call.call_id!) ?? "",
    }));
    return this.ask(items, this.head);
  }

  retry(turn: Turn): Promise<void> {
    return this.ask(turn.input, turn.response.previous_response_id);
  }

  edit(turn: Turn, text: string): Promise<void> {
    const last = turn.input.findLastIndex((item) => item.role === "user");
    return this.ask(turn.input.with(last, userMessage(text)), turn.response.previous_response_id);
  }

  show(turn: Turn): void {
    this.head = this.tree.leafOf(turn.response.id);
    this.on.path();
    this.on.state();
    this.join();
  }

  /** A new conversation that begins as this one up to a turn; its id. */
  async branch(turn: Turn): Promise<string> {
    const title = this.title.startsWith("Branch: ") ? this.title : `Branch: ${this.title}`;
    const made = await api.createConversation({ ...this.metadata(), title });
    await api.branch(made.id, turn.response.id);
    return made.id;
  }

  async stop(): Promise<void> {
    const live = this.live;
    if (!live) return;
    const { id } = live.turn.response;
    if (!this.server.stores || (live.stopping && !id)) live.stop.abort();
    else if (id) await api.cancel(id);
    live.stopping = true; // if it has no id yet, as soon as it has one
  }

  /** Follow no longer; the answer is computed on. */
  leave(): void {
    this.live?.stop.abort("left");
    this.live = null;
  }

  private async ask(input: Item[], previous: string | null): Promise<void> {
    if (this.live) return;
    const answer: Answer = {
      id: "", status: "queued", created_at: Date.now() / 1000, previous_response_id: previous, output: [], error: null,
      incomplete_details: null, usage: null, reasoning: { effort: this.settings.effort },
    };
    // Ids are the server's affair; a question asked again gets its own.
    const first = this.tree.size === 0 ? this.earlier : [];
    const fresh = [...first, ...input].map(({ id: _, ...item }) => item as Item);
    const turn: Turn = { response: answer, input: fresh, timing: null };
    const live = new Live(turn, previous);
    this.live = live;
    this.on.path();
    this.on.state();
    try {
      const body = await this.body(fresh, previous);
      await this.read(live, { body, resumable: this.server.stores });
    } catch (error) {
      if (turn.response.id || !(await this.arrived(live))) this.over(live, error);
    }
  }

  /** Whether the server had taken a question before the connection was lost; it is followed then. */
  private async arrived(live: Live): Promise<boolean> {
    if (live.stop.signal.aborted || !this.server.stores || !this.id || this.live !== live) return false;
    const known = await api.turns(this.id).catch(() => null);
    const fresh = known?.data.find(
      (each) => !this.tree.get(each.response.id) && each.response.previous_response_id === live.previous,
    );
    if (!fresh || this.live !== live) return false;
    this.live = null;
    this.tree.add(fresh);
    this.show(fresh);
    return true;
  }

  private async body(input: Item[], previous: string | null): Promise<Record<string, unknown>> {
    const request = requestOf(this.settings, this.server, pageSettings().probabilities);
    if (!this.server.stores) {
      const said = this.tree.pathTo(previous).flatMap((turn) => [...turn.input, ...turn.response.output]);
      return { ...request, input: [...said, ...input], store: false, stream: true };
    }
    if (!this.title) this.title = titleOf(input.slice(-1));
    if (!this.id) {
      this.id = (await api.createConversation(this.metadata())).id;
      this.on.created(this.id);
    } else if (this.tree.size === 0) {
      await this.save();
    }
    return {
      ...request,
      input,
      previous_response_id: previous,
      background: true,
      stream: true,
      metadata: { gpt_oss_conversation: this.id },
    };
  }

  /** Follow the last turn, if it is under way. */
  private join(): void {
    const turn = this.last;
    if (!turn || this.live || !["queued", "in_progress"].includes(turn.response.status)) return;
    const live = new Live(turn, turn.response.previous_response_id);
    this.live = live;
    turn.response.output = []; // all of it comes again
    this.on.state();
    this.read(live, { body: null, id: turn.response.id, resumable: true }).catch((error) => this.over(live, error));
  }

  private async read(live: Live, source: { body: unknown; id?: string; resumable: boolean }): Promise<void> {
    const { turn } = live;
    const connection = { signal: live.stop.signal, onConnection: this.on.connection };
    for await (const event of follow({ ...source, ...connection })) {
      if (this.live !== live) return;
      live.see(event);
      const item = fold(turn.response, event);
      if (!this.server.stores) turn.response.previous_response_id = live.previous;
      if (turn.response.id && !this.tree.get(turn.response.id)) {
        this.tree.add(turn);
        this.head = turn.response.id;
        this.on.path();
        if (live.stopping) void api.cancel(turn.response.id);
      } else {
        this.on.turn(turn, item);
      }
    }
    await this.finished(live);
  }

  private async finished(live: Live): Promise<void> {
    const { turn } = live;
    if (this.server.stores && this.id) {
      // The durations that the server has measured are better than ours.
      const known = await api.turns(this.id).catch(() => null);
      const mine = known?.data.find((each) => each.response.id === turn.response.id);
      if (mine) Object.assign(turn, mine);
    }
    turn.timing ??= this.measured(live);
    if (this.live === live) this.live = null;
    this.on.connection(false);
    this.on.turn(turn, null);
    this.on.state();
    const { error, status } = turn.response;
    if (status === "failed" && error) this.on.failed(error.message);
  }

  /** What this page has seen of the times, where the server keeps nothing. */
  private measured(live: Live): Turn["timing"] {
    const usage = live.turn.response.usage;
    const spans = live.turn.response.output.map((item, index) => ({
      kind: item.type === "reasoning" ? ("reasoning" as const) : item.type === "message" ? ("message" as const) : ("tool" as const),
      name: null,
      from: live.items.get(index)?.from ?? 0,
      to: live.items.get(index)?.to ?? null,
    }));
    return {
      spans,
      context_tokens: usage?.total_tokens ?? live.tokens,
      output_tokens: usage?.output_tokens ?? live.tokens,
      first_token_s: spans[0]?.from ?? null,
      tokens_per_second: null,
    };
  }

  private over(live: Live, error: unknown): void {
    if (this.live !== live) return;
    this.live = null;
    const { turn } = live;
    if (turn.response.id) {
      turn.response.status = "cancelled";
      for (const item of turn.response.output) if (item.status === "in_progress") item.status = "incomplete";
      this.on.turn(turn, null);
    } else {
      this.on.path();
    }
    this.on.connection(false);
    this.on.state();
    if (live.stop.signal.aborted) return;
    const lost = "The server cannot be reached. Is it still running? Your question is kept below.";
    this.on.failed(error instanceof ApiError || !(error instanceof TypeError) ? String((error as Error).message) : lost);
    if (!turn.response.id) throw error;
  }
}

function titleOf(input: Item[]): string {
  const text = input.map(textOf).join(" ").replace(/\s+/g, " ").trim();
  return text.length > LONGEST_TITLE ? `${text.slice(0, LONGEST_TITLE - 1).trimEnd()}…` : text || "New conversation";
}
