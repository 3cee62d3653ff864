// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "./support/Fixture.sol";

/// @notice Gas of whole transactions (intrinsic gas and calldata included: run with `--isolate`), in the steady state in
/// which channels, payees and the gateway already have nonzero slots. Figures are gas per receipt unless named otherwise.
contract GasSettleBatchTest is Fixture {
    uint256 private constant EPOCHS = 6;
    IInferenceEscrow.Channel[] private _open;
    uint256[] private _keys;

    function setUp() public override {
        super.setUp();
        fund(payer, 1e12, address(escrow));
        for (uint256 i = 0; i < 128; ++i) {
            uint256 key = uint256(keccak256(abi.encode("signer", i)));
            address account = vm.addr(uint256(keccak256(abi.encode("payer", i))));
            _keys.push(key);
            _open.push(IInferenceEscrow.Channel(account, vm.addr(key), gateway, uint64(uint256(keccak256(abi.encode(i))))));
            vm.prank(payer);
            escrow.deposit(_open[i], 1e9);
        }
        fundReserve(1e6);
    }

    function _batch(uint256 channels_, uint256 payees, uint32 count, uint64 epoch) private returns (uint256) {
        IInferenceEscrow.Debit[] memory debitRows = new IInferenceEscrow.Debit[](channels_);
        uint128 total = uint128(epoch) * 1_234_567;
        for (uint256 i = 0; i < channels_; ++i) {
            debitRows[i] = debitRow(_keys[i], _open[i], total, total + 10_000);
        }
        IInferenceEscrow.Credit[] memory creditRows = new IInferenceEscrow.Credit[](payees);
        for (uint256 i = 0; i < payees; ++i) {
            address payee = address(uint160(uint256(keccak256(abi.encode("payee", i)))));
            creditRows[i] = IInferenceEscrow.Credit(payee, uint128(total * channels_ * 95 / 100 / payees));
        }
        bytes32 root = keccak256(abi.encode("root", epoch));
        vm.prank(gateway);
        escrow.settleBatch(epoch, root, count, debitRows, creditRows);
        return vm.lastCallGas().gasTotalUsed;
    }

    /// @dev The mean of six epochs in a row, because the slot of receipt counts is fresh in one of six.
    function _mean(uint256 channels_, uint256 payees, uint32 count) private returns (uint256 sum) {
        for (uint64 epoch = 1; epoch < EPOCHS; ++epoch) {
            _batch(channels_, payees, count, epoch);
        }
        for (uint64 epoch = uint64(EPOCHS); epoch < 2 * EPOCHS; ++epoch) {
            uint256 g = _batch(channels_, payees, count, epoch);
            sum += g;
            vm.snapshotValue("raw", vm.toString(channels_ * 100 + epoch), g);
        }
        return sum / EPOCHS;
    }

    function test_Typical1() public { vm.snapshotValue("settle", "typical-1", _mean(1, 2, 1)); }
    function test_Typical16() public { vm.snapshotValue("settle", "typical-16", _mean(8, 8, 16)); }
    function test_Typical256() public { vm.snapshotValue("settle", "typical-256", _mean(32, 16, 256)); }
    function test_Typical4096() public { vm.snapshotValue("settle", "typical-4096", _mean(128, 64, 4096)); }
    function test_One4096() public { vm.snapshotValue("settle", "one-4096", _mean(1, 2, 4096)); }
}
// x
