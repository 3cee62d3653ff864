// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";
import {VoucherHasher} from "@market/libraries/VoucherHasher.sol";

import {Test} from "./support/Test.sol";
import {Tree} from "./support/Tree.sol";

/// @notice The golden vectors that Python writes and eth_account and viem check too: here the contracts' own digests.
contract VectorsTest is Test {
    using VoucherHasher for VoucherHasher.Scratch;

    string private _json;
    // Which field of the example is changed; none at first.
    string private _field;
    bytes32 private _separator;
    IInferenceEscrow private _escrow;

    function setUp() public {
        _json = vm.readFile("../tests/parity/vectors.json");
        vm.chainId(vm.parseJsonUint(_json, ".domain.chainId"));
        address where = vm.parseJsonAddress(_json, ".domain.verifyingContract");
        // Elsewhere than where it was deployed, the escrow computes its domain from its address.
        address made = vm.deployCode("InferenceEscrow.sol", abi.encode(address(1), uint64(1), uint64(1)));
        vm.etch(where, made.code);
        _escrow = IInferenceEscrow(where);
        _separator = _escrow.domainSeparator();
    }

    function _key(string memory name, string memory rest) private view returns (string memory) {
        if (bytes(_field).length == 0) return string.concat(".structs.", name, rest);
        return string.concat(".changed.", name, ".", _field, rest);
    }

    function _number(string memory name, string memory field) private view returns (uint256) {
        return vm.parseJsonUint(_json, _key(name, string.concat(".fields.", field)));
    }

    function _address(string memory name, string memory field) private view returns (address) {
        return vm.parseJsonAddress(_json, _key(name, string.concat(".fields.", field)));
    }

    function _word(string memory name, string memory field) private view returns (bytes32) {
        return vm.parseJsonBytes32(_json, _key(name, string.concat(".fields.", field)));
    }

    function _check(string memory name, bytes32 typeHash, bytes32 structHash) private view {
        assertEq(typeHash, vm.parseJsonBytes32(_json, _key(name, ".typeHash")), string.concat(name, " type"));
        assertEq(structHash, vm.parseJsonBytes32(_json, _key(name, ".structHash")), string.concat(name, " struct"));
        bytes32 digest = TypedData.digest(_separator, structHash);
        assertEq(digest, vm.parseJsonBytes32(_json, _key(name, ".digest")), name);
    }

    function test_Domain() public view {
        assertEq(_separator, vm.parseJsonBytes32(_json, ".domain.separator"), "separator");
    }

    function test_ChannelAndItsId() public view {
        IInferenceEscrow.Channel memory channel = IInferenceEscrow.Channel(
            _address("Channel", "payer"),
            _address("Channel", "signer"),
            _address("Channel", "gateway"),
            uint64(_number("Channel", "salt"))
        );
        _check(
            "Channel",
            TypedData.CHANNEL,
            TypedData.hashChannel(channel.payer, channel.signer, channel.gateway, channel.salt)
        );
        bytes32 digest = vm.parseJsonBytes32(_json, _key("Channel", ".digest"));
        assertEq(_escrow.channelId(channel), digest, "channelId");
        VoucherHasher.Scratch scratch = VoucherHasher.make(_separator, channel.gateway);
        assertEq(scratch.channelId(channel.payer, channel.signer, channel.salt), digest, "batch hasher");
    }

    function test_Voucher() public view {
        bytes32 id = _word("Voucher", "channelId");
        uint128 amount = uint128(_number("Voucher", "cumulativeAmount"));
        _check("Voucher", TypedData.VOUCHER, TypedData.hashVoucher(id, amount));
        VoucherHasher.Scratch scratch = VoucherHasher.make(_separator, address(1));
        assertEq(
            scratch.voucherDigest(id, amount), vm.parseJsonBytes32(_json, _key("Voucher", ".digest")), "batch hasher"
        );
    }

    function test_Receipt() public view {
        IInferenceEscrow.Receipt memory receipt = IInferenceEscrow.Receipt({
            requestId: _word("Receipt", "requestId"),
            channelId: _word("Receipt", "channelId"),
            payer: _address("Receipt", "payer"),
            gateway: _address("Receipt", "gateway"),
            seq: uint64(_number("Receipt", "seq")),
            worker: _address("Receipt", "worker"),
            modelId: _word("Receipt", "modelId"),
            inputHash: _word("Receipt", "inputHash"),
            outputHash: _word("Receipt", "outputHash"),
            price: uint128(_number("Receipt", "price")),
            workerAmount: uint128(_number("Receipt", "workerAmount")),
            ownerAmount: uint128(_number("Receipt", "ownerAmount")),
            cumulative: uint128(_number("Receipt", "cumulative")),
            servedAt: uint64(_number("Receipt", "servedAt"))
        });
        _check("Receipt", TypedData.RECEIPT, keccak256(abi.encode(TypedData.RECEIPT, receipt)));
        assertEq(
            _escrow.receiptDigest(receipt), vm.parseJsonBytes32(_json, _key("Receipt", ".digest")), "receiptDigest"
        );
    }

    function test_ReceiptBatch() public view {
        _check("ReceiptBatch", TypedData.RECEIPT_BATCH, TypedData.hashReceiptBatch(_word("ReceiptBatch", "root")));
    }

    function test_ReceiptsSignedInABatch() public view {
        bytes32[] memory digests = vm.parseJsonBytes32Array(_json, ".merkle.digests");
        address signer = vm.parseJsonAddress(_json, ".signer");
        for (uint256 i = 0; i < digests.length; ++i) {
            string memory at = string.concat(".merkle.batchSignatures[", vm.toString(i), "]");
            bytes memory signature = vm.parseJsonBytes(_json, at);
            assertEq(this.recoverReceipt(_separator, digests[i], signature), signer, at);
        }
    }

    function recoverReceipt(bytes32 separator, bytes32 digest, bytes calldata signature)
        external
        pure
        returns (address)
    {
        return TypedData.recoverReceipt(separator, digest, signature);
    }

    function test_CreditNote() public view {
        _check(
            "CreditNote",
            TypedData.CREDIT_NOTE,
            TypedData.hashCreditNote(
                _address("CreditNote", "gateway"),
                _address("CreditNote", "payee"),
                uint128(_number("CreditNote", "cumulativeAmount"))
            )
        );
    }

    function test_Refund() public view {
        _check(
            "Refund",
            TypedData.REFUND,
            TypedData.hashRefund(
                _word("Refund", "channelId"), uint64(_number("Refund", "nonce")), uint128(_number("Refund", "amount"))
            )
        );
    }

    function test_WorkerSession() public view {
        _check(
            "WorkerSession",
            TypedData.WORKER_SESSION,
            TypedData.hashWorkerSession(
                _address("WorkerSession", "worker"),
                _address("WorkerSession", "sessionKey"),
                uint64(_number("WorkerSession", "expiry"))
            )
        );
    }

    function test_WorkerConsent() public view {
        _check(
            "WorkerConsent",
            TypedData.WORKER_CONSENT,
            TypedData.hashWorkerConsent(
                _address("WorkerConsent", "operator"),
                _address("WorkerConsent", "worker"),
                uint64(_number("WorkerConsent", "deadline"))
            )
        );
    }

    function test_SettleBatch() public view {
        _check(
            "SettleBatch",
            TypedData.SETTLE_BATCH,
            keccak256(
                abi.encode(
                    TypedData.SETTLE_BATCH,
                    _address("SettleBatch", "gateway"),
                    uint64(_number("SettleBatch", "epoch")),
                    _word("SettleBatch", "receiptsRoot"),
                    uint32(_number("SettleBatch", "count")),
                    _word("SettleBatch", "debitsHash"),
                    _word("SettleBatch", "creditsHash")
                )
            )
        );
    }

    function test_Offer() public view {
        _check(
            "Offer",
            TypedData.OFFER,
            keccak256(
                abi.encode(
                    TypedData.OFFER,
                    _address("Offer", "worker"),
                    _word("Offer", "modelId"),
                    _address("Offer", "gateway"),
                    uint128(_number("Offer", "unitPrice")),
                    uint32(_number("Offer", "maxFeePpm")),
                    uint64(_number("Offer", "expiresAt"))
                )
            )
        );
    }

    function test_KeyGrant() public view {
        _check(
            "KeyGrant",
            TypedData.KEY_GRANT,
            keccak256(
                abi.encode(
                    TypedData.KEY_GRANT,
                    _word("KeyGrant", "channelId"),
                    _word("KeyGrant", "keyHash"),
                    uint128(_number("KeyGrant", "spendingLimit")),
                    uint64(_number("KeyGrant", "expiresAt")),
                    _word("KeyGrant", "termsHash")
                )
            )
        );
    }

    function test_KeyRevocation() public view {
        _check(
            "KeyRevocation",
            TypedData.KEY_REVOCATION,
            keccak256(
                abi.encode(
                    TypedData.KEY_REVOCATION, _word("KeyRevocation", "channelId"), _word("KeyRevocation", "keyHash")
                )
            )
        );
    }

    function test_KeyListing() public view {
        _check(
            "KeyListing",
            TypedData.KEY_LISTING,
            keccak256(
                abi.encode(
                    TypedData.KEY_LISTING, _word("KeyListing", "channelId"), uint64(_number("KeyListing", "issuedAt"))
                )
            )
        );
    }

    function test_ChannelAccess() public view {
        _check(
            "ChannelAccess",
            TypedData.CHANNEL_ACCESS,
            keccak256(abi.encode(TypedData.CHANNEL_ACCESS, _word("ChannelAccess", "channelId")))
        );
    }

    /// @dev I9, for every field of every struct: the contracts compute the changed example's digest, and it is another.
    function test_EveryFieldChangesTheDigest() public {
        string[] memory names = vm.parseJsonKeys(_json, ".changed");
        assertEq(names.length, 14, "every struct");
        for (uint256 i = 0; i < names.length; ++i) {
            _field = "";
            bytes32 original = vm.parseJsonBytes32(_json, _key(names[i], ".digest"));
            string[] memory fields = vm.parseJsonKeys(_json, string.concat(".changed.", names[i]));
            assertTrue(fields.length > 0, names[i]);
            for (uint256 j = 0; j < fields.length; ++j) {
                _field = fields[j];
                assertTrue(vm.parseJsonBytes32(_json, _key(names[i], ".digest")) != original, fields[j]);
                _checkAgain(names[i]);
            }
        }
    }

    function _checkAgain(string memory name) private {
        bool isChannel = keccak256(bytes(name)) == keccak256("Channel");
        string memory check = string.concat("test_", isChannel ? "ChannelAndItsId" : name, "()");
        (bool passed,) = address(this).call(abi.encodeWithSignature(check));
        assertTrue(passed, string.concat(name, ".", _field));
    }

    function test_MerkleTree() public {
        bytes32[] memory digests = vm.parseJsonBytes32Array(_json, ".merkle.digests");
        bytes32 root = vm.parseJsonBytes32(_json, ".merkle.root");
        (bytes32 rebuilt,) = Tree.build(digests, 0);
        assertEq(rebuilt, root, "root");
        _escrow.settleBatch(
            1, root, uint32(digests.length), new IInferenceEscrow.Debit[](0), new IInferenceEscrow.Credit[](0)
        );
        for (uint256 i = 0; i < digests.length; ++i) {
            bytes32[] memory proof =
                vm.parseJsonBytes32Array(_json, string.concat(".merkle.proofs[", vm.toString(i), "]"));
            assertTrue(_escrow.verifyReceipt(address(this), 1, digests[i], proof), vm.toString(i));
        }
    }

    function test_EverySignatureIsTheSigners() public view {
        address expected = vm.parseJsonAddress(_json, ".signer");
        string[] memory names = vm.parseJsonKeys(_json, ".structs");
        assertEq(names.length, 14, "every struct has its test here");
        for (uint256 i = 0; i < names.length; ++i) {
            bytes32 digest = vm.parseJsonBytes32(_json, _key(names[i], ".digest"));
            bytes memory signature = vm.parseJsonBytes(_json, _key(names[i], ".signature"));
            assertEq(this.recover(digest, signature), expected, names[i]);
        }
    }

    function recover(bytes32 digest, bytes calldata signature) external pure returns (address) {
        return TypedData.recover(digest, signature);
    }
}
