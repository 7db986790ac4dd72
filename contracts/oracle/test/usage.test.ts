// The reader in TypeScript on the documents that the reader in Rust is held to.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "bun:test";
import { ed25519 } from "@noble/curves/ed25519.js";
import { Code, judge, NO_ROOT, publicKey, type Usage, verify } from "../usage.ts";

const golden = join(import.meta.dir, "../../../tests/golden/usage");
const name = readFileSync(join(golden, "key.txt"), "utf8").trim();
const files = readdirSync(golden).filter((file) => file.endsWith(".json"));
const read = (file: string) => new Uint8Array(readFileSync(join(golden, file)));
const key = () => {
  const found = publicKey(name);
  if (!found) throw new Error("the golden key is no key");
  return found;
};
const usual = (): Usage => verify(read("good-usual.json"), key());

describe("golden documents", () => {
  test("there are good ones and bad ones", () => {
    expect(files.filter((file) => file.startsWith("good-")).length).toBeGreaterThanOrEqual(9);
    expect(files.filter((file) => file.startsWith("bad-")).length).toBeGreaterThanOrEqual(70);
    expect(files.every((file) => /^(good|bad)-/.test(file))).toBe(true);
  });

  for (const file of files) {
    const good = file.startsWith("good-");
    test(`${file} is ${good ? "taken" : "refused"} as the Rust reader does`, () => {
      const verdict = judge(read(file), name, usual());
      if (good) expect([Code.fine, Code.otherToken] as number[]).toContain(verdict.code);
      else expect(verdict.code).toBe(Code.notValid);
    });
  }
});

test("the values of a document are read as they stand", () => {
  expect(usual()).toEqual({
    chainId: 137n,
    contract: "0x00112233445566778899aabbccddeeff00112233",
    tokenId: 42n,
    epoch: 3n,
    usage: 52428800,
    sequence: 6,
    root: "0x4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2",
  });
  expect(verify(read("good-first-of-an-epoch.json"), key()).root).toBe(NO_ROOT);
  const greatest = verify(read("good-greatest-values.json"), key());
  expect(greatest.tokenId).toBe((1n << 256n) - 1n);
  expect(greatest.usage).toBe(2 ** 53 - 1);
});

test("documents of another chain, contract, token or epoch are refused", () => {
  const wanted = usual();
  expect(judge(read("good-usual.json"), name, wanted).code).toBe(Code.fine);
  for (const part of ["chain", "contract", "token", "epoch"]) {
    expect([part, judge(read(`good-other-${part}.json`), name, wanted).code]).toEqual([part, Code.otherToken]);
  }
});

test("names and keys are taken and refused as the Rust reader does", () => {
  const lines = readFileSync(join(golden, "keys.txt"), "utf8").trim().split("\n");
  const cases = lines.filter((line) => !line.startsWith("#")).map((line) => line.split(" "));
  expect(cases.length).toBeGreaterThanOrEqual(12);
  for (const [verdict, text = "", why] of cases) {
    expect([why, publicKey(text) !== null]).toEqual([why, verdict === "good"]);
  }
});

test("every changed byte of a good document is refused", () => {
  const good = read("good-usual.json");
  for (let at = 0; at < good.length; at += 1) {
    const bad = good.slice();
    bad[at] = (bad[at] ?? 0) ^ (1 + (at % 255));
    expect([at, judge(bad, name, usual()).code]).toEqual([at, Code.notValid]);
  }
});

test("what the cofactor would hide is refused", () => {
  // The signature satisfies the equation times eight, and a lax reader takes it.
  const document = read("bad-signature-mixed-order.json");
  const text = Buffer.from(document).toString("latin1");
  const message = Buffer.from(`pxfs-usage-v1:${text.slice(0, text.indexOf(',"signature"'))}}`, "latin1");
  const signature = Buffer.from(text.slice(-130, -2), "hex");
  expect(ed25519.verify(signature, message, key(), { zip215: true })).toBe(true);
  expect(judge(document, name, usual()).code).toBe(Code.notValid);
});

test("the reader stands on its own", () => {
  const source = readFileSync(join(import.meta.dir, "../usage.ts"), "utf8");
  const imports = [...source.matchAll(/from "([^"]+)"/g)].map((found) => found[1]);
  expect(imports).toEqual(["@noble/curves/ed25519.js", "@noble/hashes/sha2.js"]);
});
