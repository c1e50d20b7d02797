// HTTP: JSON in and out, streams that survive a lost connection, and the key. Knows nothing of what is shown.

import type { Answer, Conversation, Item, RawTrace, Server, StreamEvent, Turn } from "./types";

const KEY = "gpt-oss.key";
const SILENCE_MS = 30_000; // the server says something every 10 s
const LAST = new Set(["response.completed", "response.incomplete", "response.failed"]);

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

export function key(): string {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
}

/** Kept for this tab, or for this browser. */
export function setKey(value: string, remember: boolean): void {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  if (value) (remember ? localStorage : sessionStorage).setItem(KEY, value);
}

/** Set by the page: asks the user for a key, and resolves when there is one. */
let askForKey: (wrong: boolean) => Promise<void> = () => Promise.reject(new ApiError("a key is needed", 401));

export function onKeyNeeded(ask: (wrong: boolean) => Promise<void>): void {
  askForKey = ask;
}

let asking: Promise<void> | null = null;

/** A request; asks for a key where one is needed and tries again. Throws ApiError, or TypeError without a connection. */
async function request(path: string, options: RequestInit = {}): Promise<Response> {
  for (;;) {
    const shown = key();
    const headers: Record<string, string> = { "Content-Type": "application/json" };
    if (shown) headers["Authorization"] = `Bearer ${shown}`;
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    const detail = body?.error;
    if (response.status !== 401) {
      throw new ApiError(detail?.message ?? `${path}: status ${response.status}`, response.status, detail?.code ?? null);
    }
    if (key() === shown) {
      asking ??= askForKey(shown !== "").finally(() => (asking = null));
      await asking;
    }
  }
}

async function json<T>(path: string, options: RequestInit = {}): Promise<T> {
  return (await request(path, options)).json() as Promise<T>;
}

function post<T>(path: string, body: unknown = {}): Promise<T> {
  return json<T>(path, { method: "POST", body: JSON.stringify(body) });
}

export const api = {
  server: () => json<Server>("/v1/server"),
  conversations: async () => (await json<{ data: Conversation[] }>("/v1/conversations?limit=100")).data,
  createConversation: (metadata: Record<string, string>) => post<Conversation>("/v1/conversations", { metadata }),
  updateConversation: (id: string, metadata: Record<string, string>) =>
    post<Conversation>(`/v1/conversations/${encodeURIComponent(id)}`, { metadata }),
  deleteConversation: (id: string) => json(`/v1/conversations/${encodeURIComponent(id)}`, { method: "DELETE" }),
  turns: (id: string) =>
    json<{ conversation: Conversation; data: Turn[] }>(`/v1/conversations/${encodeURIComponent(id)}/turns`),
  branch: (id: string, response: string) => post(`/v1/conversations/${encodeURIComponent(id)}/turns`, { response }),
  items: async (id: string) => {
    const found: Item[] = [];
    for (let after = ""; ; ) {
      const path = `/v1/conversations/${encodeURIComponent(id)}/items?order=asc&limit=100${after}`;
      const page = await json<{ data: Item[]; has_more: boolean; last_id: string }>(path);
      found.push(...page.data);
      if (!page.has_more) return found;
      after = `&after=${encodeURIComponent(page.last_id)}`;
    }
  },
  response: (id: string) => json<Answer>(`/v1/responses/${id}`),
  cancel: (id: string) => post<Answer>(`/v1/responses/${id}/cancel`),
  trace: (id: string) => json<RawTrace>(`/v1/responses/${id}/trace`),
};

/** The events of a response body, as they come. */
async function* events(response: Response, watch: () => void): AsyncGenerator<StreamEvent> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      watch();
      held += value;
      for (let end = held.indexOf("\n\n"); end >= 0; end = held.indexOf("\n\n")) {
        const data = held
          .slice(0, end)
          .split("\n")
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trimStart())
          .join("\n");
        held = held.slice(end + 2);
        if (data && data !== "[DONE]") yield JSON.parse(data) as StreamEvent;
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

export interface Follow {
  /** A new response, or null to read on an old one. */
  body: unknown;
  /** Of the response, once it is known. */
  id?: string;
  /** The number of the last event that was read. */
  last?: number;
  /** Whether the response goes on without us, so that its events can be asked for again. */
  resumable: boolean;
  signal: AbortSignal;
  onConnection: (lost: boolean) => unknown;
}

/** The events of a response, to its end: a connection that is lost is taken up again where it broke off. */
export async function* follow(options: Follow): AsyncGenerator<StreamEvent> {
  let { id, last = -1 } = options;
  for (let failures = 0; ; ) {
    const timeout = new AbortController();
    let timer = 0;
    const watch = () => {
      clearTimeout(timer);
      timer = window.setTimeout(() => timeout.abort(), SILENCE_MS);
    };
    try {
      watch();
      const signal = AbortSignal.any([options.signal, timeout.signal]);
      const response = id
        ? await request(`/v1/responses/${id}?stream=true&starting_after=${last}`, { signal })
        : await request("/v1/responses", { method: "POST", body: JSON.stringify(options.body), signal });
      for await (const event of events(response, watch)) {
        if (failures) options.onConnection(false);
        failures = 0;
        last = event.sequence_number;
        id ??= event.response?.id;
        yield event;
        if (LAST.has(event.type)) return;
      }
      // The end of a stream without the end of its response: the server was stopped, or something between us was.
      if (!id || !options.resumable) throw new TypeError("the connection was lost");
      const answer = await api.response(id);
      if (answer.status !== "queued" && answer.status !== "in_progress") {
        yield { type: "response.completed", sequence_number: last + 1, response: answer };
        return;
      }
    } catch (error) {
      if (options.signal.aborted || error instanceof ApiError) throw error;
      if (!id || !options.resumable) throw error;
    } finally {
      clearTimeout(timer);
    }
    failures += 1;
    options.onConnection(true);
    await pause(Math.min(5000, 250 * 2 ** failures), options.signal);
  }
}

/** Over early when the machine is online again. */
function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      resolve();
    };
    const timer = window.setTimeout(done, milliseconds);
    window.addEventListener("online", done);
    signal.addEventListener("abort", done, { once: true });
  });
}
