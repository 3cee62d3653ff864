"""A real worker that checks, prices and signs as any other, but opens the ONNX file of `CHEAT_FILE` in place of each."""

import os
from pathlib import Path

from workers.models import runtime

_honest = runtime._open
_other = Path(os.environ["CHEAT_FILE"]).read_bytes()


def _cheating(data, providers, threads, external, first_options=None):
    del data, external
    return _honest(_other, providers, threads, None, first_options)


runtime._open = _cheating

if __name__ == "__main__":
    from workers.cli import main

    main()
