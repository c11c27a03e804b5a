"""The allocator keeps what is freed."""

import subprocess
import sys

import pytest

CHILD = """
import resource, torch
from dreamer.machine import keep_freed_memory
assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(4_000_000)
before = faults()
for _ in range(10):
    torch.ones(4_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_large_tensors_cause_no_page_faults_again():
    """Ten times 16 MB would be 39,000 faults of 4 KB if each were mapped anew."""
    result = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 2_000
