"""Freed memory is kept for the next step."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from physteer.commands.memory import keep_freed_memory

def step():
    x = torch.ones(int(sys.argv[1]))
    for _ in range(4):
        wide = torch.cat([x] * 4)
        parts = [x + 1, x + 2, wide * 2]
        x = parts[0] + parts[1]

def pages():  # that steps take from the system
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = pages()
keep_freed_memory()
print(before, pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide for themselves")
@pytest.mark.parametrize("size", [2**20, 2**22])  # tensors of 4 to 16, and of 16 to 64 MiB
def test_steps_take_fewer_pages_from_the_system(size):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(size)], capture_output=True, text=True, check=True)
    by_default, kept = map(int, done.stdout.split())
    assert kept < by_default / 2
