// The whole way on a real chain: a drive commits, its token asks for a sync, the workflow fetches the
// commit's document from a gateway, and the contract takes the report from a forwarder that calls as
// Chainlink's does.
import { afterAll, beforeAll, expect } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "@chainlink/cre-sdk/test";
import {
  type Abi,
  createPublicClient,
  createWalletClient,
  encodeFunctionData,
  type Hex,
  http,
  parseEventLogs,
  toHex,
} from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { anvil as chain } from "viem/chains";
import { Code } from "../usage.ts";
import { type Config, configSchema } from "../workflow.ts";
import { Bridge } from "./bridge.ts";
import { Gateway, type Kept, keep } from "./gateway.ts";
import { play, type Request, type Written } from "./runtime.ts";

const top = join(import.meta.dir, "../../..");
const ANVIL =
  process.env.PXFS_TEST_ANVIL ?? join(top, "contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil");
const PXFS = process.env.PXFS_TEST_BINARY ?? join(top, "target/debug/pxfs");
/** The first account of anvil. */
const SECRET = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const account = privateKeyToAccount(`0x${SECRET}`);
/** What the contract refuses an older document with. */
const OLD_SEQUENCE = 130;
/** Of the metadata that Chainlink's test runtime puts before a report: byte N is N. */
const metadata = (from: number, length: number) => toHex(Uint8Array.from({ length }, (_, at) => from + at));

type Artifact = { abi: Abi; bytecode: Hex };
const artifact = (name: string): Artifact =>
  JSON.parse(readFileSync(join(top, `contracts/artifacts/${name}.json`), "utf8"));
const PxSync = artifact("PxSync");
const Keystone = artifact("Keystone");

let folder: string;
let bridge: Bridge;
let gateway: Gateway;
let node: Kept;
let daemon: Kept | undefined;
let rpc: string;
let contract: Hex;
let forwarder: Hex;

const reader = () => createPublicClient({ chain, transport: http(rpc), pollingInterval: 10 });

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "pxfs-oracle-"));
  bridge = new Bridge();
  gateway = await Gateway.start();
  node = keep([ANVIL, "--host", "127.0.0.1", "--port", "0"]);
  rpc = `http://${await node.line((line) => /^Listening on (\S+)/.exec(line)?.[1] ?? null)}`;
  forwarder = await deploy(Keystone, []);
  contract = await deploy(PxSync, [account.address, forwarder]);
});

afterAll(async () => {
  if (daemon) await pxfs("umount", "--now", join(folder, "drive")).catch(() => "");
  daemon?.stop();
  // Nothing is mounted any more, or what is left is taken off.
  await Bun.$`umount --lazy ${join(folder, "drive")}`.quiet().nothrow();
  node?.stop();
  gateway?.stop();
  bridge?.close();
  rmSync(folder, { recursive: true, force: true });
});

async function deploy({ abi, bytecode }: Artifact, args: unknown[]): Promise<Hex> {
  const wallet = createWalletClient({ account, chain, transport: http(rpc) });
  const hash = await wallet.deployContract({ abi, bytecode, args });
  const { contractAddress } = await reader().waitForTransactionReceipt({ hash });
  if (!contractAddress) throw new Error("not deployed");
  return contractAddress.toLowerCase() as Hex;
}

async function send(functionName: string, args: unknown[]) {
  const wallet = createWalletClient({ account, chain, transport: http(rpc) });
  // Not as much as an estimate says: that is of the block before, in which a request may stand that is over by now.
  const gas = 1_000_000n;
  const hash = await wallet.writeContract({ address: contract, abi: PxSync.abi, functionName, args, gas });
  const receipt = await reader().waitForTransactionReceipt({ hash });
  if (receipt.status !== "success") throw new Error(`${functionName} was refused in block ${receipt.blockNumber}`);
  return receipt;
}

type Info = {
  usage: bigint;
  sequence: bigint;
  root: Hex;
  requestId: Hex;
  synced: boolean;
  btnsKey: string;
  epoch: bigint;
};
const tokenInfo = async (tokenId: bigint) =>
  (await reader().readContract({
    address: contract,
    abi: PxSync.abi,
    functionName: "tokenInfo",
    args: [tokenId],
  })) as Info;

/** Calls `sync`, and answers with the request that the contract emitted. */
async function requestSync(tokenId: bigint): Promise<Request> {
  const { logs } = await send("sync", [tokenId]);
  const [event] = parseEventLogs({ abi: PxSync.abi, eventName: "SyncRequested", logs }) as unknown as {
    args: { tokenId: bigint; requestId: Hex; epoch: bigint; btnsKey: string };
  }[];
  if (!event) throw new Error("no SyncRequested");
  return { ...event.args, name: event.args.btnsKey };
}

/** One call of the chain, waited for without giving way. */
function call<T>(method: string, params: unknown[]): T {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const answer = bridge.begin(rpc, { method: "POST", headers: { "content-type": "application/json" }, body })();
  const { result, error } = JSON.parse(Buffer.from(answer.body).toString("utf8"));
  if (error) throw new Error(`${method}: ${error.message}`);
  return result;
}

/** What the last delivery said. */
let processed: { result: boolean; gasUsed: bigint } | undefined;

/** Hands a report to the forwarder, as the network's nodes do. */
function deliver(rawReport: Uint8Array): Written {
  // Each run has an execution id of its own; the test runtime gives all the same.
  const raw = rawReport.slice();
  crypto.getRandomValues(raw.subarray(1, 33));
  const data = encodeReport(raw);
  const hash = call<Hex>("eth_sendTransaction", [{ from: account.address, to: forwarder, data, gas: toHex(600_000) }]);
  let receipt: { status: Hex; logs: never[] } | null = null;
  for (let tries = 0; !receipt && tries < 500; tries += 1) {
    receipt = call<typeof receipt>("eth_getTransactionReceipt", [hash]);
    if (!receipt) Bun.sleepSync(10);
  }
  if (!receipt) throw new Error("the delivery is in no block");
  const events = parseEventLogs({ abi: Keystone.abi, eventName: "ReportProcessed", logs: receipt.logs });
  processed = (events[0] as unknown as { args: typeof processed })?.args;
  const taken = receipt.status === "0x1" && processed?.result;
  const txHash = Buffer.from(hash.slice(2), "hex").toString("base64");
  return { txStatus: taken ? "TX_STATUS_SUCCESS" : "TX_STATUS_REVERTED", txHash };
}

function encodeReport(raw: Uint8Array): Hex {
  return encodeFunctionData({
    abi: Keystone.abi,
    functionName: "report",
    args: [contract, toHex(raw), "0x", ["0x00"]],
  });
}

function config(gateways: string[]): Config {
  return configSchema.parse({ chain: "anvil-devnet", contract, gateways, confidence: "LATEST", gasLimit: "400000" });
}

/** What `pxfs` prints. */
async function pxfs(...args: string[]): Promise<string> {
  const env = { ...process.env, XDG_RUNTIME_DIR: folder };
  const command = [PXFS, ...args, "--state-dir", join(folder, "state")];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", env });
  const [out, err, status] = [await child.stdout.text(), await child.stderr.text(), await child.exited];
  if (status !== 0) throw new Error(`pxfs ${args.join(" ")} ended with ${status}: ${out}${err}`);
  return out;
}

/** The document that a name leads to, out of the folder of an embedded node. */
function published(store: string, name: string): string {
  const record = readFileSync(join(store, "names/records", name)).toString("latin1");
  const cid = /\/ipfs\/(bafkrei[a-z2-7]{52}|Qm[1-9A-HJ-NP-Za-km-z]{44})/.exec(record)?.[1];
  if (!cid) throw new Error("the record names no document");
  const blocks = readdirSync(join(store, "blocks/blocks"), { recursive: true });
  const found = blocks.find((path) => String(path).endsWith(`/${cid}`));
  if (!found) throw new Error(`${cid} is not in the node`);
  const block = readFileSync(join(store, "blocks/blocks", String(found)), "latin1");
  // A file of one block: what stands around the document is its length.
  return block.slice(block.indexOf("{"), block.lastIndexOf("}") + 1);
}

test("a commit's usage gets on chain by the workflow, and once more after the next commit", async () => {
  const wallet = join(folder, "wallet");
  const store = join(folder, "node");
  writeFileSync(wallet, SECRET, { mode: 0o600 });
  const options = ["--rpc-url", rpc, "--contract", contract, "--wallet", wallet, "--node", `embedded=${store}`];
  await pxfs("mint", "--package", "0", "--yes", ...options);
  const { btnsKey: name } = await tokenInfo(1n);
  const drive = join(folder, "drive");
  await mount(drive, options);
  const entry = config([gateway.names("ipns"), gateway.names("nowhere")]);
  let last = 0n;
  let first = "";
  for (const [round, size] of [
    [1, 100_000],
    [2, 300_000],
  ] as const) {
    writeFileSync(join(drive, "1", `file-${round}`), Buffer.alloc(size, round));
    await pxfs("flush", drive);
    const text = published(store, name);
    await gateway.put(`/ipns/${name}`, { text });
    first ||= text;
    const request = await requestSync(1n);
    play(bridge, entry, request, { write: deliver });
    const document = JSON.parse(text);
    const info = await tokenInfo(1n);
    expect([info.usage, info.sequence, info.requestId]).toEqual([
      BigInt(document.usage),
      BigInt(document.sequence),
      `0x${"0".repeat(64)}`,
    ]);
    expect(info.usage).toBeGreaterThan(last + BigInt(size) - 1n);
    expect(info.root).not.toBe(`0x${"0".repeat(64)}`);
    last = info.usage;
    console.log(`gas of onReport, ${round === 1 ? "first" : "later"} sync: ${processed?.gasUsed}`);
    expect(processed?.gasUsed).toBeLessThan(200_000n);
  }
  // What cannot be had, and a gateway that holds back the newest commit, close the request and
  // change nothing else.
  const before = await tokenInfo(1n);
  for (const [served, code] of [
    [{ status: 404 }, Code.noName],
    [{ text: first }, OLD_SEQUENCE],
  ] as const) {
    await gateway.put(`/ipns/${name}`, served);
    play(bridge, entry, await requestSync(1n), { write: deliver });
    console.log(`gas of onReport, refused with code ${code}: ${processed?.gasUsed}`);
    expect(await lastFailure()).toBe(code);
    const { usage, sequence, root, requestId } = await tokenInfo(1n);
    expect([usage, sequence, root]).toEqual([before.usage, before.sequence, before.root]);
    expect(requestId).toBe(`0x${"0".repeat(64)}`);
  }
});

/** The code of the last `SyncFailed`. */
async function lastFailure(): Promise<number | undefined> {
  const filter = { address: contract, abi: PxSync.abi, eventName: "SyncFailed", fromBlock: 0n } as const;
  const events = (await reader().getContractEvents(filter)) as unknown as { args: { code: number } }[];
  return events.at(-1)?.args.code;
}

/** Mounts, and waits until the token is there. */
async function mount(drive: string, options: string[]): Promise<void> {
  await Bun.$`mkdir ${drive}`.quiet();
  const state = ["--state-dir", join(folder, "state"), "--cache-dir", join(folder, "cache")];
  daemon = keep([PXFS, "mount", "-f", drive, "--volume", "plain", ...options, ...state], { XDG_RUNTIME_DIR: folder });
  for (let tries = 0; tries < 300; tries += 1) {
    if (readdirSync(drive).includes("1")) return;
    await Bun.sleep(100);
  }
  throw new Error("the drive does not appear");
}

test("the contract takes the reports of its workflow alone", async () => {
  const name = readFileSync(join(top, "tests/golden/usage/key.txt"), "utf8").trim();
  const { logs } = await send("register", [1n, name]);
  expect(logs.length).toBeGreaterThan(0);
  const entry = config([gateway.names("nowhere")]);
  const request = await requestSync(1n);
  const ours = [metadata(45, 32), metadata(87, 20)];
  for (const [id, owner] of [
    [toHex(1, { size: 32 }), ours[1]],
    [ours[0], toHex(1, { size: 20 })],
  ]) {
    await send("setWorkflow", [id, owner]);
    expect(() => play(bridge, entry, request, { write: deliver })).toThrow("was not taken");
    expect((await tokenInfo(1n)).requestId).toBe(request.requestId as Hex);
  }
  await send("setWorkflow", ours);
  play(bridge, entry, request, { write: deliver });
  expect((await tokenInfo(1n)).requestId).toBe(`0x${"0".repeat(64)}`);
});
