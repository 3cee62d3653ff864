// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "./support/Fixture.sol";
import {Quick} from "./support/Quick.sol";

/// @notice I15: the gateway settles some of its work and is never seen again; with their papers alone all workers end with
/// all they earned, as long as each payer's deposit covers what it signed for.
contract VanishedGatewayTest is Fixture {
    uint256 private constant CLIENTS = 3;
    uint256 private constant WORKERS = 3;

    IInferenceEscrow.Channel[CLIENTS] private _open;
    bytes32[CLIENTS] private _ids;
    // Derived once: an address costs more than a call of the escrow.
    address[WORKERS] private _workers;

    /// @dev What clients were charged, workers earned, and the newest receipt of each channel with the worker it is of.
    struct Served {
        uint128[CLIENTS] charged;
        uint128[WORKERS] earned;
        IInferenceEscrow.Receipt[CLIENTS] latest;
        uint256[CLIENTS] by;
    }

    function setUp() public override {
        super.setUp();
        for (uint256 i = 0; i < WORKERS; ++i) {
            _workers[i] = vm.addr(_workerKey(i));
        }
        for (uint256 i = 0; i < CLIENTS; ++i) {
            _open[i] = IInferenceEscrow.Channel(vm.addr(0xC0 + i), vm.addr(_signerKey(i)), gateway, uint64(i));
            _ids[i] = escrow.channelId(_open[i]);
            fund(_open[i].payer, 1e12, address(escrow));
            vm.prank(_open[i].payer);
            escrow.deposit(_open[i], 1e12);
        }
    }

    function signature(uint256 key, bytes32 digest) internal pure override returns (uint8, bytes32, bytes32) {
        return Quick.sign(key, digest);
    }

    function _signerKey(uint256 client) private pure returns (uint256) {
        return 0x5160 + client;
    }

    function _workerKey(uint256 index) private pure returns (uint256) {
        return 0x3030 + index;
    }

    function _serve(Served memory served, uint256 client, uint256 by, uint128 price) private view {
        served.charged[client] += price;
        served.earned[by] += price * 95 / 100;
        IInferenceEscrow.Receipt memory paper = receipt(uint64(served.charged[client]), price, served.charged[client]);
        paper.channelId = _ids[client];
        paper.payer = _open[client].payer;
        paper.worker = _workers[by];
        served.latest[client] = paper;
        served.by[client] = by;
    }

    function _settleAll(Served memory served) private {
        IInferenceEscrow.Debit[] memory rows = new IInferenceEscrow.Debit[](CLIENTS);
        for (uint256 i = 0; i < CLIENTS; ++i) {
            rows[i] = debitRow(_signerKey(i), _open[i], served.charged[i], 1e12);
        }
        IInferenceEscrow.Credit[] memory payees = new IInferenceEscrow.Credit[](WORKERS);
        for (uint256 i = 0; i < WORKERS; ++i) {
            payees[i] = IInferenceEscrow.Credit(_workers[i], served.earned[i]);
        }
        settle(1, rows, payees);
    }

    function testFuzz_WorkersEndWithAllTheyEarned(uint256 seed, uint8 requests, uint8 settledAfter) public {
        requests = uint8(bound(requests, 1, 24));
        Served memory served;
        for (uint256 i = 0; i < requests; ++i) {
            uint256 dice = uint256(keccak256(abi.encode(seed, i)));
            _serve(served, dice % CLIENTS, (dice >> 16) % WORKERS, uint128((dice >> 32) % 1e9));
            if (i == settledAfter) _settleAll(served);
        }
        // The gateway starts to thaw its reserve, payers start to exit, and the gateway is gone.
        (uint128 reserve,,) = escrow.reserves(gateway);
        vm.prank(gateway);
        escrow.thawReserve(reserve);
        for (uint256 i = 0; i < CLIENTS; ++i) {
            (uint128 deposited, uint128 settled,,) = escrow.channels(_ids[i]);
            vm.prank(_open[i].payer);
            escrow.initiateExit(_open[i], deposited - settled);
        }
        _present(served);
        vm.warp(block.timestamp + RESERVE_THAW);
        for (uint256 i = 0; i < CLIENTS; ++i) {
            escrow.finalizeExit(_open[i]);
            assertBalance(_open[i].payer, 1e12 - served.charged[i]);
        }
        for (uint256 i = 0; i < WORKERS; ++i) {
            if (served.earned[i] == 0) continue;
            vm.prank(_workers[i]);
            escrow.withdraw(gateway, address(uint160(0xE000 + i)), served.earned[i]);
            assertBalance(address(uint160(0xE000 + i)), served.earned[i]);
        }
    }

    /// @dev Every worker keeps the vouchers and the newest receipt it saw of each channel; any of them may present these.
    function _present(Served memory served) private {
        for (uint256 i = 0; i < CLIENTS; ++i) {
            (, uint128 settled,,) = escrow.channels(_ids[i]);
            if (settled >= served.charged[i]) continue;
            bytes memory voucher = sign(_signerKey(i), TypedData.hashVoucher(_ids[i], 1e12));
            bytes32 digest = escrow.receiptDigest(served.latest[i]);
            bytes memory byWorker = signDigest(_workerKey(served.by[i]), digest);
            bytes memory byGateway = signDigest(GATEWAY_KEY, digest);
            vm.prank(STRANGER);
            escrow.claimWithReceipt(_open[i], 1e12, voucher, served.latest[i], byWorker, byGateway);
        }
        for (uint256 i = 0; i < WORKERS; ++i) {
            address account = _workers[i];
            (uint128 credited,) = escrow.credits(gateway, account);
            if (credited >= served.earned[i]) continue;
            bytes memory note = sign(GATEWAY_KEY, TypedData.hashCreditNote(gateway, account, served.earned[i]));
            vm.prank(STRANGER);
            escrow.redeemCreditNote(gateway, account, served.earned[i], note);
        }
    }
}
