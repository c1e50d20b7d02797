// What the server says: the Responses API as far as the page reads it, and the page's own additions.

export interface Annotation {
  type: string;
  url?: string;
  title?: string;
}

export interface Part {
  type: string;
  text: string;
  annotations?: Annotation[];
}

/** One item of an input or an output; which fields it has depends on its type. */
export interface Item {
  type: string;
  id?: string;
  status?: string;
  role?: string;
  content?: Part[] | string;
  name?: string;
  call_id?: string;
  arguments?: string;
  input?: string;
  output?: unknown;
  error?: unknown;
  code?: string;
  outputs?: { type: string; logs?: string }[] | null;
  action?: { type: string; query?: string; url?: string | null; pattern?: string; commands?: string[]; command?: string[] };
  operation?: { type: string; path?: string; diff?: string };
  results?: { type: string; text: string }[];
  server_label?: string;
  summary?: Part[];
}

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  total_tokens: number;
}

export interface Answer {
  id: string;
  status: "queued" | "in_progress" | "completed" | "incomplete" | "failed" | "cancelled";
  created_at: number;
  previous_response_id: string | null;
  output: Item[];
  error: { code: string; message: string } | null;
  incomplete_details: { reason: string } | null;
  usage: Usage | null;
  reasoning?: { effort: string | null } | null;
}

export interface Span {
  kind: "reasoning" | "call" | "message" | "tool";
  name: string | null;
  from: number;
  to: number | null;
}

export interface Timing {
  spans: Span[];
  context_tokens: number;
  output_tokens: number;
  first_token_s: number | null;
  tokens_per_second: number | null;
}

export interface Turn {
  response: Answer;
  input: Item[];
  timing: Timing | null;
}

/** An event of a response's stream. */
export interface StreamEvent {
  type: string;
  sequence_number: number;
  response?: Answer;
  output_index?: number;
  content_index?: number;
  item?: Item;
  delta?: string;
  annotation?: Annotation;
  code?: string;
  message?: string;
}

export interface Conversation {
  id: string;
  created_at: number;
  metadata: Record<string, string>;
}

export interface Figures {
  time: number;
  running: number;
  waiting: number;
  prompt_tokens: number;
  cached_tokens: number;
  output_tokens: number;
  memory: {
    process_bytes: number | null;
    total_bytes: number;
    available_bytes: number;
    gpu?: { free_bytes: number; total_bytes: number };
  };
  cache: { used_tokens: number; total_tokens: number } | null;
}

export interface Server {
  version: string;
  model: { id: string; shape?: Record<string, number> };
  backend: string;
  context_tokens: number;
  stores: boolean;
  tools: { web_search: boolean; code_interpreter: boolean; mcp: string[] };
  machine: { processor: string; system: string; cores: number };
  started: number;
  now: Figures;
}

/** Text, id, and for a sampled token its log probability and the likeliest alternatives. */
export type RawToken = [string, number, number?, [string, number][]?];

export interface RawMessage {
  role: string;
  name: string | null;
  channel: string | null;
  recipient: string | null;
  sampled: boolean;
  repairs: string[];
  tokens: RawToken[];
}

export interface RawTrace extends Timing {
  rounds: {
    known: number;
    prompt_tokens: number;
    cached_tokens: number;
    sampled_tokens: number;
    begun: number;
    first: number | null;
    last: number | null;
    messages: RawMessage[];
  }[];
}

export type Effort = "low" | "medium" | "high";

/** What a conversation is asked with; kept in the conversation's metadata. */
export interface Settings {
  effort: Effort;
  web_search: boolean;
  code_interpreter: boolean;
  mcp: string[];
  instructions: string;
  functions: string; // JSON, a list of tools
  temperature: number | null;
  top_p: number | null;
  max_output_tokens: number | null;
}
