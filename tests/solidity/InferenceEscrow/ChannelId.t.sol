// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract ChannelIdTest is Fixture {
    function testFuzz_IdBindsEveryField(IInferenceEscrow.Channel memory other) public view {
        vm.assume(
            other.payer != payer || other.signer != signer || other.gateway != gateway || other.salt != channel.salt
        );
        assertTrue(escrow.channelId(other) != id, "another channel, another id");
    }
}
