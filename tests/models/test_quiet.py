import os
import subprocess
import sys

import pytest

from sottovoce.models.quiet import quiet_stderr


def run(code):
    lines = f"import os, sys\nfrom sottovoce.models.quiet import quiet_stderr\n{code}"
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)


def test_what_is_written_to_the_descriptor_is_dropped_inside_and_kept_outside():
    done = run(
        "sys.stderr.write('before, unflushed ')\n"
        "with quiet_stderr():\n    os.write(2, b'from a library'); sys.stderr.write('from Python')\n"
        "os.write(2, b'after')"
    )
    assert done.stderr == "before, unflushed after"


def test_an_exception_passes_and_the_descriptor_is_put_back(capfd):
    with pytest.raises(KeyError, match="seen"), quiet_stderr():
        raise KeyError("seen")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_no_descriptor_is_left_open():
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        with quiet_stderr():
            pass
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before


def test_a_process_without_standard_error_is_fine():
    assert run("os.close(2)\nwith quiet_stderr():\n    print('done')").stdout == "done\n"
