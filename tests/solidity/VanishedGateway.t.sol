// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "./support/Fixture.sol";

/// @notice I15: the gateway settles some of its work and is never seen again; with their papers alone all workers end with
/// all they earned, as long as each payer's deposit covers what it signed for.
contract VanishedGatewayTest is Fixture {
    uint256 private constant CLIENTS = 3;
    uint256 private constant WORKERS = 3;

    struct Papers {
        IInferenceEscrow.Receipt receipt;
        bytes byWorker;
        bytes byGateway;
    }

    IInferenceEscrow.Channel[CLIENTS] private _open;
    uint128[CLIENTS] private _charged;
    uint128[WORKERS] private _earned;
    mapping(uint256 client => Papers) private _latest;

    function _signerKey(uint256 client) private pure returns (uint256) {
        return 0x5160 + client;
    }

    function _workerKey(uint256 index) private pure returns (uint256) {
        return 0x3030 + index;
    }

    function _serve(uint256 client, uint256 by, uint128 price) private {
        _charged[client] += price;
        _earned[by] += price * 95 / 100;
        IInferenceEscrow.Receipt memory paper = receipt(uint64(_charged[client]), price, _charged[client]);
        paper.channelId = escrow.channelId(_open[client]);
        paper.payer = _open[client].payer;
        paper.worker = vm.addr(_workerKey(by));
        bytes32 digest = escrow.receiptDigest(paper);
        _latest[client] = Papers(paper, signDigest(_workerKey(by), digest), signDigest(GATEWAY_KEY, digest));
    }

    function _settleAll() private {
        IInferenceEscrow.Debit[] memory rows = new IInferenceEscrow.Debit[](CLIENTS);
        for (uint256 i = 0; i < CLIENTS; ++i) {
            rows[i] = debitRow(_signerKey(i), _open[i], _charged[i], 1e12);
        }
        IInferenceEscrow.Credit[] memory payees = new IInferenceEscrow.Credit[](WORKERS);
        for (uint256 i = 0; i < WORKERS; ++i) {
            payees[i] = IInferenceEscrow.Credit(vm.addr(_workerKey(i)), _earned[i]);
        }
        settle(1, rows, payees);
    }

    function testFuzz_WorkersEndWithAllTheyEarned(uint256 seed, uint8 requests, uint8 settledAfter) public {
        requests = uint8(bound(requests, 1, 24));
        for (uint256 i = 0; i < CLIENTS; ++i) {
            _open[i] = IInferenceEscrow.Channel(vm.addr(0xC0 + i), vm.addr(_signerKey(i)), gateway, uint64(i));
            fund(_open[i].payer, 1e12, address(escrow));
            vm.prank(_open[i].payer);
            escrow.deposit(_open[i], 1e12);
        }
        for (uint256 i = 0; i < requests; ++i) {
            uint256 dice = uint256(keccak256(abi.encode(seed, i)));
            _serve(dice % CLIENTS, (dice >> 16) % WORKERS, uint128((dice >> 32) % 1e9));
            if (i == settledAfter) _settleAll();
        }
        // The gateway starts to thaw its reserve, payers start to exit, and the gateway is gone.
        (uint128 reserve,,) = escrow.reserves(gateway);
        vm.prank(gateway);
        escrow.thawReserve(reserve);
        for (uint256 i = 0; i < CLIENTS; ++i) {
            (uint128 deposited, uint128 settled,,) = escrow.channels(escrow.channelId(_open[i]));
            vm.prank(_open[i].payer);
            escrow.initiateExit(_open[i], deposited - settled);
        }
        _present();
        vm.warp(block.timestamp + RESERVE_THAW);
        for (uint256 i = 0; i < CLIENTS; ++i) {
            escrow.finalizeExit(_open[i]);
            assertBalance(_open[i].payer, 1e12 - _charged[i]);
        }
        for (uint256 i = 0; i < WORKERS; ++i) {
            if (_earned[i] == 0) continue;
            vm.prank(vm.addr(_workerKey(i)));
            escrow.withdraw(gateway, address(uint160(0xE000 + i)), _earned[i]);
            assertBalance(address(uint160(0xE000 + i)), _earned[i]);
        }
    }

    /// @dev Every worker keeps the vouchers and the newest receipt it saw of each channel; any of them may present these.
    function _present() private {
        for (uint256 i = 0; i < CLIENTS; ++i) {
            (, uint128 settled,,) = escrow.channels(escrow.channelId(_open[i]));
            if (settled >= _charged[i]) continue;
            bytes memory voucher = sign(_signerKey(i), TypedData.hashVoucher(escrow.channelId(_open[i]), 1e12));
            Papers memory papers = _latest[i];
            vm.prank(STRANGER);
            escrow.claimWithReceipt(_open[i], 1e12, voucher, papers.receipt, papers.byWorker, papers.byGateway);
        }
        for (uint256 i = 0; i < WORKERS; ++i) {
            address account = vm.addr(_workerKey(i));
            (uint128 credited,) = escrow.credits(gateway, account);
            if (credited >= _earned[i]) continue;
            bytes memory note = sign(GATEWAY_KEY, TypedData.hashCreditNote(gateway, account, _earned[i]));
            vm.prank(STRANGER);
            escrow.redeemCreditNote(gateway, account, _earned[i], note);
        }
    }
}
