// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "../support/Fixture.sol";

contract SettleBatchForTest is Fixture {
    bytes32 private constant ROOT = keccak256("root");

    /// @dev Spells out the hash of the rows as the interface describes it, not by calling the library.
    function _hash(uint32 count, IInferenceEscrow.Debit[] memory rows, IInferenceEscrow.Credit[] memory payees)
        private
        view
        returns (bytes32)
    {
        bytes memory packedDebits;
        for (uint256 i = 0; i < rows.length; ++i) {
            packedDebits = bytes.concat(packedDebits, abi.encode(rows[i]));
        }
        bytes memory packedCredits;
        for (uint256 i = 0; i < payees.length; ++i) {
            packedCredits = bytes.concat(packedCredits, abi.encode(payees[i]));
        }
        return keccak256(
            abi.encode(
                TypedData.SETTLE_BATCH, gateway, 1, ROOT, count, keccak256(packedDebits), keccak256(packedCredits)
            )
        );
    }

    function _signature(uint256 key, IInferenceEscrow.Debit[] memory rows, IInferenceEscrow.Credit[] memory payees)
        private
        view
        returns (bytes memory)
    {
        return sign(key, _hash(9, rows, payees));
    }

    /// @dev Sends a batch that the gateway did not sign in this form.
    function _expectRefused(
        uint32 count,
        IInferenceEscrow.Debit[] memory rows,
        IInferenceEscrow.Credit[] memory payees,
        bytes memory signature
    ) private {
        bytes32 digest = TypedData.digest(escrow.domainSeparator(), _hash(count, rows, payees));
        vm.expectRevert(
            abi.encodeWithSelector(
                IInferenceEscrow.InferenceEscrowInvalidSigner.selector, signerOf(digest, signature), gateway
            )
        );
        escrow.settleBatchFor(gateway, 1, ROOT, count, rows, payees, signature);
    }

    function test_AnyoneRelays() public {
        deposit(100);
        IInferenceEscrow.Debit[] memory rows = debits(60, 60);
        IInferenceEscrow.Credit[] memory payees = new IInferenceEscrow.Credit[](2);
        payees[0] = IInferenceEscrow.Credit(operator, 20);
        payees[1] = IInferenceEscrow.Credit(owner, 10);
        bytes memory signature = _signature(GATEWAY_KEY, rows, payees);
        vm.prank(STRANGER);
        escrow.settleBatchFor(gateway, 1, ROOT, 9, rows, payees, signature);
        (, uint128 settled,,) = escrow.channels(id);
        assertEq(settled, 60, "settled");
        assertEq(escrow.receiptCount(gateway), 9, "count");
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowEpoch.selector, 1, 2));
        escrow.settleBatchFor(gateway, 1, ROOT, 9, rows, payees, signature);
    }

    function test_EmptyRowsHashToNothing() public {
        bytes memory signature = _signature(GATEWAY_KEY, noDebits(), noCredits());
        escrow.settleBatchFor(gateway, 1, ROOT, 9, noDebits(), noCredits(), signature);
        assertEq(escrow.lastEpoch(gateway), 1, "epoch");
    }

    function test_RevertWhen_TheGatewayDidNotSign() public {
        bytes memory signature = _signature(PAYER_KEY, noDebits(), noCredits());
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInvalidSigner.selector, payer, gateway));
        escrow.settleBatchFor(gateway, 1, ROOT, 9, noDebits(), noCredits(), signature);
    }

    function test_RevertWhen_ARowIsChanged() public {
        deposit(100);
        IInferenceEscrow.Debit[] memory rows = debits(50, 60);
        bytes memory signature = _signature(GATEWAY_KEY, rows, credits(operator, 20));
        rows[0].claimTotal = 51;
        _expectRefused(9, rows, credits(operator, 20), signature);
        rows[0].claimTotal = 50;
        _expectRefused(9, rows, credits(operator, 21), signature);
        _expectRefused(8, rows, credits(operator, 20), signature);
    }

    function test_RevertWhen_TheSignatureIsMalformed() public {
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInvalidSigner.selector, address(0), gateway)
        );
        escrow.settleBatchFor(gateway, 1, ROOT, 9, noDebits(), noCredits(), hex"00");
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInvalidSigner.selector, address(0), address(0))
        );
        escrow.settleBatchFor(address(0), 1, ROOT, 9, noDebits(), noCredits(), hex"00");
    }
}
