// What a conversation is asked with, and how that becomes a request. The page's own choices (theme, probabilities) too.

import type { Item, Server, Settings } from "./types";

const DEFAULTS = "gpt-oss.settings";
const PAGE = "gpt-oss.page";

const USUAL: Settings = {
  effort: "medium",
  web_search: true,
  code_interpreter: true,
  mcp: [],
  instructions: "",
  functions: "",
  temperature: null,
  top_p: null,
  max_output_tokens: null,
};

/** Settings as they were kept, whatever is kept there. */
export function readSettings(text: string | undefined | null): Settings {
  try {
    const given = JSON.parse(text ?? "{}") as Partial<Settings>;
    const right = Object.entries(given).filter(([name, value]) => {
      const usual = USUAL[name as keyof Settings];
      return usual === null ? typeof value === "number" : typeof value === typeof usual;
    });
    return { ...USUAL, ...Object.fromEntries(right) };
  } catch {
    return { ...USUAL };
  }
}

/** Of a new conversation: those that were used last, but for what belongs to one conversation alone. */
export function newSettings(): Settings {
  return { ...readSettings(localStorage.getItem(DEFAULTS)), instructions: "", functions: "" };
}

export function rememberSettings(settings: Settings): void {
  localStorage.setItem(DEFAULTS, JSON.stringify(settings));
}

/** The functions that a user declares. Throws an Error that says what is wrong. */
export function parseFunctions(text: string): Record<string, unknown>[] {
  if (!text.trim()) return [];
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not valid JSON: ${(error as Error).message}`);
  }
  const list: unknown[] = Array.isArray(given) ? given : [given];
  return list.map((each, index) => {
    const tool = each as { type?: unknown; name?: unknown; function?: Record<string, unknown> } | null;
    const flat = tool?.function ? { type: "function", ...tool.function } : tool; // as Chat Completions has them
    const { name, type } = (flat ?? {}) as { name?: unknown; type?: unknown };
    if (typeof type === "string" && type !== "function" && type !== "custom") return flat as Record<string, unknown>;
    if (typeof name !== "string" || !name) throw new Error(`Function ${index + 1} has no "name".`);
    return { type: "function", ...(flat as Record<string, unknown>) };
  });
}

/** The fields of a request that say how it is to be answered. */
export function requestOf(settings: Settings, server: Server, probabilities: boolean): Record<string, unknown> {
  const tools: Record<string, unknown>[] = [];
  if (settings.code_interpreter && server.tools.code_interpreter) {
    tools.push({ type: "code_interpreter", container: { type: "auto" } });
  }
  if (settings.web_search && server.tools.web_search) tools.push({ type: "web_search" });
  for (const url of settings.mcp.filter((each) => server.tools.mcp.includes(each))) {
    tools.push({ type: "mcp", server_label: labelOf(url), server_url: url, require_approval: "never" });
  }
  tools.push(...parseFunctions(settings.functions));
  const request: Record<string, unknown> = {
    model: server.model.id,
    reasoning: { effort: settings.effort },
    tools,
    include: ["code_interpreter_call.outputs", "web_search_call.results"],
    truncation: "auto",
  };
  if (settings.instructions.trim()) request["instructions"] = settings.instructions;
  for (const name of ["temperature", "top_p", "max_output_tokens"] as const) {
    if (settings[name] !== null) request[name] = settings[name];
  }
  if (probabilities) request["top_logprobs"] = 5;
  return request;
}

export function labelOf(url: string): string {
  try {
    return new URL(url).host.replace(/\W+/g, "_");
  } catch {
    return "mcp";
  }
}

export function userMessage(text: string): Item {
  return { type: "message", role: "user", content: [{ type: "input_text", text }] };
}

export interface PageSettings {
  theme: "auto" | "light" | "dark";
  probabilities: boolean;
}

export function pageSettings(): PageSettings {
  try {
    return { theme: "auto", probabilities: false, ...JSON.parse(localStorage.getItem(PAGE) ?? "{}") };
  } catch {
    return { theme: "auto", probabilities: false };
  }
}

export function changePage(change: Partial<PageSettings>): void {
  localStorage.setItem(PAGE, JSON.stringify({ ...pageSettings(), ...change }));
  applyTheme();
}

export function applyTheme(): void {
  const { theme } = pageSettings();
  if (theme === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
}
