// The oracle as a workflow of the Chainlink Runtime Environment: a token's `SyncRequested` in, what
// its usage metadata says out, as a report to the contract's `onReport`.
//
// Every node of the network asks all gateways at once and takes the valid document with the highest
// sequence; the network reports what enough nodes found alike. A request always gets an answer: where
// there is no document, the code says why. Nothing is fetched but the configured gateways, with a name
// in their path that has the one form of names.
import {
  bytesToHex,
  consensusIdenticalAggregation,
  EVMClient,
  type EVMLog,
  getNetwork,
  HTTPClient,
  handler,
  logTriggerConfig,
  type NodeRuntime,
  prepareReportRequest,
  protoBigIntToBigint,
  type Runtime,
  TxStatus,
} from "@chainlink/cre-sdk";
import { decodeEventLog, encodeAbiParameters, type Hex, parseAbi, parseAbiParameters, toEventSelector } from "viem";
import { z } from "zod";
import { Code, judge, MAX_USAGE_BYTES, NO_ROOT, publicKey, type Verdict, type Volume } from "./usage.ts";

/** How often one run may fetch (a quota of Chainlink's). */
const MAX_GATEWAYS = 5;
/** Where several gateways have nothing, the answer that tells most. */
const TELLING: readonly Code[] = [Code.otherToken, Code.notValid, Code.noDocument, Code.noName];

const gateway = z
  .string()
  .regex(/^https?:\/\/[^\s{}]*\{name\}[^\s{}]*$/, "a URL with {name} once, as https://example.org/ipns/{name}");

export const configSchema = z.object({
  /** The chain, by Chainlink's name of it: polygon-mainnet. */
  chain: z.string(),
  /** The token contract. */
  contract: z.string().regex(/^0x[0-9a-fA-F]{40}$/, "an address"),
  /** Where names are looked up: {name} stands for the token's key. */
  gateways: z.array(gateway).min(1).max(MAX_GATEWAYS),
  /** How sure the block of a request must be before it is answered. */
  confidence: z.enum(["LATEST", "SAFE", "FINALIZED"]),
  /** Gas of the delivery. */
  gasLimit: z.string().regex(/^[1-9][0-9]*$/),
});
export type Config = z.infer<typeof configSchema>;

const events = parseAbi([
  "event SyncRequested(uint256 indexed tokenId, bytes32 indexed requestId, uint64 epoch, string btnsKey)",
]);
const SYNC_REQUESTED = toEventSelector(events[0]);
const REPORT = parseAbiParameters("bytes32, uint256, uint64, uint256, uint64, bytes32, uint8");

/** A request for a sync. */
type Request = { requestId: Hex; tokenId: bigint; epoch: bigint; name: string };
/** The block that a request was seen in, and the time that the network agrees on, in seconds. */
type Seen = { block: number; time: number };

export function workflow(config: Config) {
  const { client } = network(config);
  const trigger = client.logTrigger(
    logTriggerConfig({
      addresses: [config.contract as Hex],
      topics: [[SYNC_REQUESTED]],
      confidence: config.confidence,
    }),
  );
  return [handler(trigger, answer)];
}

/** Answers one request; what it returns is for the log. */
export function answer(runtime: Runtime<Config>, log: EVMLog): string {
  if (log.removed) return "the request's block was replaced";
  const { client, chainId } = network(runtime.config);
  const request = requestOf(log);
  const seen = { block: blockOf(log), time: Math.floor(runtime.now().getTime() / 1000) };
  let report: Hex;
  try {
    const observed = runtime.runInNodeMode(observe, consensusIdenticalAggregation<string>());
    report = observed(chainId, request, seen).result() as Hex;
  } catch (error) {
    // The nodes saw different things, as they may while a commit spreads.
    runtime.log(`token ${request.tokenId}: the nodes do not agree: ${error instanceof Error ? error.message : error}`);
    report = encode(request, { code: Code.oracleFailed, why: "no agreement" }, seen);
  }
  const signed = runtime.report(prepareReportRequest(report)).result();
  const gasConfig = { gasLimit: runtime.config.gasLimit };
  const receiver = runtime.config.contract;
  const written = client.writeReport(runtime, { receiver, report: signed, gasConfig }).result();
  if (written.txStatus !== TxStatus.SUCCESS || written.receiverContractExecutionStatus) {
    throw new Error(`token ${request.tokenId}: the report was not taken: ${written.errorMessage || "it reverted"}`);
  }
  return written.txHash ? bytesToHex(written.txHash) : "delivered";
}

/** What this node finds, as the report that it would send. */
function observe(node: NodeRuntime<Config>, chainId: bigint, request: Request, seen: Seen): string {
  const { tokenId, epoch } = request;
  const wanted = { chainId, contract: node.config.contract, tokenId, epoch };
  const verdict = publicKey(request.name)
    ? best(fetchAll(node, request.name, wanted))
    : { code: Code.badKey, why: "the key is not the name of an ed25519 key" };
  if (verdict.code !== Code.fine) node.log(`token ${tokenId}: ${verdict.why}`);
  return encode(request, verdict, seen);
}

/** What each gateway leads to. All are asked before the first answer is waited for. */
function fetchAll(node: NodeRuntime<Config>, name: string, wanted: Volume): Verdict[] {
  const http = new HTTPClient();
  const headers = { "cache-control": "no-cache" };
  const calls = node.config.gateways.map((url) =>
    http.sendRequest(node, { url: withType(url.replace("{name}", name)), method: "GET", headers, timeout: "10s" }),
  );
  return calls.map((call): Verdict => {
    try {
      const { statusCode, body } = call.result();
      if (statusCode === 404 || statusCode === 410) return { code: Code.noName, why: "the name leads nowhere" };
      if (statusCode !== 200) return { code: Code.noDocument, why: `a gateway answered with status ${statusCode}` };
      if (body.length > MAX_USAGE_BYTES) return { code: Code.notValid, why: "what the name leads to is above 4 KiB" };
      return judge(body, name, wanted);
    } catch (error) {
      const why = `a gateway did not answer: ${error instanceof Error ? error.message : error}`;
      return { code: Code.oracleFailed, why };
    }
  });
}

/** A gateway of BTFS sends no byte of a raw leaf unless a file name tells its type. */
export function withType(url: string): string {
  if (/[?&]filename=/.test(url)) return url;
  return `${url}${url.includes("?") ? "&" : "?"}filename=usage.json`;
}

/** The newest valid document, or else what tells most. */
export function best(verdicts: Verdict[]): Verdict {
  let newest: Verdict | undefined;
  for (const verdict of verdicts) {
    if (verdict.code !== Code.fine) continue;
    if (newest?.code !== Code.fine || verdict.usage.sequence > newest.usage.sequence) newest = verdict;
  }
  for (const code of TELLING) newest ??= verdicts.find((verdict) => verdict.code === code);
  return newest ?? verdicts[0] ?? { code: Code.oracleFailed, why: "no gateway" };
}

/** The report of PxSync.onReport: of a failure it tells the block, and the time, of which it is true. */
function encode(request: Request, verdict: Verdict, seen: Seen): Hex {
  const { usage, sequence, root } =
    verdict.code === Code.fine ? verdict.usage : { usage: seen.block, sequence: seen.time, root: NO_ROOT };
  const { requestId, tokenId, epoch } = request;
  return encodeAbiParameters(REPORT, [
    requestId,
    tokenId,
    epoch,
    BigInt(usage),
    BigInt(sequence),
    root as Hex,
    verdict.code,
  ]);
}

function requestOf(log: EVMLog): Request {
  const topics = log.topics.map((topic) => bytesToHex(topic)) as [Hex, ...Hex[]];
  const { args } = decodeEventLog({ abi: events, topics, data: bytesToHex(log.data) });
  return { requestId: args.requestId, tokenId: args.tokenId, epoch: args.epoch, name: args.btnsKey };
}

function blockOf(log: EVMLog): number {
  return log.blockNumber ? Number(protoBigIntToBigint(log.blockNumber)) : 0;
}

function network(config: Config): { client: EVMClient; chainId: bigint } {
  const found = getNetwork({ chainFamily: "evm", chainSelectorName: config.chain });
  if (!found) throw new Error(`chain ${config.chain} is not one of Chainlink's`);
  return { client: new EVMClient(found.chainSelector.selector), chainId: BigInt(found.chainId) };
}
