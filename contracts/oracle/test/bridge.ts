// Calls over HTTP that wait without giving way: the mocks of Chainlink's test runtime must answer at
// once. A thread fetches; the calls that were begun run side by side, also while one is waited for.
const MAX_ANSWER_BYTES = 1 << 20;

/** An answer; status 0 where none came, with the reason as its body. */
export type Answer = { status: number; body: Uint8Array };
type Pending = { url: string; init: RequestInit; timeoutMs: number; state: SharedArrayBuffer; body: SharedArrayBuffer };

const source = `
  onmessage = async ({ data: { url, init, timeoutMs, state, body } }) => {
    const words = new Int32Array(state);
    const put = (status, bytes) => {
      const kept = bytes.subarray(0, body.byteLength);
      new Uint8Array(body).set(kept);
      words[1] = status;
      words[2] = kept.length;
      Atomics.store(words, 0, 1);
      Atomics.notify(words, 0);
    };
    try {
      const answer = await fetch(url, { ...init, redirect: "manual", signal: AbortSignal.timeout(timeoutMs) });
      put(answer.status, new Uint8Array(await answer.arrayBuffer()));
    } catch (error) {
      put(0, new TextEncoder().encode(String(error)));
    }
  };
`;

export class Bridge {
  private readonly worker = new Worker(URL.createObjectURL(new Blob([source], { type: "application/javascript" })));

  /** Begins a call; what it returns waits for the answer. */
  begin(url: string, init: RequestInit = {}, timeoutMs = 10_000): () => Answer {
    const state = new SharedArrayBuffer(12);
    const body = new SharedArrayBuffer(MAX_ANSWER_BYTES);
    this.worker.postMessage({ url, init, timeoutMs, state, body } satisfies Pending);
    return () => {
      const words = new Int32Array(state);
      if (Atomics.wait(words, 0, 0, timeoutMs + 5_000) === "timed-out") throw new Error(`${url}: nothing came back`);
      return { status: words[1] ?? 0, body: new Uint8Array(body).slice(0, words[2]) };
    };
  }

  close(): void {
    this.worker.terminate();
  }
}
