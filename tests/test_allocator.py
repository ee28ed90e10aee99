"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

CODE = "from selfe.training.host_memory import keep_freed_memory; print(keep_freed_memory())"


def test_glibc_takes_the_options():
    words = [sys.executable, "-c", CODE]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    assert told == str(platform.libc_ver()[0] == "glibc")
