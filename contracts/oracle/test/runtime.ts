// Plays one request through the workflow in Chainlink's test runtime. Must run within its `test`.
import { create } from "@bufbuild/protobuf";
import { anyPack, anyUnpack } from "@bufbuild/protobuf/wkt";
import { type EVMLog, getNetwork, hexToBytes } from "@chainlink/cre-sdk";
import {
  addContractMock,
  EvmMock,
  getTestCapabilityHandler,
  newTestRuntime,
  registerTestCapability,
} from "@chainlink/cre-sdk/test";
import {
  decodeAbiParameters,
  encodeAbiParameters,
  type Hex,
  keccak256,
  pad,
  parseAbi,
  parseAbiParameters,
  toEventSelector,
  toHex,
} from "viem";
import {
  RequestSchema,
  ResponseSchema,
} from "../node_modules/@chainlink/cre-sdk/dist/generated/capabilities/networking/http/v1alpha/client_pb.js";
import { LogSchema } from "../node_modules/@chainlink/cre-sdk/dist/generated/capabilities/blockchain/evm/v1alpha/client_pb.js";
import { answer, type Config } from "../workflow.ts";
import type { Bridge } from "./bridge.ts";

const HTTP = "http-actions@1.0.0-alpha";
const events = parseAbi([
  "event SyncRequested(uint256 indexed tokenId, bytes32 indexed requestId, uint64 epoch, string btnsKey)",
]);

/** A report's seven words. */
export type Report = readonly [Hex, bigint, bigint, bigint, bigint, Hex, number];
export type Request = { tokenId: bigint; epoch: bigint; name: string; requestId?: Hex };
export type Written = { txStatus: "TX_STATUS_SUCCESS" | "TX_STATUS_REVERTED"; txHash?: string };
export type Options = {
  /** What carries the report to the chain; without it, it goes nowhere. */
  write?: (rawReport: Uint8Array) => Written;
  /** The nodes find no agreement. */
  disagree?: boolean;
};
export type Played = {
  requestId: Hex;
  report: Report;
  rawReport: Uint8Array;
  receiver: Hex;
  gasLimit: bigint;
  returned: string;
};

/** The calls of one test share its registry; what differs from play to play stands here. */
let current: { bridge: Bridge; disagree: boolean };

export function play(bridge: Bridge, config: Config, request: Request, options: Options = {}): Played {
  current = { bridge, disagree: options.disagree ?? false };
  const runtime = newTestRuntime(null, {}, config);
  if (!getTestCapabilityHandler(HTTP)) registerHttp();
  const selector = getNetwork({ chainFamily: "evm", chainSelectorName: config.chain })?.chainSelector.selector;
  if (selector === undefined) throw new Error(`no chain ${config.chain}`);
  const contract = addContractMock(EvmMock.testInstance(selector), { address: config.contract as Hex, abi: [] });
  let played: Omit<Played, "returned"> | undefined;
  const requestId = request.requestId ?? keccak256(toHex(request.name));
  contract.writeReport = ({ report: { rawReport }, receiver, gasConfig }) => {
    const body = toHex(rawReport.slice(109));
    const report = decodeAbiParameters(
      parseAbiParameters("bytes32, uint256, uint64, uint256, uint64, bytes32, uint8"),
      body,
    );
    played = { requestId, report, rawReport, receiver: toHex(receiver), gasLimit: gasConfig.gasLimit };
    return options.write?.(rawReport) ?? { txStatus: "TX_STATUS_SUCCESS", txHash: Buffer.alloc(32).toString("base64") };
  };
  const returned = answer(disagreeing(runtime), logOf(config, { ...request, requestId }));
  if (!played) throw new Error("the workflow reported nothing");
  return { ...played, returned };
}

/** The runtime, whose nodes find no agreement where the play says so. */
function disagreeing<T extends { runInNodeMode: (...args: never[]) => unknown }>(runtime: T): T {
  if (!current.disagree) return runtime;
  return new Proxy(runtime, {
    get(target, property) {
      if (property === "runInNodeMode") {
        return () => () => ({
          result: () => {
            throw new Error("consensus failed: observations are not identical");
          },
        });
      }
      const value = Reflect.get(target, property, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** Fetches over HTTP. Called when the workflow asks, and waited for when it wants the answer. */
function registerHttp(): void {
  registerTestCapability(HTTP, ({ payload }) => {
    const request = anyUnpack(payload, RequestSchema);
    if (!request) throw new Error("no HTTP request");
    const timeoutMs = Number(request.timeout?.seconds ?? 10n) * 1000;
    const wait = current.bridge.begin(request.url, { method: request.method, headers: request.headers }, timeoutMs);
    let settled: { case: "payload"; value: ReturnType<typeof anyPack> } | { case: "error"; value: string } | undefined;
    const settle = () => {
      const { status, body } = wait();
      settled ??= status
        ? { case: "payload", value: anyPack(ResponseSchema, create(ResponseSchema, { statusCode: status, body })) }
        : { case: "error", value: Buffer.from(body).toString("utf8") };
      return settled;
    };
    // The runtime reads it when the workflow waits.
    const response = {
      get case() {
        return (settled ?? settle()).case;
      },
      get value() {
        return (settled ?? settle()).value;
      },
    };
    return { response } as ReturnType<Parameters<typeof registerTestCapability>[1]>;
  });
}

/** The block that requests stand in. */
export const BLOCK = 4711n;

function logOf(config: Config, request: Required<Request>): EVMLog {
  const selector = toEventSelector(events[0]);
  const topics = [selector, pad(toHex(request.tokenId)), request.requestId];
  const data = encodeAbiParameters(parseAbiParameters("uint64, string"), [request.epoch, request.name]);
  return create(LogSchema, {
    address: hexToBytes(config.contract as Hex),
    topics: topics.map((topic) => hexToBytes(topic)),
    eventSig: hexToBytes(selector),
    data: hexToBytes(data),
    blockNumber: { absVal: hexToBytes(toHex(BLOCK)), sign: 1n },
  });
}
