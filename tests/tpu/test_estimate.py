"""The estimate of what the cores do: small programs, and the seconds each must take by hand."""

import json

import pytest
from hlo_for_tests import (
    MATMUL,
    MATMUL_FLOPS,
    MATMUL_S,
    MEMORY,
    RING,
    US,
    V5E,
    V5P,
    WEIGHTS,
    run,
)
from tpu_compiler import answer_of, devices, needs_libtpu

from r1v3_jax.tpu.estimate import Copy, estimate

# --- what the cores do ---------------------------------------------------------------------------


def test_a_large_matmul_runs_at_85_percent():
    result = run(WEIGHTS + f"%y = {MATMUL}")
    assert result.seconds == result.parts["matmul"] == pytest.approx(MATMUL_S)
    assert result.flops == MATMUL_FLOPS
    assert result.hbm_bytes == 2 * (4096 * 8192 + 8192 * 4096 + 4096 * 4096)
    assert result.bound == "matrix units"
    assert run(WEIGHTS + f"%y = {MATMUL}", chip=V5E).seconds == MATMUL_FLOPS / (
        0.85 * 197e12
    )


def test_a_thin_matmul_waits_for_its_weights():
    result = run("""
        %x = bf16[8,8192]{1,0} parameter(0)
        %w = bf16[8192,4096]{1,0} parameter(1)
        %y = bf16[8,4096]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
    """)
    assert result.seconds == pytest.approx(
        2 * (8 * 8192 + 8192 * 4096 + 8 * 4096) / MEMORY
    )
    assert result.bound == "memory"


MATMUL_FUSION = """
%fused (a: bf16[16,64,2], b: bf16[64,2,32]) -> bf16[16,OUT,32] {
  %a = bf16[16,64,IN]{1,0,2} parameter(0)
  %same = bf16[16,64,IN]{1,0,2} fusion(%a), kind=kLoop, calls=%rename
  %b = bf16[64,2,32]{0,2,1} parameter(1)
  ROOT %c = bf16[16,OUT,32]{2,0,1} convolution(%same, %b), WINDOW, dim_labels=bf0_i0o->b0f
}
%rename (a: bf16[16,64,IN]) -> bf16[16,64,IN] {
  %a = bf16[16,64,IN]{1,0,2} parameter(0)
  ROOT %same = bf16[16,64,IN]{1,0,2} bitcast(%a)
}
"""
CALL = """
    %a = bf16[16,64,IN]{1,0,2} parameter(0)
    %b = bf16[64,2,32]{0,2,1} parameter(1)
    %c = bf16[16,OUT,32]{2,0,1} fusion(%a, %b), kind=kOutput, calls=%fused
"""


@pytest.mark.parametrize(
    "window, inputs, outputs, hits",  # hits: positions of all windows that meet a real input
    [
        ("size=2 pad=1_1 rhs_reversal=1", 1, 2, 2),  #                 [. a] [a .]
        ("size=2 pad=1_1 lhs_dilate=2", 2, 4, 4),  #       [. a] [a .] [. b] [b .]
        ("size=2 stride=2", 4, 2, 4),  #                               [a b] [c d]
        ("size=2 rhs_dilate=2", 3, 1, 2),  #                               [a . c]
    ],
)
def test_matmuls_with_a_window(window, inputs, outputs, hits):
    def sized(text):
        text = text.replace("WINDOW", f"window={{{window}}}")
        return text.replace("IN", str(inputs)).replace("OUT", str(outputs))

    result = run(sized(CALL), sized(MATMUL_FUSION))
    assert result.flops == 2 * 16 * 32 * 64 * hits
    assert result.hbm_bytes == 2 * (16 * 64 * inputs + 64 * 2 * 32 + 16 * outputs * 32)


def test_after_code_generation_matmuls_take_the_compilers_cycles():
    cycles = ', backend_config={"window_config":{"estimated_cycles":"17500"}}'
    result = run(WEIGHTS + f"%y = {MATMUL}{cycles}")
    assert result.seconds == pytest.approx(10 * US)  # at 1.75 GHz


def test_after_code_generation_a_few_rows_stream_their_matrix():
    """At the rates of published steps, whatever the compiler's cycles are."""
    cycles = ', backend_config={"estimated_cycles":"17500"}'
    matrix = """
        %x = bf16[8,8192]{1,0} parameter(0)
        %w = bf16[8192,4096]{1,0} parameter(1)
        %y = bf16[8,4096]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}"""
    moved = 2 * (8 * 8192 + 8192 * 4096 + 8 * 4096)
    assert run(matrix + cycles).seconds == pytest.approx(moved / V5P.streamed_hbm)
    # Eight rows, each with keys of its own: attention.
    keys = """
        %q = bf16[8,8,128]{2,1,0} parameter(0)
        %k = bf16[8,1024,128]{2,1,0} parameter(1)
        %s = bf16[8,8,1024]{2,1,0} dot(%q, %k), lhs_batch_dims={0}, rhs_batch_dims={0}, """
    sums = "lhs_contracting_dims={2}, rhs_contracting_dims={2}"
    moved = 2 * 8 * (8 * 128 + 1024 * 128 + 8 * 1024)
    result = run(keys + sums + cycles)
    assert result.seconds == pytest.approx(moved / V5P.attended_hbm)
    assert result.cache_rate == V5P.attended_hbm
    assert run(keys + sums).cache_rate == V5P.reached_hbm


@pytest.mark.parametrize(
    "cycles, seconds",
    [
        (1_750, 1 * US),  # the compiler knows of something that needs no memory
        (17_500, 8 * 2**20 / MEMORY),  # 10 us, of which memory explains 3.6
        (1_750_000, 0.12 * 1000 * US),
    ],
)
def test_other_ops_take_their_bytes_or_an_eighth_of_the_cycles(cycles, seconds):
    result = run(f"""
        %x = f32[1024,1024]{{1,0}} parameter(0)
        %y = f32[1024,1024]{{1,0}} negate(%x), backend_config={{"estimated_cycles":"{cycles}"}}
    """)
    assert result.seconds == pytest.approx(seconds + US)


def test_an_elementwise_op_moves_its_bytes():
    result = run("""
        %x = f32[1024,4096]{1,0} parameter(0)
        %k = f32[1024,4096]{1,0:T(8,128)S(1)} parameter(1)
        %y = f32[1024,4096]{1,0} add(%x, %k)
    """)  # k is in VMEM
    assert result.hbm_bytes == 2 * 4 * 1024 * 4096
    assert result.parts["elementwise"] == pytest.approx(result.hbm_bytes / MEMORY + US)


SLICED = """
%cut (stack: bf16[64,1024,1024], layer: s32[]) -> bf16[1024,1024] {
  %stack = bf16[64,1024,1024]{2,1,0} parameter(0)
  %layer = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = bf16[1,1024,1024]{2,1,0} dynamic-slice(%stack, %layer, %zero, %zero)
  ROOT %one = bf16[1024,1024]{1,0} bitcast(%slice)
}
%put (stack: bf16[64,1024,1024], one: bf16[1,1024,1024], layer: s32[]) -> bf16[64,1024,1024] {
  %stack = bf16[64,1024,1024]{2,1,0} parameter(0)
  %one = bf16[1,1024,1024]{2,1,0} parameter(1)
  %layer = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %new = bf16[64,1024,1024]{2,1,0} dynamic-update-slice(%stack, %one, %layer, %zero, %zero)
}
"""


def test_of_a_stack_only_the_layer_is_read_and_written():
    entry = """
        %stack = bf16[64,1024,1024]{2,1,0} parameter(0)
        %layer = s32[]{:S(6)} parameter(1)
        %one = bf16[1024,1024]{1,0} fusion(%stack, %layer), kind=kLoop, calls=%cut
        %row = bf16[1,1024,1024]{2,1,0} bitcast(%one)
        %new = bf16[64,1024,1024]{2,1,0} fusion(%stack, %row, %layer), kind=kLoop, calls=%put
    """
    assert run(entry, SLICED).hbm_bytes == (2 + 2) * (2 * 1024 * 1024)
    assert not run(entry, SLICED).copies


EIGHT_BITS = """
%tiles (in: s8[64,1024,1024]) -> s8[64,1024,1024] {
  %in = s8[64,1024,1024]{2,1,0:T(32,128)(4,1)} parameter(0)
  ROOT %out = s8[64,1024,1024]{2,1,0:T(8,128)(4,1)} copy(%in)
}

%cut (stack: s8[64,1024,1024], layer: s32[]) -> bf16[1024,1024] {
  %stack = s8[64,1024,1024]{2,1,0:T(32,128)(4,1)} parameter(0)
  %again = s8[64,1024,1024]{2,1,0:T(8,128)(4,1)} fusion(%stack), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, calls=%tiles
  %layer = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = s8[1,1024,1024]{2,1,0} dynamic-slice(%again, %layer, %zero, %zero), dynamic_slice_sizes={1,1024,1024}
  %wide = bf16[1,1024,1024]{2,1,0} convert(%one)
  ROOT %row = bf16[1024,1024]{1,0} bitcast(%wide)
}
"""  # noqa: E501


def test_a_layer_in_eight_bits_is_read_in_eight_bits():
    """The compiler gives the numbers other tiles on their way into a matmul; nothing is copied."""
    entry = """
        %stack = s8[64,1024,1024]{2,1,0} parameter(0)
        %layer = s32[]{:S(6)} parameter(1)
        %one = bf16[1024,1024]{1,0} fusion(%stack, %layer), kind=kLoop, calls=%cut
    """
    assert run(entry, EIGHT_BITS).hbm_bytes == (1 + 2) * 1024 * 1024
    copying = EIGHT_BITS.replace("output_to_operand_aliasing={{}: (0, {})}, ", "")
    assert run(entry, copying).hbm_bytes == (64 + 2) * 1024 * 1024  # really a copy


def test_copies_are_listed():
    result = run("""
        %x = bf16[64,1024,1024]{2,1,0} parameter(0)
        %y = bf16[64,1024,1024]{1,2,0} copy(%x)
    """)
    assert result.copies == (
        Copy("y", "bf16[64,1024,1024]{1,2,0}", 2 * 64 * 1024 * 1024, 1),
    )


# --- loops and branches --------------------------------------------------------------------------

# A body with one matmul, a counter that rises by 2.
BODY = """
%body (state: (s32[], bf16[4096,8192], bf16[8192,4096])) -> (s32[], bf16[4096,8192]) {
  %state = (s32[], bf16[4096,8192], bf16[8192,4096]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = bf16[4096,8192]{1,0} get-tuple-element(%state), index=1
  %w = bf16[8192,4096]{1,0} get-tuple-element(%state), index=2
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  %y = MATMUL
  ROOT %end = (s32[], bf16[4096,8192], bf16[8192,4096]) tuple(%next, %x, %w)
}
%condition (state: (s32[], bf16[4096,8192], bf16[8192,4096])) -> pred[] {
  %state = (s32[], bf16[4096,8192], bf16[8192,4096]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %bound = s32[] constant(9)
  %stop = pred[] parameter(1)
  TEST
}
""".replace("MATMUL", MATMUL)
LOOP = """
    %zero = s32[] constant(0)
    %start = (s32[], bf16[4096,8192], bf16[8192,4096]) tuple(%zero, %x, %w)
    %loop = (s32[], bf16[4096,8192], bf16[8192,4096]) while(%start), \
condition=%condition, body=%body
"""


def test_a_counted_loop():
    counted = BODY.replace("TEST", "ROOT %t = pred[] compare(%i, %bound), direction=LT")
    result = run(WEIGHTS + LOOP, counted)
    assert result.flops == 5 * MATMUL_FLOPS  # i = 0, 2, 4, 6, 8
    assert result.seconds == pytest.approx(5 * MATMUL_S)
    assert result.dynamic_loop_seconds == 0
    known = LOOP.rstrip() + ', backend_config={"known_trip_count":{"n":"7"}}'
    assert run(WEIGHTS + known, counted).flops == 7 * MATMUL_FLOPS


def test_a_loop_that_ends_on_data():
    either_test = f"""%t = pred[] compare(%i, %bound), direction=LT
  %all = pred[] all-reduce(%stop), {RING}, to_apply=%and
  ROOT %go = pred[] and(%t, %all)"""
    trip = MATMUL_S + 2 * US + 1.5 / (2 * 90e9)
    for trips in (1, 3):
        result = run(
            WEIGHTS + LOOP, BODY.replace("TEST", either_test), dynamic_trips=trips
        )
        assert result.dynamic_loop_seconds == pytest.approx(trip)
        assert result.seconds == pytest.approx(trips * trip)


def test_a_loop_around_a_loop_that_ends_on_data():
    body = BODY.replace("TEST", "ROOT %go = pred[] not(%stop)")
    state = "(s32[], bf16[4096,8192], bf16[8192,4096])"
    outer = f"""
%outer (state: {state}) -> {state} {{
  %state = {state} parameter(0)
  ROOT %loop = {state} while(%state), condition=%condition, body=%body
}}
"""
    nested = LOOP.replace("body=%body", "body=%outer")
    result = run(WEIGHTS + nested, body + outer, dynamic_trips=3)
    assert result.flops == 3 * MATMUL_FLOPS
    assert result.dynamic_loop_seconds == pytest.approx(MATMUL_S)


def test_the_costliest_branch_counts():
    branches = f"""
%cheap (x: bf16[4096,8192]) -> bf16[4096,4096] {{
  %x = bf16[4096,8192]{{1,0}} parameter(0)
  ROOT %y = bf16[4096,4096]{{1,0}} slice(%x), slice={{[0:4096], [0:4096]}}
}}
%dear (x: bf16[4096,8192]) -> bf16[4096,4096] {{
  %x = bf16[4096,8192]{{1,0}} parameter(0)
  %w = bf16[8192,4096]{{1,0}} parameter(1)
  ROOT %y = {MATMUL}
}}
"""
    entry = """
        %x = bf16[4096,8192]{1,0} parameter(0)
        %i = s32[] parameter(1)
        %y = bf16[4096,4096]{1,0} conditional(%i, %x, %x), branch_computations={%cheap, %dear}
    """
    assert run(entry, branches).seconds == pytest.approx(MATMUL_S)


# --- Pallas kernels ------------------------------------------------------------------------------


def test_a_kernel_takes_what_it_says_it_costs():
    entry = """
        %q = bf16[32,5,128]{2,1,0} parameter(0)
        %cache = bf16[64,32,8192,128]{3,2,1,0} parameter(1)
        %y = bf16[32,5,128]{2,1,0} custom-call(%q, %cache), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"body":"TUzv"COST}}
    """.replace("\\\n", "")
    cost = ',"cost_estimate":{"flops":"1000000","transcendentals":"0","bytes_accessed":"67108864"}'
    result = run(entry.replace("COST", cost))
    assert (
        result.seconds
        == result.parts["kernels"]
        == pytest.approx(67108864 / MEMORY + US)
    )
    assert (result.flops, result.hbm_bytes) == (1e6, 67108864)
    unstated = run(entry.replace("COST", ""))  # all layers of the cache
    assert unstated.hbm_bytes == 2 * (2 * 32 * 5 * 128 + 64 * 32 * 8192 * 128)


def splash(kernel: str, rows: int, *, causal: bool = False, prompt: int = 0):
    """Estimates attention over [rows, 5 heads, T 2048, H 128] after `prompt` keys.

    Blocks are of 512.
    """
    positions = ", %positions" if causal else ", %blocks" if prompt else ""
    keys = 2048 + prompt
    return run(f"""
        %mask = s8[1,4,4]{{2,1,0}} parameter(0)
        %q = bf16[{rows},5,2048,128]{{3,2,1,0}} parameter(1)
        %k = bf16[{rows},{keys},128]{{2,1,0}} parameter(2)
        %blocks = s32[{4 * keys // 512},512,512]{{2,1,0}} parameter(6)
        %segments = s32[2048,128]{{1,0}} parameter(3)
        %keys = s32[8,2048]{{1,0}} parameter(4)
        %positions = s32[2048,128]{{1,0}} parameter(5)
        %splash_mqa_{kernel}_segmented_residuals.1 = bf16[{rows},5,2048,128]{{3,2,1,0}} \
custom-call(%mask, %q, %k, %k, %segments, %keys{positions}), custom_call_target="tpu_custom_call", \
frontend_attributes={{kernel_metadata={{
        "xprof_metadata":"{{\\"block_q\\": 512, \\"block_q_dq\\": 512}}"
        }}}}
        %y = (bf16[{rows},5,2048,128]) tuple(%splash_mqa_{kernel}_segmented_residuals.1)
    """)


def test_splash_attention_by_tiles():
    # Four blocks of 512: 10 of 16 pairs are computed under a causal mask. The grid has 16 steps,
    # and four rows.
    causal = 10 * 1216 + 16 * 450 + 4 * 700
    full = 16 * 1216 + 16 * 450 + 4 * 700
    result = splash("fwd", 2, causal=True)
    assert result.seconds == result.parts["attention"]
    # Two cores.
    assert result.seconds == pytest.approx(2 * 5 / 2 * causal / 1.75e9 / 0.9)
    assert result.flops == 2 * 2048**2 * 128 * 2 * 5
    result = splash("fwd", 2, causal=False)
    assert result.seconds == pytest.approx(2 * 5 / 2 * full / 1.75e9 / 0.9)
    assert result.flops == 4 * 2048**2 * 128 * 2 * 5
    # The backward kernels are split between the cores along the mapped axis only.
    seconds = {rows: splash("dq", rows, causal=True).seconds for rows in (1, 2, 3)}
    assert seconds[2] == pytest.approx(seconds[1])
    assert seconds[3] == pytest.approx(2 * seconds[1])
    # After two blocks of prompt, with a mask passed in blocks: every row of blocks sees them.
    after_prompt = (10 + 8) * 1216 + (16 + 8) * 450 + 4 * 700
    result = splash("fwd", 2, prompt=1024)
    assert result.seconds == pytest.approx(2 * 5 / 2 * after_prompt / 1.75e9 / 0.9)
    assert result.flops == 4 * (2048**2 / 2 + 2048 * 1024) * 128 * 2 * 5


# --- the real compiler, in a process of its own: libtpu reads its environment before jax ----------


@needs_libtpu
def test_a_compiled_program():
    result = answer_of(__file__)
    assert result["flops"] == 3 * 2 * 4096**3
    # The compiler's own figure for a matmul of this size.
    assert 0.8 < result["flops"] / 459e12 / result["parts"]["matmul"] < 1
    assert result["bound"] == "matrix units"
    assert result["seconds"] == pytest.approx(sum(result["parts"].values()))


def compile_and_estimate() -> dict:
    import dataclasses

    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    device = devices()[0]

    def array(*shape):
        return jax.ShapeDtypeStruct(
            shape, jnp.bfloat16, sharding=SingleDeviceSharding(device)
        )

    program = jax.jit(
        lambda x, weights: jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]
    )
    text = program.lower(array(4096, 4096), array(3, 4096, 4096)).compile().as_text()
    return dataclasses.asdict(estimate(text, chip=V5P, coords=[tuple(device.coords)]))


if __name__ == "__main__":
    print(json.dumps(compile_and_estimate()))
