"""Lines as two TPU compilers print them: libtpu 0.0.42.1 with jax 0.10.2, 0.0.50.1 with 0.12.0.1.

All are of the update of tpu_v5p_256_text, with metadata and most of backend_config left out.
"""

import pytest
from hlo_for_tests import MATMUL, MATMUL_S, US, WEIGHTS, run

from r1v3_jax.tpu import hlo
from r1v3_jax.tpu.work import Module

# The body of the scan over layers: a layer's slice of a bias is cut out and gathered.
STATE = (
    "(s32[]{:T(128)}, bf16[64,80,4,5,128]{4,2,3,0,1:T(4,128)(2,1)}, "
    "/*index=5*/(f32[2]{0}, pred[]{:T(512)S(6)}))"
)
OLD_BODY = f"""
%wide.region_2.6 (wide.param.2: (s32[], bf16[64,80,4,5,128])) -> bf16[1,80,4,5,128] {{
  %wide.param.2 = {STATE} parameter(0)
  %get-tuple-element.4702 = s32[]{{:T(128)}} get-tuple-element(%wide.param.2), index=0
  %get-tuple-element.4745 = bf16[64,80,4,5,128]{{4,2,3,0,1:T(4,128)(2,1)}} get-tuple-element(%wide.param.2), index=1
  ROOT %bitcast_convert_fusion.5 = bf16[1,80,4,5,128]{{4,2,3,0,1:T(4,128)(2,1)S(1)}} fusion(%get-tuple-element.4745, %get-tuple-element.4702), kind=kLoop, calls=%fused_computation.140.clone.1
}}
ENTRY %main () -> f32[] {{
  ROOT %x = f32[] constant(0)
}}
"""  # noqa: E501
NEW_BODY = f"""
%wide.region_2.6 (wide.param.2: (s32[], bf16[64,80,4,5,128])) -> bf16[1,80,4,5,128] {{
  %wide.param.2 = {STATE} parameter(0)
  ROOT %bitcast_convert_fusion.5 = bf16[1,80,4,5,128]{{4,2,3,0,1:T(4,128)(2,1)S(1)}} fusion(%wide.param.2#1, %wide.param.2#0), kind=kLoop, calls=%fused_computation.140.clone.1
}}
ENTRY %main () -> f32[] {{
  ROOT %x = f32[] constant(0)
}}
"""  # noqa: E501


@pytest.mark.parametrize("text", [OLD_BODY, NEW_BODY], ids=["0.0.42.1", "0.0.50.1"])
def test_an_element_of_a_tuple_is_an_op_however_it_is_written(text):
    computations, entry = hlo.parse(text)
    assert entry == "main"
    ops = computations["wide.region_2.6"]
    fusion = hlo.root(ops)
    stack, layer = (hlo.operand(fusion, i, ops) for i in range(2))
    assert stack.opcode == layer.opcode == "get-tuple-element"
    assert hlo.dims(stack.shape) == [64, 80, 4, 5, 128]
    assert layer.shape == "s32[]{:T(128)}"
    assert hlo.operand(stack, 0, ops).opcode == "parameter"


def test_elements_of_a_nested_tuple():
    assert hlo.elements(STATE) == [
        "s32[]{:T(128)}",
        "bf16[64,80,4,5,128]{4,2,3,0,1:T(4,128)(2,1)}",
        "(f32[2]{0}, pred[]{:T(512)S(6)})",
    ]
    assert hlo.elements("()") == [""]


LOOP = """
%cond (wide.param.104: (s32[], f32[8])) -> pred[] {
  %wide.param.104 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %constant.598.clone.3 = s32[]{:T(128)} constant(64)
  ROOT %lt.201 = pred[]{:T(512)} compare(%wide.param.104#0, %constant.598.clone.3), direction=LT
}
%body (wide.param.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %wide.param.2 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %constant.661 = s32[]{:T(128)} constant(1)
  %add.9 = s32[]{:T(128)} add(%wide.param.2#0, %constant.661)
  ROOT %tuple.4 = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%add.9, %wide.param.2#1)
}
ENTRY %main (x: f32[8]) -> (s32[], f32[8]) {
  %x = f32[8]{0:T(128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %tuple.493 = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%zero, %x)
  ROOT %while.871 = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%tuple.493), condition=%cond, body=%body
}
"""  # noqa: E501


def test_trips_of_a_loop_whose_state_is_named_by_elements():
    module = Module(LOOP)
    entry = module.computations["main"]
    assert module.trips(hlo.root(entry), entry) == 64


# --- collectives on SparseCores ------------------------------------------------------------------

RINGS = '{"phase_rings":[{"core_count":"2"},{"core_count":"4"}]}'
# One computation that calls another, as both compilers write it before there is machine code.
GATHER = """
%called_computation.3 (param_0.1847: bf16[1024,4096]) -> bf16[65536,4096] {
  %param_0.1847 = bf16[1024,4096]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.100 = bf16[65536,4096]{1,0:T(8,128)(2,1)} all-gather(%param_0.1847), channel_id=103, replica_groups=[1,64]<=[64], dimensions={0}, use_global_device_ids=true, backend_config={"collective_offload_config":{"all_gather_offload_config":{"ici_strategy_config":{"color_strategies":[RINGS]}}}}
}, execution_thread="sparsecore"
%async_computation.10 (param_0.1848: bf16[1024,4096]) -> bf16[65536,4096] {
  %param_0.1848 = bf16[1024,4096]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.101.cloned.1 = bf16[65536,4096]{1,0:T(8,128)(2,1)} call(%param_0.1848), to_apply=%called_computation.3
}, execution_thread="sparsecore"
"""  # noqa: E501
# The SparseCore is woken before its data are there.
SCHEDULED = """
    %shard = bf16[1024,4096]{1,0:T(8,128)(2,1)} parameter(2)
    %all-gather.101.cloned.1.call-start = ((), (), (s32[1]{0:T(128)S(2)})) async-start(), async_execution_thread="sparsecore", calls=%async_computation.10
    BEFORE
    %all-gather.101.cloned.1.call-update = ((bf16[1024,4096]{1,0:T(8,128)(2,1)}), bf16[65536,4096]{1,0:T(8,128)(2,1)}) async-update(%all-gather.101.cloned.1.call-start, %shard)
    BEHIND
    %all-gather.101.cloned.1.call-done = bf16[65536,4096]{1,0:T(8,128)(2,1)} async-done(%all-gather.101.cloned.1.call-update)
"""  # noqa: E501
WITH_MACHINE_CODE = (
    SCHEDULED.replace(" async-", " call-")
    .replace("calls=%async_computation.10", "to_apply=%called_computation.3")
    .strip()
)


@pytest.mark.parametrize("text", [SCHEDULED, WITH_MACHINE_CODE])
@pytest.mark.parametrize("parts, links, hops", [(2, 2, 32), (6, 6, 6)])
def test_a_gather_on_a_sparsecore_runs_behind_what_the_cores_do(
    text, parts, links, hops
):
    """In two parts it goes round one ring of 64 chips, in six along all axes of the cube."""
    gather = GATHER.replace("RINGS", ",".join([RINGS] * parts))
    matmul = f"%y = {MATMUL}"
    sent = 63 / 64 * 2 * 65536 * 4096
    seconds = sent / (links * 90e9) + hops * US
    # It starts with its data: a matmul between the two hides it, one before them does not.
    hidden = run(WEIGHTS + text.replace("BEFORE", "").replace("BEHIND", matmul), gather)
    shown = run(WEIGHTS + text.replace("BEFORE", matmul).replace("BEHIND", ""), gather)
    for result in (hidden, shown):
        gathered = result.collectives["all-gather"]
        assert (gathered.count, gathered.bytes) == (1, sent)
        assert gathered.seconds == pytest.approx(seconds)
    assert shown.seconds == pytest.approx(MATMUL_S + seconds)
    assert hidden.seconds == pytest.approx(max(MATMUL_S, seconds))


def test_another_job_of_a_sparsecore_moves_what_it_returns():
    """Rows of the embedding are looked up there: no collective, and no time of the cores."""
    result = run(
        WEIGHTS
        + f"""
        %ids = s32[8192]{{0:T(1024)}} parameter(2)
        %s = ((s32[8192]{{0:T(1024)}}), f32[8192,512]{{1,0:T(8,128)}}, u32[]{{:S(8)}}) async-start(%ids), async_execution_thread="sparsecore", calls=%look_up
        %y = {MATMUL}
        %d = f32[8192,512]{{1,0:T(8,128)}} async-done(%s)
        """,  # noqa: E501
        """
%look_up (ids: s32[8192]) -> f32[8192,512] {
  %ids = s32[8192]{0:T(1024)} parameter(0)
  ROOT %gather_offload_custom_fusion.3 = f32[8192,512]{1,0:T(8,128)} fusion(%ids), kind=kCustom, calls=%fused_computation.clone.clone
}
%fused_computation.clone.clone (ids: s32[8192]) -> f32[8192,512] {
  %ids = s32[8192]{0:T(1024)} parameter(0)
  ROOT %rows = f32[8192,512]{1,0:T(8,128)} broadcast(%ids), dimensions={0}
}
""",  # noqa: E501
    )
    assert not result.collectives
    assert result.seconds == pytest.approx(MATMUL_S)


def test_a_product_of_many_pairs_is_told_from_one_with_a_wide_matrix():
    """Both lines are of a compiled decode: attention over 8 rows, and q of 8 heads."""
    batched = hlo.parse_op(
        "  %a = f32[8,8,1024]{2,1,0} convolution(%q, %k), "
        "window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf"
    )
    plain = hlo.parse_op(
        "  %b = bf16[8,8,128]{2,0,1} convolution(%x, %w), "
        "window={size=8 pad=7_7 rhs_reversal=1}, dim_labels=bf0_i0o->b0f"
    )
    dot = hlo.parse_op(
        "  %c = f32[8,4,4]{2,1,0} dot(%x, %y), lhs_batch_dims={0}, rhs_batch_dims={0}, "
        "lhs_contracting_dims={2}, rhs_contracting_dims={1}"
    )
    assert hlo.is_batched(batched)
    assert hlo.is_batched(dot)
    assert not hlo.is_batched(plain)
