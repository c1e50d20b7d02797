// A conversation's turns as a tree: a question that is asked anew, or in other words, is a sibling of the first.

import type { Item, Turn } from "./types";

export class Tree {
  private readonly turns = new Map<string, Turn>(); // in the order in which they were begun

  add(turn: Turn): void {
    this.turns.set(turn.response.id, turn);
  }

  get(id: string): Turn | undefined {
    return this.turns.get(id);
  }

  get size(): number {
    return this.turns.size;
  }

  /** The turn that was begun last. */
  get latest(): Turn | undefined {
    return [...this.turns.values()].at(-1);
  }

  /** From the first turn to this one. */
  pathTo(id: string | null): Turn[] {
    const path: Turn[] = [];
    for (let turn = id ? this.turns.get(id) : undefined; turn; turn = this.parent(turn)) path.unshift(turn);
    return path;
  }

  /** The end of the branch that goes on from here and was used last. */
  leafOf(id: string): string {
    const next = [...this.turns.values()].filter((turn) => turn.response.previous_response_id === id).at(-1);
    return next ? this.leafOf(next.response.id) : id;
  }

  /** The turns that begin where this one does: asked otherwise (one of each), and the same question's other answers. */
  versions(turn: Turn): { questions: Turn[]; answers: Turn[] } {
    const siblings = [...this.turns.values()].filter(
      (other) => this.parent(other) === this.parent(turn) && kinOf(other) === kinOf(turn),
    );
    const own = asked(turn.input);
    const questions = new Map<string, Turn>();
    for (const each of siblings) questions.set(asked(each.input), asked(each.input) === own ? turn : each);
    return { questions: [...questions.values()], answers: siblings.filter((each) => asked(each.input) === own) };
  }

  private parent(turn: Turn): Turn | undefined {
    const previous = turn.response.previous_response_id;
    return previous ? this.turns.get(previous) : undefined;
  }
}

/** Answers to a call are no other words for a question. */
function kinOf(turn: Turn): string {
  return turn.input.some((item) => item.type === "message") ? "question" : "output";
}

function asked(input: Item[]): string {
  return JSON.stringify(input.map((item) => [item.type, item.content ?? item.output, item.call_id]));
}
