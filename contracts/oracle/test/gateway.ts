// A gateway of names: an HTTP server in a process of its own. It serves what `put` has set.
import { createServer } from "node:http";

/** What stands under a path. A `leaf` is sent as BTFS sends one: no byte of it unless a file name tells its type. `together` holds the answer back until so many requests are waiting. */
export type Entry = { leaf?: boolean; status?: number; text?: string; location?: string; silent?: boolean; together?: number };

if (process.argv[2] === "serve") serve();

function serve(): void {
  const entries = new Map<string, Entry>();
  const seen: string[] = [];
  let waiting: (() => void)[] = [];
  const server = createServer((request, response) => {
    const [path = "/", query = ""] = (request.url ?? "/").split("?");
    if (request.method === "PUT") {
      const chunks: Buffer[] = [];
      request.on("data", (chunk) => chunks.push(chunk));
      request.on("end", () => {
        entries.set(path, JSON.parse(Buffer.concat(chunks).toString("utf8")));
        response.end();
      });
      return;
    }
    if (path === "/seen") {
      response.end(JSON.stringify(seen));
      return;
    }
    seen.push(path);
    const entry = entries.get(path) ?? { status: 404, text: "no such name" };
    if (entry.silent) return;
    const answer = () => {
      response.statusCode = entry.status ?? 200;
      if (entry.location) response.setHeader("location", entry.location);
      if (entry.leaf && !/(^|&)filename=[^&]+\.json(&|$)/.test(query)) {
        response.setHeader("content-length", (entry.text ?? "").length);
        response.flushHeaders();
        response.destroy();
        return;
      }
      response.end(Buffer.from(entry.text ?? "", "latin1"));
    };
    if (!entry.together) return answer();
    waiting.push(answer);
    if (waiting.length >= entry.together) {
      for (const one of waiting) one();
      waiting = [];
    }
  });
  server.listen(0, "127.0.0.1", () => {
    const address = server.address();
    console.log(typeof address === "object" ? address?.port : "");
  });
}

/** A gateway that runs. */
export class Gateway {
  private constructor(
    readonly url: string,
    private readonly child: Kept,
  ) {}

  static async start(): Promise<Gateway> {
    const child = keep([process.execPath, import.meta.path, "serve"]);
    const port = await child.line((line) => (/^\d+$/.test(line) ? line : null));
    return new Gateway(`http://127.0.0.1:${port}`, child);
  }

  /** What `--config` takes for names under `folder`. */
  names(folder: string): string {
    return `${this.url}/${folder}/{name}`;
  }

  async put(path: string, entry: Entry): Promise<void> {
    await fetch(this.url + path, { method: "PUT", body: JSON.stringify(entry) });
  }

  /** Every path that was asked for, in the order of arrival. */
  async seen(): Promise<string[]> {
    return (await fetch(`${this.url}/seen`)).json() as Promise<string[]>;
  }

  stop(): void {
    this.child.stop();
  }
}

export type Kept = { line(find: (line: string) => string | null): Promise<string>; stop(): void };

/** A process that ends with this one, however that ends. */
export function keep(command: string[], env: Record<string, string> = {}): Kept {
  const child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", ...command], {
    stdout: "pipe",
    stderr: "inherit",
    env: { ...process.env, ...env },
  });
  return {
    async line(find) {
      let text = "";
      for await (const chunk of child.stdout) {
        text += Buffer.from(chunk).toString("utf8");
        const lines = text.split("\n");
        text = lines.pop() ?? "";
        for (const line of lines) {
          const found = find(line);
          if (found !== null) {
            return found;
          }
        }
      }
      throw new Error(`${command[0]} ended before it was ready`);
    },
    stop: () => child.kill("SIGKILL"),
  };
}
