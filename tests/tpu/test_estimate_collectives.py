"""The estimate of what chips send each other: small programs, and the seconds by hand."""

import pytest
from hlo_for_tests import (
    CUBE,
    MATMUL,
    MATMUL_S,
    MEMORY,
    RING,
    US,
    V5E,
    V5P,
    WEIGHTS,
    run,
)

from r1v3_jax.tpu.torus import Torus


def test_an_all_reduce_around_a_ring():
    entry = f"""
        %x = f32[1024,1024]{{1,0}} parameter(0)
        %y = f32[1024,1024]{{1,0}} all-reduce(%x), {RING}, to_apply=%add
    """
    sent = 2 * 3 / 4 * 4 * 1024 * 1024  # every shard goes round twice
    result = run(entry)
    assert list(result.collectives) == ["all-reduce"]
    collective = result.collectives["all-reduce"]
    assert (collective.count, collective.bytes) == (1, sent)
    assert collective.seconds == collective.exposed
    assert collective.seconds == pytest.approx(sent / (2 * 90e9) + 2 * US)
    assert result.seconds == result.parts["collectives"] == collective.exposed
    assert result.bound == "interconnect"
    # Four chips of v5e in a row are no ring: one link between the halves.
    row = run(entry, chip=V5E, coords=[(0, y) for y in range(4)])
    assert row.seconds == pytest.approx(sent / 45e9 + 2 * US)


@pytest.mark.parametrize(
    "text, members",
    [
        ("replica_groups={{0,16,32,48},{1,17,33,49}}", [0, 16, 32, 48]),
        ("replica_groups=[16,4]<=[64]", [0, 1, 2, 3]),
        ("replica_groups=[16,4]<=[4,16]T(1,0)", [0, 16, 32, 48]),
        (
            "replica_groups=mesh['a'=4,'b'=8,'c'=2] {'a','c'}",
            [0, 1, 16, 17, 32, 33, 48, 49],
        ),
        ("replica_groups={}", range(64)),
    ],
)
def test_ways_to_write_a_group(text, members):
    assert Torus(V5P, CUBE).group(text) == list(members)
    result = run(f"""
        %x = f32[65536]{{0}} parameter(0)
        %y = f32[1024]{{0}} reduce-scatter(%x), {text}, dimensions={{0}}, to_apply=%add
    """)
    assert result.collectives["reduce-scatter"].bytes == 4096 * (len(members) - 1)


GATHER = """
    %shard = bf16[SHARD,4096]{1,0} parameter(2)
    %start = (bf16[SHARD,4096]{1,0}, bf16[WHOLE,4096]{1,0}) all-gather-start(%shard), \
RING, dimensions={0}
    %y = MATMUL
    %done = bf16[WHOLE,4096]{1,0} all-gather-done(%start)
""".replace("RING", RING).replace("MATMUL", MATMUL)


@pytest.mark.parametrize("whole", [4096, 65536])
def test_an_all_gather_behind_a_matmul(whole):
    gather = GATHER.replace("SHARD", str(whole // 4)).replace("WHOLE", str(whole))
    result = run(WEIGHTS + gather)
    sent = 3 / 4 * 2 * whole * 4096
    # 142 us: hidden; 2,239 us: more than the matmul's 705.
    seconds = sent / (2 * 90e9) + 2 * US
    gathered = result.collectives["all-gather"]
    assert (gathered.bytes, gathered.seconds) == pytest.approx((sent, seconds))
    assert gathered.exposed == pytest.approx(max(0, seconds - MATMUL_S))
    assert result.seconds == pytest.approx(max(MATMUL_S, seconds))


def test_two_all_gathers_take_turns():
    gather = GATHER.replace("SHARD", "1024").replace("WHOLE", "4096")
    shard, start = gather.strip().splitlines()[:2]
    second_start = start.replace("%start", "%start2")
    ends = [
        "%d = bf16[4096,4096]{1,0} all-gather-done(%start)",
        "%d2 = bf16[4096,4096]{1,0} all-gather-done(%start2)",
    ]
    result = run("\n".join([shard, start, second_start, *ends]))
    each = 3 / 4 * 2 * 4096 * 4096 / (2 * 90e9) + 2 * US
    assert result.seconds == pytest.approx(2 * each)


FUSED_GATHER = f"""
%start (w: bf16[1024,4096]) -> (bf16[1024,4096], bf16[4096,4096], u32[]) {{
  %w = bf16[1024,4096]{{1,0}} parameter(0)
  %whole = bf16[4096,4096]{{1,0}} all-gather(%w), {RING}, dimensions={{0}}
  ROOT %s = (bf16[1024,4096], bf16[4096,4096], u32[]) custom-call(%whole), \
custom_call_target="AsyncCollectiveStart"
}}
%async_collective_fusion.1 (x: bf16[4096,8192], w: bf16[8192,4096]) -> bf16[4096,4096] {{
  %shard = bf16[1024,4096]{{1,0}} parameter(0)
  %x = bf16[4096,8192]{{1,0}} parameter(1)
  %w = bf16[8192,4096]{{1,0}} parameter(2)
  %y = {MATMUL}
  %whole = bf16[4096,4096]{{1,0}} all-gather(%shard), {RING}, dimensions={{0}}
  ROOT %t = (bf16[1024,4096], bf16[4096,4096], u32[]) tuple(%shard, %y, %whole)
}}
%done (w: bf16[1024,4096]) -> bf16[4096,4096] {{
  %w = bf16[1024,4096]{{1,0}} parameter(0)
  ROOT %d = bf16[4096,4096]{{1,0}} custom-call(%w), custom_call_target="AsyncCollectiveDone"
}}
""".replace("\\\n", "")


def test_an_all_gather_fused_into_matmuls_is_charged_once():
    result = run(
        WEIGHTS
        + """
        %shard = bf16[1024,4096]{1,0} parameter(2)
        %s = (bf16[1024,4096], bf16[4096,4096], u32[]) fusion(%shard), calls=%start
        %s0 = bf16[1024,4096]{1,0} get-tuple-element(%s), index=0
        %m = (bf16[1024,4096], bf16[4096,4096], bf16[4096,4096]) fusion(%s0, %x, %w), \
calls=%async_collective_fusion.1
        %m0 = bf16[1024,4096]{1,0} get-tuple-element(%m), index=0
        %d = bf16[4096,4096]{1,0} fusion(%m0), calls=%done
        """.replace("\\\n", ""),
        FUSED_GATHER,
    )
    gathered = result.collectives["all-gather"]
    assert (gathered.count, gathered.exposed) == (1, 0)
    assert gathered.bytes == 3 / 4 * 2 * 4096 * 4096
    assert result.seconds == pytest.approx(MATMUL_S)


def test_a_copy_ahead_of_time_still_uses_the_memory():
    result = run("""
        %x = f32[1024,4096]{1,0} parameter(0)
        %a = (f32[1024,2048]{1,0:T(8,128)S(1)}, f32[1024,2048]{1,0}, u32[]) copy-start(%z)
        %y = f32[1024,4096]{1,0} negate(%x)
        %b = f32[1024,2048]{1,0:T(8,128)S(1)} copy-done(%a)
    """)
    assert result.hbm_bytes == 4 * 1024 * (2 * 4096 + 2048)
    # Not the time of the negation alone.
    assert result.seconds == pytest.approx(result.hbm_bytes / MEMORY)
    assert not result.copies


def test_a_permute_takes_the_short_way_and_shares_links():
    entry = """
        %x = f32[1024,1024]{1,0} parameter(0)
        %y = f32[1024,1024]{1,0} collective-permute(%x), source_target_pairs={PAIRS}
    """
    message = 4 * 1024 * 1024 / 90e9  # seconds of one on one link
    ring = run(entry.replace("PAIRS", "{0,1},{1,2},{2,3},{3,0}"))  # 3 -> 0 wraps
    assert ring.seconds == pytest.approx(message + US)
    assert ring.collectives["collective-permute"].bytes == 4 * 1024 * 1024
    two = run(entry.replace("PAIRS", "{0,2},{1,3}"))  # both over the link 1 -> 2
    assert two.seconds == pytest.approx(2 * message + 2 * US)


def test_a_fused_reduce_scatter_is_half_an_all_reduce():
    fused = f"""
%all-reduce-scatter.1 (x: f32[1024,1024]) -> f32[256,1024] {{
  %x = f32[1024,1024]{{1,0}} parameter(0)
  %sum = f32[1024,1024]{{1,0}} all-reduce(%x), {RING}, to_apply=%add
  %id = u32[] partition-id()
  ROOT %y = f32[256,1024]{{1,0}} dynamic-slice(%sum, %id)
}}
"""
    result = run(
        """
        %x = f32[1024,1024]{1,0} parameter(0)
        %y = f32[256,1024]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
        """,
        fused,
    )
    sent = 3 / 4 * 4 * 1024 * 1024
    assert result.collectives["reduce-scatter"].bytes == sent
    assert result.seconds == pytest.approx(sent / (2 * 90e9) + US)
