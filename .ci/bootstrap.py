"""Make `.venv` with uv in it, on a machine that has Python 3.11 and nothing else.

Uses venv and pip where Debian's python3-venv is installed; otherwise takes uv's wheel from PyPI, checks its hash and
unpacks the one binary. Run by `make`; never changes anything outside `.venv`.
"""

import hashlib
import io
import pathlib
import platform
import re
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile

UV = "0.13.9"
ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def main() -> None:
    """Make the environment, by the first way that works."""
    if sys.version_info < (3, 11):
        sys.exit(f"Python 3.11 or newer is needed, this is {platform.python_version()}. Remedy: apt install python3.11")
    if subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, check=False).returncode == 0:
        subprocess.run([str(VENV / "bin" / "pip"), "install", "--quiet", f"uv=={UV}"], check=True)
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)], check=True)
    target = VENV / "bin" / "uv"
    target.write_bytes(_wheel_binary())
    target.chmod(0o755)


def _wheel_binary() -> bytes:
    """Take the uv program out of its wheel for this machine; the index gives the wheel's hash."""
    index = "https://pypi.org/simple/uv/"
    with urllib.request.urlopen(index, timeout=60) as answer:
        links = re.findall(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', answer.read().decode())
    wanted = re.compile(rf"/uv-{re.escape(UV)}-py3-none-manylinux[^/]*_{platform.machine()}\.")
    link, expected = next(found for found in links if wanted.search(found[0]))
    with urllib.request.urlopen(urllib.parse.urljoin(index, link), timeout=300) as answer:
        data = answer.read()
    if hashlib.sha256(data).hexdigest() != expected:
        sys.exit("uv's wheel arrived damaged. Remedy: run make again.")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/scripts/uv")))


if __name__ == "__main__":
    main()
