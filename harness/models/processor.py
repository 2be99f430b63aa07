"""What the processor can do, where that decides how a job runs."""

from pathlib import Path


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX512-BF16, AMX or ARM BF16)."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # no Linux: nothing is known of the processor, and float32 is right everywhere
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
