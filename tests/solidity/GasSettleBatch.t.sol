// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "./support/Fixture.sol";
import {Tree} from "./support/Tree.sol";

/// @notice Gas of whole transactions, intrinsic gas and calldata included (the profile runs each call as a transaction of
/// its own), in the steady state in which channels, payees and the gateway have nonzero slots. `forge test` compares the
/// totals with `snapshots/Settlement.json`; the limits here are the design's.
contract GasSettleBatchTest is Fixture {
    uint256 private constant CHANNELS = 128;
    uint256 private constant WARM_UP = 2;
    string private constant GROUP = "Settlement";

    IInferenceEscrow.Channel[] private _open;
    uint256[] private _keys;

    function setUp() public override {
        super.setUp();
        fund(payer, 1e12, address(escrow));
        for (uint256 i = 0; i < CHANNELS; ++i) {
            uint256 key = uint256(keccak256(abi.encode("signer", i)));
            address account = vm.addr(uint256(keccak256(abi.encode("payer", i))));
            uint64 salt = uint64(uint256(keccak256(abi.encode(i))));
            _keys.push(key);
            _open.push(IInferenceEscrow.Channel(account, vm.addr(key), gateway, salt));
            vm.prank(payer);
            escrow.deposit(_open[i], 1e9);
        }
        fundReserve(1e9);
    }

    function _settle(uint256 channels, uint256 payees, uint32 count, uint64 epoch) private returns (uint256) {
        uint128 total = uint128(epoch) * 1_234_567;
        IInferenceEscrow.Debit[] memory debitRows = new IInferenceEscrow.Debit[](channels);
        for (uint256 i = 0; i < channels; ++i) {
            debitRows[i] = debitRow(_keys[i], _open[i], total, total + 10_000);
        }
        IInferenceEscrow.Credit[] memory creditRows = new IInferenceEscrow.Credit[](payees);
        for (uint256 i = 0; i < payees; ++i) {
            address payee = address(uint160(uint256(keccak256(abi.encode("payee", i)))));
            creditRows[i] = IInferenceEscrow.Credit(payee, uint128(total * channels * 95 / 100 / payees));
        }
        bytes32 root = keccak256(abi.encode("root", epoch));
        vm.prank(gateway);
        escrow.settleBatch(epoch, root, count, debitRows, creditRows);
        return vm.lastCallGas().gasTotalUsed;
    }

    function _measure(string memory name, uint256 channels, uint256 payees, uint32 count)
        private
        returns (uint256 total)
    {
        for (uint64 epoch = 1; epoch <= WARM_UP; ++epoch) {
            _settle(channels, payees, count, epoch);
        }
        total = _settle(channels, payees, count, uint64(WARM_UP) + 1);
        vm.snapshotValue(GROUP, name, total);
    }

    function test_Typical1() public {
        _measure("typical of 1 receipt, 1 channel, 2 payees", 1, 2, 1);
    }

    function test_Typical16() public {
        _measure("typical of 16 receipts, 8 channels, 8 payees", 8, 8, 16);
    }

    function test_Typical256() public {
        uint256 total = _measure("typical of 256 receipts, 32 channels, 16 payees", 32, 16, 256);
        assertLe(total / 256, 2_450, "gas per receipt");
    }

    function test_Typical4096() public {
        uint256 total = _measure("typical of 4096 receipts, 128 channels, 64 payees", 128, 64, 4096);
        assertLe(total / 4096, 560, "gas per receipt");
    }

    function test_OneClient4096() public {
        uint256 total = _measure("one client, 4096 receipts, 1 channel, 2 payees", 1, 2, 4096);
        assertLe(total, 20 * 4096, "gas of 4096 receipts");
    }

    function test_SlopePerChannel() public {
        uint256 few = _measure("1 channel, no payee", 1, 0, 1);
        for (uint64 epoch = 4; epoch <= 5; ++epoch) {
            _settle(65, 0, 1, epoch);
        }
        uint256 slope = (_settle(65, 0, 1, 6) - few) / 64;
        vm.snapshotValue(GROUP, "a channel more", slope);
        assertLe(slope, 13_500, "gas per channel");
    }

    function test_SlopePerPayee() public {
        uint256 few = _measure("1 channel, 1 payee", 1, 1, 1);
        for (uint64 epoch = 4; epoch <= 5; ++epoch) {
            _settle(1, 65, 1, epoch);
        }
        uint256 slope = (_settle(1, 65, 1, 6) - few) / 64;
        vm.snapshotValue(GROUP, "a payee more", slope);
        assertLe(slope, 6_500, "gas per payee");
    }

    function test_ProofOfOneIn4096() public {
        bytes32[] memory digests = new bytes32[](4096);
        for (uint256 i = 0; i < 4096; ++i) {
            digests[i] = keccak256(abi.encode(i));
        }
        (bytes32 root, bytes32[] memory proof) = Tree.build(digests, 1234);
        vm.prank(gateway);
        escrow.settleBatch(1, root, 4096, noDebits(), noCredits());
        // Not a static call, so that it counts as a transaction.
        (, bytes memory answer) =
            address(escrow).call(abi.encodeCall(escrow.verifyReceipt, (gateway, 1, digests[1234], proof)));
        uint256 total = vm.lastCallGas().gasTotalUsed;
        assertTrue(abi.decode(answer, (bool)), "proved");
        assertEq(proof.length, 12, "depth");
        vm.snapshotValue(GROUP, "proof of one receipt in 4096", total);
        assertLe(total, 47_000, "gas of a proof");
    }
}
