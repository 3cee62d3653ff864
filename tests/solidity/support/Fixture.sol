// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputeManager} from "@market/interfaces/IDisputeManager.sol";
import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {IModelRegistry} from "@market/interfaces/IModelRegistry.sol";
import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";
import {TypedData} from "@market/libraries/TypedData.sol";
import {TestUSD} from "@market/mocks/TestUSD.sol";

import {Test} from "./Test.sol";

/// @notice A deployed market, actors with keys, and the papers they sign.
abstract contract Fixture is Test {
    uint64 internal constant EXIT_DELAY = 1 hours;
    uint64 internal constant RESERVE_THAW = 7 days;
    uint64 internal constant THAW_PERIOD = 7 days;
    uint64 internal constant WINDOW = 1 days;
    uint128 internal constant MIN_STAKE = 100e6;
    uint128 internal constant BOND = 1e6;
    uint256 internal constant PAYER_KEY = 0xA11CE;
    uint256 internal constant SIGNER_KEY = 0x51617E4;
    uint256 internal constant GATEWAY_KEY = 0x6A7E;
    uint256 internal constant WORKER_KEY = 0x30B;
    uint256 internal constant OPERATOR_KEY = 0x0931;
    uint256 internal constant OWNER_KEY = 0x0143;
    address internal constant STRANGER = address(0xBAD);

    TestUSD internal token;
    IInferenceEscrow internal escrow;
    IWorkerRegistry internal workers;
    IModelRegistry internal models;
    IDisputeManager internal disputes;
    address internal payer = vm.addr(PAYER_KEY);
    address internal signer = vm.addr(SIGNER_KEY);
    address internal gateway = vm.addr(GATEWAY_KEY);
    address internal worker = vm.addr(WORKER_KEY);
    address internal operator = vm.addr(OPERATOR_KEY);
    address internal owner = vm.addr(OWNER_KEY);
    IInferenceEscrow.Channel internal channel;
    bytes32 internal id;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        token = new TestUSD();
        escrow = IInferenceEscrow(
            vm.deployCode("InferenceEscrow.sol", abi.encode(address(token), EXIT_DELAY, RESERVE_THAW))
        );
        workers = IWorkerRegistry(
            vm.deployCode("WorkerRegistry.sol", abi.encode(address(token), address(escrow), MIN_STAKE, THAW_PERIOD))
        );
        models = IModelRegistry(vm.deployCode("ModelRegistry.sol"));
        disputes = IDisputeManager(
            vm.deployCode(
                "DisputeManager.sol", abi.encode(address(escrow), address(workers), address(token), BOND, WINDOW)
            )
        );
        escrow.setDisputeManager(address(disputes));
        workers.setDisputeManager(address(disputes));
        channel = IInferenceEscrow.Channel({payer: payer, signer: signer, gateway: gateway, salt: 7});
        id = escrow.channelId(channel);
    }

    function fund(address account, uint256 amount, address spender) internal {
        token.mint(account, amount);
        vm.prank(account);
        token.approve(spender, type(uint256).max);
    }

    function deposit(uint128 amount) internal {
        fund(payer, amount, address(escrow));
        vm.prank(payer);
        escrow.deposit(channel, amount);
    }

    function fundReserve(uint128 amount) internal {
        fund(gateway, amount, address(escrow));
        vm.prank(gateway);
        escrow.fundReserve(gateway, amount);
    }

    function sign(uint256 key, bytes32 structHash) internal view returns (bytes memory) {
        return signDigest(key, TypedData.digest(escrow.domainSeparator(), structHash));
    }

    /// @dev How everything here is signed; overridden where the time of `vm.sign`, multiplied by the runs, counts.
    function signature(uint256 key, bytes32 digest) internal pure virtual returns (uint8 v, bytes32 r, bytes32 s) {
        return vm.sign(key, digest);
    }

    function signDigest(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = signature(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev Whose signature it would be of `digest`: what an error names when something else was signed.
    function signerOf(bytes32 digest, bytes memory signed) internal pure returns (address) {
        bytes32 r;
        bytes32 s;
        assembly ("memory-safe") {
            r := mload(add(signed, 0x20))
            s := mload(add(signed, 0x40))
        }
        return ecrecover(digest, uint8(signed[64]), r, s);
    }

    function debitRow(uint256 key, IInferenceEscrow.Channel memory of_, uint128 claimTotal, uint128 voucherAmount)
        internal
        view
        returns (IInferenceEscrow.Debit memory)
    {
        bytes32 digest =
            TypedData.digest(escrow.domainSeparator(), TypedData.hashVoucher(escrow.channelId(of_), voucherAmount));
        (uint8 v, bytes32 r, bytes32 s) = signature(key, digest);
        bytes32 vs = s | bytes32(uint256(v - 27) << 255);
        return IInferenceEscrow.Debit(of_.payer, of_.signer, of_.salt, claimTotal, voucherAmount, r, vs);
    }

    function debits(uint128 claimTotal, uint128 voucherAmount)
        internal
        view
        returns (IInferenceEscrow.Debit[] memory rows)
    {
        rows = new IInferenceEscrow.Debit[](1);
        rows[0] = debitRow(SIGNER_KEY, channel, claimTotal, voucherAmount);
    }

    function noDebits() internal pure returns (IInferenceEscrow.Debit[] memory) {
        return new IInferenceEscrow.Debit[](0);
    }

    function noCredits() internal pure returns (IInferenceEscrow.Credit[] memory) {
        return new IInferenceEscrow.Credit[](0);
    }

    function credits(address payee, uint128 cumulative) internal pure returns (IInferenceEscrow.Credit[] memory rows) {
        rows = new IInferenceEscrow.Credit[](1);
        rows[0] = IInferenceEscrow.Credit(payee, cumulative);
    }

    function settle(
        uint64 epoch,
        IInferenceEscrow.Debit[] memory debitRows,
        IInferenceEscrow.Credit[] memory creditRows
    ) internal {
        vm.prank(gateway);
        escrow.settleBatch(epoch, keccak256(abi.encode("root", epoch)), 1, debitRows, creditRows);
    }

    function receipt(uint64 seq, uint128 price, uint128 cumulative)
        internal
        view
        returns (IInferenceEscrow.Receipt memory)
    {
        return IInferenceEscrow.Receipt({
            requestId: keccak256(abi.encode("request", seq)),
            channelId: id,
            payer: payer,
            gateway: gateway,
            seq: seq,
            worker: worker,
            modelId: keccak256("model"),
            inputHash: keccak256("input"),
            outputHash: keccak256("output"),
            price: price,
            workerAmount: price * 85 / 100,
            ownerAmount: price / 10,
            cumulative: cumulative,
            servedAt: uint64(block.timestamp)
        });
    }

    function register() internal {
        fund(operator, MIN_STAKE, address(workers));
        uint64 deadline = uint64(block.timestamp + 1 days);
        bytes memory consent = sign(WORKER_KEY, TypedData.hashWorkerConsent(operator, worker, deadline));
        vm.prank(operator);
        workers.register(worker, MIN_STAKE, "eu-west", "cpu-avx512", "", deadline, consent);
    }

    function assertBalance(address account, uint256 expected) internal view {
        assertEq(token.balanceOf(account), expected, "balance");
    }
}
