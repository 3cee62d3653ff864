"""A reorganisation as deep as the index goes back, on a node of its own: anvil forgets old states of one that did much."""

from market.registry.indexer import KEPT_BLOCKS
from tests.support.settling import undo_and_send_again


def test_a_settlement_that_the_deepest_reorganisation_undid_is_sent_again(chain, gateway):
    undo_and_send_again(chain, gateway, KEPT_BLOCKS)
