"""The limit: the runtime alone in a loop, at several batch sizes; prints rows per second as JSON."""

import json
import sys
import time

from common import np, run, session

ready, seconds = session(), float(sys.argv[1])
rows = {}
request = np.array(json.loads(sys.argv[2]))
for size in (1, 8, 16, 32):
    batch = np.repeat(request, size, axis=0).astype("float32" if request.dtype.kind == "f" else "int64")
    run(ready, batch)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        run(ready, batch)
        count += size
    rows[size] = count / (time.perf_counter() - started)
print(json.dumps(rows))
