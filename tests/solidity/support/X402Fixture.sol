// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TestUSD} from "@market/mocks/TestUSD.sol";
import {ERC3009DepositCollector} from "@market/x402/ERC3009DepositCollector.sol";
import {IX402Channels} from "@market/x402/IX402Channels.sol";
import {X402Channels} from "@market/x402/X402Channels.sol";

import {Test} from "./Test.sol";

/// @notice The channels contract at the SDKs' address, one channel's parties, and the papers they sign.
abstract contract X402Fixture is Test {
    address internal constant AT = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003;
    uint256 internal constant PAYER_KEY = 0xA11CE;
    uint256 internal constant SESSION_KEY = 0x5E55;
    uint256 internal constant SELLER_KEY = 0x5E11E4;
    uint40 internal constant DELAY = 15 minutes;
    address internal constant STRANGER = address(0xBAD);

    TestUSD internal token;
    X402Channels internal channels;
    ERC3009DepositCollector internal collector;
    IX402Channels.ChannelConfig internal config;
    bytes32 internal id;
    address internal payer = vm.addr(PAYER_KEY);
    address internal seller = vm.addr(SELLER_KEY);

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        token = new TestUSD();
        vm.etch(AT, address(new X402Channels()).code);
        channels = X402Channels(AT);
        collector = new ERC3009DepositCollector(AT);
        config = IX402Channels.ChannelConfig({
            payer: payer,
            payerAuthorizer: vm.addr(SESSION_KEY),
            receiver: seller,
            receiverAuthorizer: seller,
            token: address(token),
            withdrawDelay: DELAY,
            salt: bytes32(uint256(7))
        });
        id = channels.getChannelId(config);
    }

    /// @dev How everything here is signed; overridden where the time of `vm.sign`, multiplied by the runs, counts.
    function signature(uint256 key, bytes32 digest) internal pure virtual returns (uint8 v, bytes32 r, bytes32 s) {
        return vm.sign(key, digest);
    }

    function signDigest(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = signature(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev What the payer signs for the collector; `of_` is the channel its nonce binds it to.
    function authorization(bytes32 of_, uint128 amount, uint256 salt) internal view returns (bytes memory) {
        uint256 validBefore = block.timestamp + 300;
        bytes32 structHash = keccak256(
            abi.encode(
                token.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                payer,
                address(collector),
                amount,
                0,
                validBefore,
                keccak256(abi.encode(of_, salt))
            )
        );
        bytes memory signature =
            signDigest(PAYER_KEY, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash)));
        return abi.encode(0, validBefore, salt, signature);
    }

    function deposit(uint128 amount) internal {
        token.mint(payer, amount);
        channels.deposit(config, amount, address(collector), authorization(id, amount, 1));
    }

    function row(uint256 key, uint128 ceiling, uint128 total)
        internal
        view
        returns (IX402Channels.VoucherClaim[] memory rows)
    {
        rows = new IX402Channels.VoucherClaim[](1);
        rows[0] = IX402Channels.VoucherClaim({
            voucher: IX402Channels.Voucher({channel: config, maxClaimableAmount: ceiling}),
            signature: signDigest(key, channels.getVoucherDigest(id, ceiling)),
            totalClaimed: total
        });
    }

    function claim(uint128 ceiling, uint128 total) internal {
        IX402Channels.VoucherClaim[] memory rows = row(SESSION_KEY, ceiling, total);
        channels.claimWithSignature(rows, signDigest(SELLER_KEY, channels.getClaimBatchDigest(rows)));
    }

    function refund(uint128 amount, uint256 nonce) internal {
        bytes memory signature = signDigest(SELLER_KEY, channels.getRefundDigest(id, nonce, amount));
        channels.refundWithSignature(config, amount, nonce, signature);
    }

    function assertChannel(uint128 balance, uint128 claimed) internal view {
        (uint128 actualBalance, uint128 actualClaimed) = channels.channels(id);
        assertEq(actualBalance, balance, "balance");
        assertEq(actualClaimed, claimed, "claimed");
    }
}
