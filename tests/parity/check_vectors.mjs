// viem and OpenZeppelin's merkle-tree against vectors.json; prints one JSON line with what they computed.
import { readFileSync } from 'node:fs'
import { StandardMerkleTree } from '@openzeppelin/merkle-tree'
import { hashTypedData, recoverAddress } from 'viem'

const vectors = JSON.parse(readFileSync(new URL('./vectors.json', import.meta.url)))
const { chainId, verifyingContract } = vectors.domain
const domain = { name: 'InferenceEscrow', version: '1', chainId, verifyingContract }
const structs = {}
const changed = {}
for (const [name, row] of Object.entries(vectors.structs)) {
  const members = row.type.slice(row.type.indexOf('(') + 1, -1).split(',').map((item) => {
    const [type, field] = item.split(' ')
    return { type, name: field }
  })
  const digestOf = (fields) => {
    const message = Object.fromEntries(
      members.map(({ type, name: field }) => [field, type.startsWith('uint') ? BigInt(fields[field]) : fields[field]]),
    )
    return hashTypedData({ domain, types: { [name]: members }, primaryType: name, message })
  }
  changed[name] = Object.fromEntries(Object.entries(vectors.changed[name]).map(([field, other]) => [field, digestOf(other.fields)]))
  const digest = digestOf(row.fields)
  structs[name] = { digest, signer: await recoverAddress({ hash: digest, signature: row.signature }) }
}

const given = process.argv[2] ? JSON.parse(readFileSync(process.argv[2])) : vectors.merkle
const tree = StandardMerkleTree.of(given.digests.map((digest) => [digest]), ['bytes32'])
const proved = given.digests.every((digest, i) => StandardMerkleTree.verify(given.root, ['bytes32'], [digest], given.proofs[i]))
console.log(JSON.stringify({ structs, changed, root: tree.root, proved }))
