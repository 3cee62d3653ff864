// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TestUSD} from "@market/mocks/TestUSD.sol";

import {Test} from "./Test.sol";

/// @notice The parties of an escrow, what must be true of them, and the comparison of both.
/// @dev Compared here and not in the test: after each call it reads these books some sixty times, and as many calls of
/// another contract took most of the time that the invariants take.
abstract contract EscrowBooks is Test {
    uint256 public constant CHANNELS = 4;
    uint256 internal constant GATEWAYS = 2;
    uint256 internal constant PAYEES = 3;
    uint256 internal constant WORKER_KEY = 0x30B;

    IInferenceEscrow internal immutable escrow;
    bytes32 internal immutable domain;
    TestUSD internal immutable token;

    IInferenceEscrow.Channel[] internal _channels;
    // Computed once: deriving an address from its key costs more than a call of the escrow.
    bytes32[CHANNELS] public id;
    address[GATEWAYS] internal gateway;
    address[PAYEES] internal payee;
    address internal immutable worker;
    uint256[CHANNELS] internal signedCeiling;
    uint256[CHANNELS] internal expectedSettled;
    uint256[GATEWAYS] internal receipts;
    bytes32[][GATEWAYS] internal roots;
    uint256[PAYEES][GATEWAYS] internal highestCredited;

    constructor(IInferenceEscrow escrow_, TestUSD token_) {
        escrow = escrow_;
        domain = escrow_.domainSeparator();
        token = token_;
        worker = vm.addr(WORKER_KEY);
        for (uint256 i = 0; i < GATEWAYS; ++i) {
            gateway[i] = vm.addr(gatewayKey(i));
        }
        for (uint256 i = 0; i < PAYEES; ++i) {
            payee[i] = vm.addr(0xFEE + i);
        }
        for (uint256 i = 0; i < CHANNELS; ++i) {
            // Two channels a gateway.
            _channels.push(
                IInferenceEscrow.Channel(vm.addr(0xA11CE + i), vm.addr(signerKey(i)), gateway[i / 2], uint64(i))
            );
            id[i] = escrow_.channelId(_channels[i]);
        }
    }

    function channel(uint256 index) external view returns (IInferenceEscrow.Channel memory) {
        return _channels[index];
    }

    /// @notice Reverts unless the escrow holds what these books say, to the unit.
    /// @dev `if … revert` instead of assertions, whose texts would be copied into memory at each.
    function check() external view {
        uint256 sum = _unclaimedAndChecked();
        for (uint256 who = 0; who < GATEWAYS; ++who) {
            sum += _ofGateway(who);
        }
        assertEq(token.balanceOf(address(escrow)), sum, "I1: every token belongs to somebody");
    }

    function gatewayKey(uint256 index) internal pure returns (uint256) {
        return 0x6A7E + index;
    }

    function signerKey(uint256 index) internal pure returns (uint256) {
        return 0x516 + index;
    }

    function _unclaimedAndChecked() private view returns (uint256 sum) {
        for (uint256 i = 0; i < CHANNELS; ++i) {
            (uint256 deposited, uint256 settled) = _read(IInferenceEscrow.channels.selector, id[i], 0);
            if (settled > deposited) revert Above("I2: settled at most deposited", settled, deposited);
            uint256 expected = signedCeiling[i];
            if (settled > expected) revert Above("I2: settled at most the highest voucher", settled, expected);
            expected = expectedSettled[i];
            if (settled != expected) {
                revert NotEqual("I3, I6, I10: settled moves by sound rows alone", settled, expected);
            }
            sum += deposited - settled;
        }
    }

    function _ofGateway(uint256 who) private view returns (uint256 sum) {
        bytes32 account = bytes32(uint256(uint160(gateway[who])));
        (sum,) = _read(IInferenceEscrow.reserves.selector, account, 0);
        uint256 expected = 0;
        for (uint256 i = 0; i < PAYEES; ++i) {
            uint256 to = uint160(payee[i]);
            (uint256 credited, uint256 withdrawn) = _read(IInferenceEscrow.credits.selector, account, to);
            if (withdrawn > credited) revert Above("withdrawn at most credited", withdrawn, credited);
            uint256 highest = highestCredited[who][i];
            if (highest > credited) revert Above("I3: credits never fall", highest, credited);
            sum += credited - withdrawn;
            (, uint256 owed) = _read(IInferenceEscrow.notes.selector, account, to);
            expected += owed;
        }
        (uint256 found,) = _read(IInferenceEscrow.arrears.selector, account, 0);
        if (found != expected) revert NotEqual("arrears are the sum of what notes still claim", found, expected);
        (found,) = _read(IInferenceEscrow.receiptCount.selector, account, 0);
        expected = receipts[who];
        if (found != expected) revert NotEqual("I5: receipt numbers have no gaps", found, expected);
        (found,) = _read(IInferenceEscrow.lastEpoch.selector, account, 0);
        expected = roots[who].length;
        if (found != expected) revert NotEqual("I5: epochs", found, expected);
        for (uint256 epoch = 1; epoch <= expected; ++epoch) {
            (found,) = _read(IInferenceEscrow.settlements.selector, account, epoch);
            assertEq(bytes32(found), roots[who][epoch - 1], "I5: roots are written once");
        }
    }

    /// @dev The first two words that a view of the escrow returns, of two arguments at most. The compiler's own
    /// call, which checks every value it decodes, takes some 75 instructions more.
    function _read(bytes4 view_, bytes32 a, uint256 b) private view returns (uint256 first, uint256 second) {
        address target = address(escrow);
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, view_)
            mstore(add(free, 4), a)
            mstore(add(free, 36), b)
            if iszero(staticcall(gas(), target, free, 68, 0, 64)) { revert(0, 0) }
            first := mload(0)
            second := mload(32)
        }
    }
}
