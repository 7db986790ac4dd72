// Names and usage metadata, as the oracle verifies them.
//
// Pure: nothing of node, of a browser or of Chainlink is used here. The workflow runs it in
// WebAssembly; the tests hold it to the documents in tests/golden, as they hold the reader in Rust.
// The form of the document stands in crates/format/src/usage.rs; one meaning has one sequence of bytes, and
// nothing else is taken.
import { ed25519 } from "@noble/curves/ed25519.js";
import { sha512 } from "@noble/hashes/sha2.js";

/** The error codes of a report (contracts/README.md); 0 is none. */
export const Code = {
  fine: 0,
  noName: 1,
  noDocument: 2,
  notValid: 3,
  otherToken: 4,
  badKey: 5,
  oracleFailed: 6,
} as const;
export type Code = (typeof Code)[keyof typeof Code];

/** What a document must be of. */
export type Volume = { chainId: bigint; contract: string; tokenId: bigint; epoch: bigint };
/** What a document says, as far as a report carries it; `root` is a digest of 32 bytes in hex. */
export type Usage = Volume & { usage: number; sequence: number; root: string };
/** A verified document, or why there is none. */
export type Verdict = { code: typeof Code.fine; usage: Usage } | { code: Exclude<Code, 0>; why: string };

/** The greatest document, in bytes. */
export const MAX_USAGE_BYTES = 4096;
/** 32 zero bytes: no root. */
export const NO_ROOT = `0x${"0".repeat(64)}`;

const PREFIX = "pxfs-usage-v1:";
const SIGNATURE_KEY = ',"signature":';
/** CIDv1, libp2p-key, identity multihash of 36 bytes, libp2p protobuf: ed25519, 32 bytes of key. */
const NAME_PREFIX = 0x0172002408011220n;
const { Point } = ed25519;
const ORDER = Point.Fn.ORDER;

/** What `document` says to a token that wants one of `wanted` under `name`. */
export function judge(document: Uint8Array, name: string, wanted: Volume): Verdict {
  const key = publicKey(name);
  if (!key) return { code: Code.badKey, why: "the key is not the name of an ed25519 key" };
  let usage: Usage;
  try {
    usage = verify(document, key);
  } catch (error) {
    return { code: Code.notValid, why: error instanceof Error ? error.message : String(error) };
  }
  const same =
    usage.chainId === wanted.chainId &&
    usage.contract === wanted.contract.toLowerCase() &&
    usage.tokenId === wanted.tokenId &&
    usage.epoch === wanted.epoch;
  if (!same) return { code: Code.otherToken, why: "usage metadata of another token or epoch" };
  return { code: Code.fine, usage };
}

/** The ed25519 key of a name, `null` where the text is none, or the key signs for anybody. */
export function publicKey(name: string): Uint8Array | null {
  if (!/^k51[0-9a-z]{59}$/.test(name)) return null;
  let value = 0n;
  for (const digit of name.slice(1)) value = value * 36n + BigInt(Number.parseInt(digit, 36));
  // The first digit is 5 and the length is fixed: each number has one text.
  if (value >> 256n !== NAME_PREFIX) return null;
  const key = bytesOf(value & ((1n << 256n) - 1n), 32);
  try {
    return Point.fromBytes(key, true).isSmallOrder() ? null : key;
  } catch {
    return null;
  }
}

/** What a document says that has the closed form and that `key` signed; throws where it does not. */
export function verify(document: Uint8Array, key: Uint8Array): Usage {
  const { usage, signedPart, signature } = parse(document);
  const message = new Uint8Array(PREFIX.length + signedPart.length + 1);
  message.set(asciiBytes(PREFIX));
  message.set(signedPart, PREFIX.length);
  message[message.length - 1] = 0x7d;
  if (!isSigned(message, signature, key)) {
    throw new Error("usage metadata is not signed by the token's name key");
  }
  return usage;
}

/**
 * Strict ed25519, without the cofactor: of all that satisfies the equation with it, only what a
 * signer makes is taken. The same rule as `verify_strict` of the Rust reader.
 */
function isSigned(message: Uint8Array, signature: Uint8Array, key: Uint8Array): boolean {
  const r = signature.subarray(0, 32);
  const s = littleEndian(signature.subarray(32));
  if (s >= ORDER) return false;
  const owner = Point.fromBytes(key, true);
  const hashed = new Uint8Array(64 + message.length);
  hashed.set(r);
  hashed.set(key, 32);
  hashed.set(message, 64);
  const k = littleEndian(sha512(hashed)) % ORDER;
  const expected = Point.BASE.multiplyUnsafe(s).subtract(owner.multiplyUnsafe(k));
  if (owner.isSmallOrder() || expected.isSmallOrder()) return false;
  return expected.toBytes().every((byte, at) => byte === r[at]);
}

/** Takes the closed form apart; the signature is not verified yet. */
function parse(bytes: Uint8Array): { usage: Usage; signedPart: Uint8Array; signature: Uint8Array } {
  if (bytes.length > MAX_USAGE_BYTES) throw new Error(`usage metadata of ${bytes.length} bytes is above 4096`);
  const odd = bytes.findIndex((byte) => byte < 0x20 || byte >= 0x7f || byte === 0x5c);
  if (odd >= 0) throw malformed(odd, "printable ASCII without a backslash");
  const input = new Cursor(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  input.literal('{"version":');
  const version = input.number();
  if (version !== 1) throw new Error(`usage metadata has version ${version}, this oracle reads version 1`);
  input.literal(',"chainId":');
  const chainId = BigInt(input.number());
  input.literal(',"contract":');
  const contract = input.string("0x and 40 lower-case hex digits", matching(/^0x[0-9a-f]{40}$/));
  input.literal(',"tokenId":');
  const tokenId = input.string("a decimal number below 2^256", tokenIdOf);
  input.literal(',"epoch":');
  const epoch = BigInt(input.number());
  input.literal(',"quota":');
  input.number();
  input.literal(',"usage":');
  const usage = input.number();
  input.literal(',"uploads":');
  input.number();
  input.literal(',"cid":');
  input.nullable("null or a CID", (text) => nodeDigest(text) ?? leafDigest(text));
  input.literal(',"root":');
  const root = input.nullable("null or a CIDv0", nodeDigest) ?? NO_ROOT;
  input.literal(',"sequence":');
  const sequence = input.number();
  input.literal(',"updated":');
  input.string("a time like 2026-01-31T23:59:59Z", timeOf);
  const signedPart = bytes.subarray(0, input.at);
  input.literal(SIGNATURE_KEY);
  const hex = input.string("128 lower-case hex digits", matching(/^[0-9a-f]{128}$/));
  input.literal("}");
  if (input.at !== input.text.length) throw malformed(input.at, "the end");
  const signature = bytesOf(BigInt(`0x${hex}`), 64);
  return { usage: { chainId, contract, tokenId, epoch, usage, sequence, root }, signedPart, signature };
}

/** The text, and how much of it was read. */
class Cursor {
  at = 0;
  constructor(readonly text: string) {}

  literal(literal: string): void {
    if (!this.text.startsWith(literal, this.at)) throw malformed(this.at, literal);
    this.at += literal.length;
  }

  /** A plain decimal number of at most 2^53 − 1. */
  number(): number {
    let end = this.at;
    while (end < this.text.length && isDigit(this.text[end])) end += 1;
    const digits = this.text.slice(this.at, end);
    const value = isPlainDecimal(digits) && digits.length <= 16 ? BigInt(digits) : -1n;
    if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw malformed(this.at, "a plain whole number of at most 2^53 - 1");
    }
    this.at = end;
    return Number(value);
  }

  /** A string that `read` understands. */
  string<T>(want: string, read: (text: string) => T | null): T {
    const end = this.text[this.at] === '"' ? this.text.indexOf('"', this.at + 1) : -1;
    const value = end < 0 ? null : read(this.text.slice(this.at + 1, end));
    if (value === null) throw malformed(this.at, want);
    this.at = end + 1;
    return value;
  }

  /** `null`, or a string that `read` understands. */
  nullable<T>(want: string, read: (text: string) => T | null): T | null {
    if (!this.text.startsWith("null", this.at)) return this.string(want, read);
    this.at += 4;
    return null;
  }
}

function malformed(at: number, want: string): Error {
  return new Error(`usage metadata is malformed at byte ${at}: expected ${want}`);
}

function isDigit(char: string | undefined): boolean {
  return char !== undefined && char >= "0" && char <= "9";
}

/** Digits without a leading zero. */
function isPlainDecimal(text: string): boolean {
  return /^(0|[1-9][0-9]*)$/.test(text);
}

function matching(form: RegExp): (text: string) => string | null {
  return (text) => (form.test(text) ? text : null);
}

function tokenIdOf(text: string): bigint | null {
  if (!isPlainDecimal(text) || text.length > 78) return null;
  const value = BigInt(text);
  return value < 1n << 256n ? value : null;
}

const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";

/** The digest of a CIDv0 (`Qm…`: base58 of 0x1220 and a SHA-256), as hex. */
function nodeDigest(text: string): string | null {
  return text.length === 46 && text.startsWith("Qm") ? digestAfter(numberOf(text, BASE58), 0x1220n) : null;
}

/** The digest of a CIDv1 of raw bytes (`bafkrei…`: base32 of 0x01551220 and a SHA-256), as hex. */
function leafDigest(text: string): string | null {
  if (text.length !== 59 || text[0] !== "b") return null;
  const value = numberOf(text.slice(1), BASE32);
  // 58 digits are 290 bits, two more than there are.
  return value !== null && (value & 3n) === 0n ? digestAfter(value >> 2n, 0x01551220n) : null;
}

function numberOf(text: string, alphabet: string): bigint | null {
  let value = 0n;
  for (const char of text) {
    const digit = alphabet.indexOf(char);
    if (digit < 0) return null;
    value = value * BigInt(alphabet.length) + BigInt(digit);
  }
  return value;
}

function digestAfter(value: bigint | null, prefix: bigint): string | null {
  if (value === null || value >> 256n !== prefix) return null;
  return `0x${(value & ((1n << 256n) - 1n)).toString(16).padStart(64, "0")}`;
}

/** `YYYY-MM-DDTHH:MM:SSZ`, a second since 1970 that exists. */
function timeOf(text: string): string | null {
  const parts = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z$/.exec(text)?.slice(1).map(Number);
  const [year = 0, month = 0, day = 0, hour = 99, minute = 99, second = 99] = parts ?? [];
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1] ?? 0;
  const exists = year >= 1970 && day >= 1 && day <= days && hour <= 23 && minute <= 59 && second <= 59;
  return exists ? text : null;
}

function asciiBytes(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

/** `value` in `length` bytes, the greatest first. */
function bytesOf(value: bigint, length: number): Uint8Array {
  const hex = value.toString(16).padStart(2 * length, "0");
  return Uint8Array.from({ length }, (_, at) => Number.parseInt(hex.slice(2 * at, 2 * at + 2), 16));
}

function littleEndian(bytes: Uint8Array): bigint {
  return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}
