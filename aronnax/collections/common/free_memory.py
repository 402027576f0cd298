"""How much memory is free: a GPU's, or the machine's within its container's limit."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: the GPU's, or the machine's within its container's limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    return min(_machine_free(), _container_free())


def _machine_free() -> int:
    try:
        import psutil
    except ImportError:
        return _kernel_free()
    return int(psutil.virtual_memory().available)


def _kernel_free() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 * 2**30  # nothing is known of this machine: assume a small one


def _container_free() -> int:
    """What the cgroup of a container leaves, or more than any machine has where there is no limit."""
    limits = Path("/sys/fs/cgroup")
    try:
        limit = (limits / "memory.max").read_text().strip()
        used = int((limits / "memory.current").read_text())
        reclaimable = _inactive_file(limits / "memory.stat")
        return 2**62 if limit == "max" else max(int(limit) - used + reclaimable, 0)
    except (OSError, ValueError):
        return 2**62


def _inactive_file(stat: Path) -> int:
    for line in stat.read_text().splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0
