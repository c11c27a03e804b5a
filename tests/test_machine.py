"""The allocator keeps what is freed."""

import subprocess
import sys

import pytest

CHILD = """
import resource, sys, torch
from dreamer.system.machine import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # until the heap has found its size
    torch.ones(10_000_000)
before = faults()
for _ in range(10):
    torch.ones(10_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_large_tensors_cause_no_page_faults_again():
    """A tensor of 40 MB has 9,766 pages of 4 KB, which are mapped anew each time unless the allocator keeps them."""

    def faults(mode):
        command = [sys.executable, "-c", CHILD, mode]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("plain") > 90_000
    assert faults("kept") < 9_000
