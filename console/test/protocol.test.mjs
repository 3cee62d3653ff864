// The console's own hashing, held against the vectors that Python and Solidity are held against.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { build } from "esbuild";

const here = new URL(".", import.meta.url);

async function load(path) {
  const made = await build({
    entryPoints: [new URL(`../src/${path}`, here).pathname],
    bundle: true,
    format: "esm",
    platform: "browser",
    write: false,
  });
  return import(`data:text/javascript;base64,${Buffer.from(made.outputFiles[0].contents).toString("base64")}`);
}

const vectors = JSON.parse(await readFile(new URL("../../tests/parity/vectors.json", here), "utf8"));
const domain = { chainId: Number(vectors.domain.chainId), escrow: vectors.domain.verifyingContract };
const typed = await load("protocol/typed.ts");
const merkle = await load("protocol/merkle.ts");
const tensors = await load("protocol/tensors.ts");
const format = await load("format.ts");

const big = (fields, names) => Object.fromEntries(names.map((name) => [name, /^0x/.test(fields[name]) ? fields[name] : BigInt(fields[name])]));

test("channel, voucher and receipt have the digests of the vectors", () => {
  const { Channel, Voucher, Receipt, ChannelAccess } = vectors.structs;
  assert.equal(typed.channelId(big(Channel.fields, Object.keys(Channel.fields)), domain), Channel.digest);
  assert.equal(typed.voucherDigest(Voucher.fields.channelId, BigInt(Voucher.fields.cumulativeAmount), domain), Voucher.digest);
  assert.equal(typed.accessDigest(ChannelAccess.fields.channelId, domain), ChannelAccess.digest);
  assert.equal(typed.receiptDigest(typed.receiptFromJson(Receipt.fields), domain), Receipt.digest);
});

test("a channel's salt says whether its vouchers need access beside them", () => {
  const salt = typed.guardedSalt(2n ** 64n - 1n);
  assert.equal(salt, 0x616363ffffffffffn);
  assert.equal(typed.needsAccess({ salt }), true);
  assert.equal(typed.needsAccess({ salt: 2n ** 64n - 1n }), false);
});

test("a receipt's header form is read back field by field", () => {
  const { fields } = vectors.structs.Receipt;
  const width = { bytes32: 64, address: 40, uint128: 32, uint64: 16 };
  const hex = typed.TYPES.Receipt.map(({ name, type }) =>
    type.startsWith("uint") ? BigInt(fields[name]).toString(16).padStart(width[type], "0") : fields[name].slice(2),
  ).join("");
  const worker = "11".repeat(65 + 32);
  const header = (tail) => Buffer.from(hex + tail, "hex").toString("base64url");
  const paper = typed.paperFromHeader(header("0061" + worker + "22".repeat(65)));
  assert.deepEqual(paper.receipt, typed.receiptFromJson(fields));
  assert.equal(paper.workerSignature, `0x${worker}`);
  assert.equal(paper.gatewaySignature, `0x${"22".repeat(65)}`);
  assert.throws(() => typed.paperFromHeader(header("0061")), /cut short/);
  assert.throws(() => typed.paperFromHeader(header("0061" + worker + "22".repeat(66))), /malformed/);
  assert.throws(() => typed.paperFromHeader(header("0040" + worker + "22".repeat(65))), /malformed/);
});

test("a signature is the signer's, alone or over a batch with its proof", async () => {
  const { Receipt, ReceiptBatch } = vectors.structs;
  const signer = vectors.signer.toLowerCase();
  assert.equal(await typed.receiptSigner(Receipt.digest, Receipt.signature, domain), signer);
  assert.equal(typed.batchDigest(ReceiptBatch.fields.root, domain), ReceiptBatch.digest);
  const { digests, batchSignatures } = vectors.merkle;
  for (const [index, digest] of digests.entries()) {
    const batched = batchSignatures[index];
    assert.equal(await typed.receiptSigner(digest, batched, domain), signer);
    assert.notEqual(await typed.receiptSigner(digests[(index + 1) % digests.length], batched, domain), signer);
  }
  await assert.rejects(typed.receiptSigner(Receipt.digest, "0x1234", domain), /malformed/);
});

test("malformed receipts are refused by field", () => {
  const { fields } = vectors.structs.Receipt;
  assert.throws(() => typed.receiptFromJson({ ...fields, worker: "0x12" }), /worker/);
  assert.throws(() => typed.receiptFromJson({ ...fields, price: undefined }), /price/);
});

test("Merkle proofs of the vectors lead to their root, and no others do", () => {
  const { digests, root, proofs } = vectors.merkle;
  for (const [index, digest] of digests.entries()) {
    assert.equal(merkle.proves(root, digest, proofs[index]), true);
    assert.equal(merkle.proves(root, digests[(index + 1) % digests.length], proofs[index]), false);
  }
});

test("amounts are written exactly and read back", async () => {
  const { money, atomic } = await load("format.ts");
  assert.deepEqual(["0", "1", "1000", "250000", "1000000", "1234567890"].map(money), [
    "$0.00",
    "$0.000001",
    "$0.001",
    "$0.25",
    "$1.00",
    "$1,234.56789",
  ]);
  assert.equal(atomic("0.25"), 250_000n);
  assert.equal(atomic("1."), 1_000_000n);
  for (const wrong of ["", "-1", "1e3", "0.1234567", "1,0"]) assert.equal(atomic(wrong), null);
});

test("numbers of 16 bits are read, the least, the infinite and those that are none too", () => {
  const read = (datatype, ...bits) => {
    const data = new Uint8Array(new Uint16Array(bits).buffer);
    return tensors.numbers({ name: "x", datatype, shape: [bits.length], data });
  };
  assert.deepEqual(
    read("FP16", 0x3c00, 0xc000, 0x7bff, 0x0001, 0x0400, 0x8000, 0x7c00, 0xfc00, 0x7e00, 0x3555),
    [1, -2, 65504, 2 ** -24, 2 ** -14, -0, Infinity, -Infinity, NaN, 0.333251953125],
  );
  assert.deepEqual(read("BF16", 0x3f80, 0xc000, 0x7f80, 0xff80, 0x7fc0, 0x3eab), [1, -2, Infinity, -Infinity, NaN, 0.333984375]);
});

test("what a worker hashed is hashed alike, infinities included", () => {
  const row = { name: "y", datatype: "FP32", shape: [3], parameters: { binary_data_size: 12 } };
  const head = new TextEncoder().encode(JSON.stringify({ outputs: [row] }));
  const data = new Uint8Array(new Float32Array([Infinity, -Infinity, 1]).buffer);
  // Another NaN than the one that a program would write for itself.
  data.set([1, 0, 0xc0, 0x7f], 8);
  const headers = new Headers({ "Inference-Header-Content-Length": String(head.length) });
  const { outputs } = tensors.decodeBody(headers, tensors.joined([head, data]));
  assert.deepEqual(outputs[0].data, data);
  assert.deepEqual(tensors.numbers(outputs[0]), [Infinity, -Infinity, NaN]);
});

test("prices for one token and for a million are compared by the token", () => {
  assert.equal(format.priceOfOne("million_tokens", 20_000n), 0.02);
  assert.ok(format.priceOfOne("million_tokens", 20_000n) < format.priceOfOne("token", 1n));
  assert.equal(format.priceOfOne("request", 5n), 5);
});
