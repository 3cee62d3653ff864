from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain
from market.inference.papers import DUE_RECEIPTS, DUE_SECONDS, PapersDesk

WORKER, PAYEE = b"\x01" * 20, b"\x02" * 20


def add(desk, number):
    desk.add(WORKER, number.to_bytes(32, "big"), bytes(65), PAYEE, number + 1)


def test_papers_go_along_once_they_are_many_or_have_waited():
    now = [5.0]
    desk = PapersDesk(key=PrivateKey.generate(), domain=Domain(1, b"\x03" * 20), clock=lambda: now[0])
    assert desk.take_due(WORKER) is None
    add(desk, 0)
    assert desk.take_due(WORKER) is None
    now[0] += DUE_SECONDS
    assert [request_id for request_id, _ in desk.take_due(WORKER).countersigned] == [bytes(32)]
    assert desk.waiting() == []
    for number in range(DUE_RECEIPTS - 1):
        add(desk, number)
    assert desk.take_due(WORKER) is None
    assert desk.waiting() == [WORKER]
    add(desk, DUE_RECEIPTS - 1)
    papers = desk.take_due(WORKER)
    assert len(papers.countersigned) == DUE_RECEIPTS
    assert papers.credit_note.cumulative_amount == DUE_RECEIPTS
    add(desk, 0)
    assert len(desk.take(WORKER).countersigned) == 1
