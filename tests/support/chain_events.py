"""Events of the contracts as a node tells them, for chains in memory, and all that a registry keeps of them."""

MIN_STAKE = 100
GATEWAY, PAYER, WORKER, OPERATOR = (bytes((n,)) * 20 for n in (1, 2, 3, 4))
CHANNEL = b"\xcc" * 32


def funded(deposited: int, channel_id: bytes = CHANNEL):
    return (
        "InferenceEscrow",
        "ChannelFunded",
        {
            "channelId": channel_id,
            "payer": PAYER,
            "signer": PAYER,
            "gateway": GATEWAY,
            "salt": 2**64 - 1,
            "amount": deposited,
            "deposited": deposited,
        },
    )


def settled(total: int, channel_id: bytes = CHANNEL):
    return ("InferenceEscrow", "ChannelSettled", {"channelId": channel_id, "settled": total})


def batch(epoch: int, credited: int):
    args = {
        "gateway": GATEWAY,
        "epoch": epoch,
        "receiptsRoot": bytes((epoch,)) * 32,
        "firstSeq": epoch,
        "count": 1,
        "debited": 100,
        "credited": 10,
        "creditedTotals": ((OPERATOR, credited),),
    }
    return ("InferenceEscrow", "BatchSettled", args)


def registered(stake: int):
    args = {"worker": WORKER, "operator": OPERATOR, "stake": stake, "region": "eu", "hardware": "", "endpoint": ""}
    return ("WorkerRegistry", "WorkerRegistered", args)


def thawing(amount: int, stake: int):
    return ("WorkerRegistry", "StakeThawing", {"worker": WORKER, "thawing": amount, "thawedAt": 9, "stake": stake})


def everything(view):
    return (
        view.cursor(),
        view.listings(),
        view.workers(),
        view.channels(),
        view.credits(GATEWAY, OPERATOR),
        view.reserve(GATEWAY),
        view.settlements(GATEWAY),
    )
