"""What `.ci/run` demands of the tests: all that works on its machine; what does not work it says aloud."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[3] / ".ci" / "run"
WORKS, FAILS = "#!/bin/bash\nexit 0\n", "#!/bin/bash\necho 'Operation not permitted' >&2; exit 1\n"


@pytest.fixture
def run(tmp_path):
    """Run it with these programs and no others; returns what `make` was given and what was said."""

    def started(**programs):
        for name in ("bash", "dirname", "env"):
            (tmp_path / name).symlink_to(shutil.which(name))
        for name, text in {"id": "#!/bin/bash\necho 0\n", "make": "#!/bin/bash\nenv\n", **programs}.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        done = subprocess.run([RUN], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        demanded = {name for name, _, value in (row.partition("=") for row in done.stdout.splitlines()) if value == "1"}
        return {name for name in demanded if name.startswith("REQUIRE_")}, done.stderr

    return started


def test_what_works_is_demanded(run):
    assert run(chromium=WORKS, bwrap=WORKS, ip=WORKS) == (
        {"REQUIRE_POSTGRES", "REQUIRE_BROWSER", "REQUIRE_SANDBOX", "REQUIRE_NETNS"},
        "",
    )


def test_what_is_forbidden_here_is_said_with_its_reason(run):
    demanded, said = run(chromium=WORKS, bwrap=FAILS, ip=FAILS)
    assert demanded == {"REQUIRE_POSTGRES", "REQUIRE_BROWSER"}
    assert "No sandbox here (Operation not permitted)" in said
    assert "No network namespaces here (Operation not permitted)" in said


def test_what_is_not_there_is_installed_by_root(run):
    """Where Debian's packages can be had; here nothing comes of it."""
    demanded, said = run(**{"apt-get": "#!/bin/bash\necho $* >> ${0%/*}/asked; [ $1 = update ]\n"})
    assert demanded == {"REQUIRE_POSTGRES"}
    assert "Could not be installed: chromium bubblewrap iproute2." in said


@pytest.mark.skipif(os.geteuid() != 0, reason="the machine's own programs are tried by root in CI")
def test_a_sandbox_that_may_make_no_namespaces_says_so():
    """As in a container: no capability, and no user namespace to be had."""
    look = "from workers.models.sandbox import find_bubblewrap; print(find_bubblewrap().fault)"
    inner = f"echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all {{}} -c '{look}'"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", inner.format(sys.executable)]
    if shutil.which("bwrap") is None or shutil.which("setpriv") is None:
        pytest.skip("bubblewrap or setpriv is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=RUN.parents[1])
    if done.returncode:
        pytest.skip(f"this machine cannot show it: {done.stderr[-200:]}")
    assert "bubblewrap does not work here" in done.stdout
    assert "namespace" in done.stdout
