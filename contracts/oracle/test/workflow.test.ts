// The workflow in Chainlink's test runtime, fetching from a gateway over HTTP.
import { afterAll, beforeAll, expect } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "@chainlink/cre-sdk/test";
import { ed25519 } from "@noble/curves/ed25519.js";
import { main as compileToJs } from "../node_modules/@chainlink/cre-sdk/scripts/src/compile-to-js.ts";
import { Code } from "../usage.ts";
import { configSchema, workflow } from "../workflow.ts";
import { Bridge } from "./bridge.ts";
import { Gateway } from "./gateway.ts";
import { BLOCK, type Played, play } from "./runtime.ts";

const golden = join(import.meta.dir, "../../../tests/golden/usage");
const text = (file: string) => readFileSync(join(golden, file), "latin1");
const NAME = text("key.txt").trim();
const USUAL = text("good-usual.json");
const CONTRACT = "0x00112233445566778899aabbccddeeff00112233";
const ROOT = "0x4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2";
const SEED = new Uint8Array(32).fill(5);

let bridge: Bridge;
let gateway: Gateway;
beforeAll(async () => {
  bridge = new Bridge();
  gateway = await Gateway.start();
});
afterAll(() => {
  bridge.close();
  gateway.stop();
});

/** The usual document with another sequence or usage, rightly signed. */
function document(sequence: number, usage = 52428800): string {
  const part = USUAL.slice(0, USUAL.indexOf(',"signature"'))
    .replace('"sequence":6', `"sequence":${sequence}`)
    .replace('"usage":52428800', `"usage":${usage}`);
  const signature = ed25519.sign(Buffer.from(`pxfs-usage-v1:${part}}`), SEED);
  return `${part},"signature":"${Buffer.from(signature).toString("hex")}"}`;
}

const configured = (gateways: string[], changed: object = {}) =>
  configSchema.parse({
    chain: "polygon-mainnet",
    contract: CONTRACT,
    gateways,
    confidence: "SAFE",
    gasLimit: "400000",
    ...changed,
  });

/** Lets the workflow answer a request for the usual token from these gateways. */
function ask(gateways: string[], name = NAME): Played {
  return play(bridge, configured(gateways), { tokenId: 42n, epoch: 3n, name });
}

/** One gateway that answers the name with this. */
async function answered(folder: string, entry: Parameters<Gateway["put"]>[1], name = NAME): Promise<Played> {
  await gateway.put(`/${folder}/${name}`, entry);
  return ask([gateway.names(folder)], name);
}

test("a valid document becomes a report of its usage, sequence and root", async () => {
  const { report, gasLimit, receiver, requestId } = await answered("fine", { text: USUAL });
  expect(report).toEqual([requestId, 42n, 3n, 52428800n, 6n, ROOT, Code.fine]);
  expect(receiver).toBe(CONTRACT);
  expect(gasLimit).toBe(400000n);
});

test("a gateway that sends no byte of a leaf without a type gives the document all the same", async () => {
  const { report } = await answered("leaf", { text: USUAL, leaf: true });
  expect(report.slice(3)).toEqual([52428800n, 6n, ROOT, Code.fine]);
});

test("all gateways are asked at once, and the highest sequence wins", async () => {
  // Each holds its answer back until all five have been asked.
  const folders = ["a", "b", "c", "d", "e"];
  const entries = [
    document(7),
    document(9, 11),
    document(8),
    text("bad-truncated.json"),
    text("good-other-epoch.json"),
  ];
  for (const [at, folder] of folders.entries()) {
    await gateway.put(`/${folder}/${NAME}`, { text: entries[at], together: 5 });
  }
  const { report } = ask(folders.map((folder) => gateway.names(folder)));
  expect(report.slice(3)).toEqual([11n, 9n, ROOT, Code.fine]);
});

test("one honest gateway is enough, whatever the others say", async () => {
  await gateway.put(`/forged/${NAME}`, { text: text("bad-signature-of-another-key.json") });
  await gateway.put(`/honest/${NAME}`, { text: document(5) });
  await gateway.put(`/broken/${NAME}`, { status: 500, text: "could not resolve name" });
  const gateways = ["forged", "none", "broken", "honest"].map((folder) => gateway.names(folder));
  const { report } = ask([...gateways, "http://127.0.0.1:1/ipns/{name}"]);
  expect(report.slice(4)).toEqual([5n, ROOT, Code.fine]);
});

test("what cannot be had is reported with its code, and the block and time of which that is true", async () => {
  const cases: [string, Code, Played][] = [
    ["nowhere", Code.noName, await answered("nowhere", { status: 404 })],
    ["gone", Code.noName, await answered("gone", { status: 410 })],
    ["failing", Code.noDocument, await answered("failing", { status: 504 })],
    ["elsewhere", Code.noDocument, await answered("elsewhere", { status: 301, location: gateway.url })],
    ["forged", Code.notValid, await answered("forged2", { text: text("bad-signature-of-other-content.json") })],
    ["malleated", Code.notValid, await answered("malleated", { text: text("bad-signature-malleated.json") })],
    ["a page", Code.notValid, await answered("page", { text: "<html>welcome</html>" })],
    ["huge", Code.notValid, await answered("huge", { text: "{".repeat(200_000) })],
    ["down", Code.oracleFailed, ask(["http://127.0.0.1:1/ipns/{name}"])],
  ];
  for (const part of ["chain", "contract", "token", "epoch"]) {
    cases.push([part, Code.otherToken, await answered(`other-${part}`, { text: text(`good-other-${part}.json`) })]);
  }
  for (const [what, code, { report }] of cases) {
    const [usage, seen, root, told] = report.slice(3);
    expect([what, usage, root, told]).toEqual([what, BLOCK, `0x${"0".repeat(64)}`, code]);
    expect(Math.abs(Number(seen) - Date.now() / 1000)).toBeLessThan(60);
  }
});

test("the answer that tells most is reported where no gateway has a document", async () => {
  await gateway.put(`/tells/${NAME}`, { text: text("good-other-epoch.json") });
  await gateway.put(`/lies/${NAME}`, { text: "no document" });
  const gateways = ["none", "lies", "tells"].map((folder) => gateway.names(folder));
  expect(ask(gateways).report[6]).toBe(Code.otherToken);
  expect(ask(gateways.slice(0, 2)).report[6]).toBe(Code.notValid);
  expect(ask(["http://127.0.0.1:1/{name}", ...gateways.slice(0, 1)]).report[6]).toBe(Code.noName);
});

test("a key that is no name is looked up nowhere", async () => {
  const lines = text("keys.txt")
    .split("\n")
    .filter((line) => line.startsWith("bad "));
  const before = (await gateway.seen()).length;
  for (const line of lines) {
    const [, name = "", why] = line.split(" ");
    expect([why, ask([gateway.names("keys")], name).report[6]]).toEqual([why, Code.badKey]);
  }
  expect(ask([gateway.names("keys")], "../../secret?").report[6]).toBe(Code.badKey);
  expect((await gateway.seen()).length).toBe(before);
});

test("nodes that saw different documents answer that the oracle failed", async () => {
  await gateway.put(`/apart/${NAME}`, { text: USUAL });
  const config = configured([gateway.names("apart")]);
  const { report } = play(bridge, config, { tokenId: 42n, epoch: 3n, name: NAME }, { disagree: true });
  expect(report[6]).toBe(Code.oracleFailed);
});

test("a report that the contract did not take fails the run", async () => {
  await gateway.put(`/reverts/${NAME}`, { text: USUAL });
  const config = configured([gateway.names("reverts")]);
  const request = { tokenId: 42n, epoch: 3n, name: NAME };
  const refused = () => play(bridge, config, request, { write: () => ({ txStatus: "TX_STATUS_REVERTED" }) });
  expect(refused).toThrow("the report was not taken");
});

test("a configuration that could fetch from elsewhere is refused", () => {
  for (const gateways of [
    [],
    ["https://example.org/ipns/"],
    ["file:///{name}"],
    ["https://e.org/{name}/{name}"],
    ["https://e.org/{name} "],
  ]) {
    expect(() => configured(gateways)).toThrow();
  }
  const six = Array.from({ length: 6 }, (_, at) => `https://${at}.example.org/{name}`);
  expect(() => configured(six)).toThrow();
  const five = six.slice(1);
  expect(configured(five).gateways).toEqual(five);
  expect(() => workflow(configured(five, { chain: "no-such-chain" }))).toThrow("not one of Chainlink's");
});

test("the workflow listens for the requests of its contract alone", () => {
  const config = configured(["https://e.org/{name}"]);
  const [entry] = workflow(config);
  expect(entry?.trigger.capabilityId()).toBe("evm:ChainSelector:4051577828743386545@1.0.0");
  expect(Buffer.from(entry?.trigger.configAsAny().value ?? []).toString("hex")).toContain(CONTRACT.slice(2));
});

test("the workflow type-checks, uses nothing that its runtime lacks, and becomes one file", async () => {
  // All that the SDK's compiler does before the step to WebAssembly, which fetches its own tools.
  const folder = mkdtempSync(join(tmpdir(), "pxfs-bundle-"));
  try {
    const bundle = await compileToJs(join(import.meta.dir, "../main.ts"), join(folder, "main.js"));
    expect(readFileSync(bundle ?? "", "utf8")).toContain("pxfs-usage-v1:");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
