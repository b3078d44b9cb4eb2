# Device functions carry no Python types, and Triton has no type information:
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
"""A barrier of all programs of a group inside one kernel: what any of them stored before it, all may load after it.

In the terms of the PTX memory model (isa 8.x, "Memory Consistency Model"), for a store S by any thread of program P and
a load L by any thread of program Q after the barrier:

    S -> barrier.sync in P -> fence and atomic add with release semantics at gpu scope, by one thread of P
      -> observed (one chain of atomic adds) by ld.acquire.gpu in one thread of Q -> barrier.sync in Q -> L

Every arrow is synchronisation at a scope that covers both ends, and causality order is transitive, so L sees S whatever
cache operator either has: an acquire also discards what the multiprocessor's first-level cache holds. Two things lie
outside that order. `ld.global.nc` is exempt from it: the compiler must not turn a load into one, and Triton does
so for none. The copy engine (TMA) is another proxy: a load by it needs `fence.proxy.async` between S and itself. Both
sides have one, after the last store and before the first load; `cp.async` is not of that proxy and needs none.

All programs of a group must be resident together, or those that wait keep those that are waited for from starting:
launch at most one program per multiprocessor, with `launch_cooperative_grid=True`, by which the driver refuses a grid
that does not fit. A program that has waited for 2^24 polls, about ten seconds, traps: an error instead of a hang.
"""

from __future__ import annotations

import triton
import triton.language as tl

# The interpreter has no inline assembly, and runs programs one after the other: only groups of one can meet there.
_COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)

COUNTER_STRIDE = tl.constexpr(32)
"""int32 elements from one group's counter to the next: a cache line each."""

# One thread polls: arrivals queue behind the polls of the same word.
_WAIT = tl.constexpr(
    """{
    .reg .pred idle, before, patient;
    .reg .u32 thread, count, polls;
    mov.u32 count, 0;
    mov.u32 polls, 0;
    mov.u32 thread, %tid.x;
    setp.ne.u32 idle, thread, 0;
    @idle bra met;
again:
    ld.acquire.gpu.global.u32 count, [$1];
    add.u32 polls, polls, 1;
    setp.lt.u32 before, count, $2;
    setp.lt.u32 patient, polls, 16777216;
    @!before bra met;
    @patient bra again;
    trap;
met:
    mov.u32 $0, count;
}"""
)
_FENCE_COPY_ENGINE = tl.constexpr("fence.proxy.async.global; mov.u32 $0, 0;")


@triton.jit
def meet(counter, count, COPY_ENGINE: tl.constexpr):
    """Wait until `count` arrivals were counted since the counter was zero, this program's own included.

    Args:
        counter: int32, of this group alone; zero before the launch.
        count: programs of the group times barriers so far, this one included.
        COPY_ENGINE: whether tensor descriptors read what was stored before the barrier.
    """
    if _COMPILED:
        if COPY_ENGINE:
            tl.inline_asm_elementwise(_FENCE_COPY_ENGINE, "=r", [], dtype=tl.int32, is_pure=False, pack=1)
        tl.debug_barrier()
        tl.atomic_add(counter, 1, sem="release", scope="gpu")
        tl.inline_asm_elementwise(_WAIT, "=r,l,r", [counter, count], dtype=tl.int32, is_pure=False, pack=1)
        tl.debug_barrier()
        if COPY_ENGINE:
            tl.inline_asm_elementwise(_FENCE_COPY_ENGINE, "=r", [], dtype=tl.int32, is_pure=False, pack=1)
