import subprocess
import sys

SCRIPT = """
import json
import market.bootstrap.gateway, market.bootstrap.jobs, workers.node, market.gateway.app, web3, x402
try:
    json.loads("[" * 100_000)
except RecursionError:
    print("refused")
"""


def test_nested_json_does_not_overflow_the_stack_of_a_program():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
