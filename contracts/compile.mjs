// Compiles the contracts into artifacts/, or with --check compares what is committed there with a
// fresh compilation. The result depends on nothing but the sources and the versions that
// package-lock.json pins: no path, no time and no metadata hash goes into it.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const artifacts = join(here, "artifacts");
/** Source file of each contract that gets an artifact. */
const wanted = {
  PxSync: "src/PxSync.sol",
  OracleForwarder: "src/OracleForwarder.sol",
  Reenterer: "test/Reenterer.sol",
  Multicall: "test/Multicall.sol",
  Keystone: "test/Keystone.sol",
  PxV1: "test/PxV1.sol",
  PxV1Bare: "test/PxV1Bare.sol",
  PxV2: "test/PxV2.sol",
};
/** EIP-170. */
const maxCodeBytes = 24576;
const settings = {
  // Before PUSH0 and MCOPY: not every network of PollinationX has them.
  evmVersion: "paris",
  optimizer: { enabled: true, runs: 200 },
  metadata: { bytecodeHash: "none", appendCBOR: false },
};

function fail(line) {
  console.error(`contracts: ${line}`);
  process.exit(1);
}

function read(path) {
  const file = path.startsWith("@") ? join(here, "node_modules", path) : join(here, path);
  return readFileSync(file, "utf8");
}

/** Compiles everything; answers a map from artifact file name to its text. */
async function compile() {
  const solc = await import("solc").then((m) => m.default, () => fail("run `npm ci` in contracts/ first"));
  const pinned = JSON.parse(read("package-lock.json")).packages;
  for (const name of ["solc", "@openzeppelin/contracts"]) {
    const installed = JSON.parse(read(`node_modules/${name}/package.json`)).version;
    const locked = pinned[`node_modules/${name}`].version;
    if (installed !== locked) fail(`${name} is ${installed}, package-lock.json says ${locked}: run \`npm ci\``);
  }
  const used = {};
  const open = (path) => {
    try {
      used[path] = read(path);
      return { contents: used[path] };
    } catch (error) {
      return { error: error.message };
    }
  };
  const sources = Object.fromEntries(Object.values(wanted).map((path) => [path, { content: (used[path] = read(path)) }]));
  const outputSelection = { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "metadata"] } };
  const input = { language: "Solidity", sources, settings: { ...settings, outputSelection } };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: open }));
  // Warnings count in our own sources; what OpenZeppelin is warned of is not ours to mend.
  const errors = (output.errors ?? []).filter((e) => e.severity === "error" || !e.sourceLocation?.file.startsWith("@"));
  if (errors.length) fail(errors.map((error) => error.formattedMessage).join("\n"));

  const files = {};
  for (const [name, path] of Object.entries(wanted)) {
    const { abi, evm, metadata } = output.contracts[path][name];
    const bytes = evm.deployedBytecode.object.length / 2;
    if (bytes > maxCodeBytes) fail(`${name} has ${bytes} bytes of code, the limit is ${maxCodeBytes}`);
    const paths = Object.keys(JSON.parse(metadata).sources).sort();
    const artifact = {
      contractName: name,
      sourceName: path,
      compiler: solc.version(),
      settings,
      sourcesSha256: Object.fromEntries(
        paths.map((source) => [source, createHash("sha256").update(used[source]).digest("hex")]),
      ),
      abi,
      bytecode: `0x${evm.bytecode.object}`,
      deployedBytecode: `0x${evm.deployedBytecode.object}`,
    };
    files[`${name}.json`] = { text: `${JSON.stringify(artifact, null, 1)}\n`, bytes };
  }
  return files;
}

const files = await compile();
const present = existsSync(artifacts) ? readdirSync(artifacts) : [];
const stray = present.filter((name) => !(name in files));
if (process.argv.includes("--check")) {
  const stale = Object.keys(files).filter(
    (name) => !present.includes(name) || readFileSync(join(artifacts, name), "utf8") !== files[name].text,
  );
  const wrong = [...stale, ...stray];
  if (wrong.length) fail(`artifacts/ does not match the sources (${wrong.join(", ")}): run \`npm run compile\` and commit`);
  console.log(`contracts: ${Object.keys(files).length} artifacts match their sources`);
} else {
  mkdirSync(artifacts, { recursive: true });
  for (const name of stray) rmSync(join(artifacts, name));
  for (const [name, { text, bytes }] of Object.entries(files)) {
    writeFileSync(join(artifacts, name), text);
    console.log(`${relative(process.cwd(), join(artifacts, name))}: ${bytes} bytes of code`);
  }
}
