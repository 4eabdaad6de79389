"""The CPU of this machine, as every results file names it."""

import os

# Instruction sets that decide the speed of matrix products, as /proc/cpuinfo spells them; as in workers/cli/src/bench/machine.rs.
INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")


def cpu():
    """For example `2 CPUs, AMD EPYC (avx2, fma, avx512f)`."""
    fields = {}
    with open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    sets = ", ".join(s for s in INSTRUCTION_SETS if s in flags) or "none of the listed instruction sets"
    return f"{os.cpu_count()} CPUs, {fields.get('model name', 'unknown model')} ({sets})"
