"""The estimate of what slices send each other: small programs, and the seconds by hand."""

import pytest
from hlo_for_tests import CUBE, MATMUL, MATMUL_S, US, V5P, WEIGHTS, run

from r1v3_jax.tpu.torus import Torus

NETWORK = 6.25e9  # bytes/s, a v5p's share of the network between slices
FAR = 1e-4  # seconds to another slice


def slices(count: int) -> dict:
    """Several slices of 64 chips each, partition by partition."""
    numbers = [number for number in range(count) for _ in CUBE]
    return {"coords": CUBE * count, "slices": numbers}


# As the TPU compiler writes it for several slices.
EXCHANGE = """
    %g = f32[1024,8,128]{2,1,0} parameter(2)
    %t = token[] after-all()
    %s = (f32[1024,8,128]{2,1,0:T(8,128)}, u32[]{:S(2)}, token[]) send(%g, %t), channel_id=10, \
is_host_transfer=true, frontend_attributes={\
_xla_host_transfer_rendezvous="psum.9_0",_xla_megascale_reduce_operation="SUM",\
_xla_megascale_target="{1,2}x{0:63}",_xla_megascale_transfer_type="KIND"}
    %r = (RESULT{2,1,0:T(8,128)}, u32[]{:S(2)}, token[]) recv(%t), channel_id=9, \
is_host_transfer=true, frontend_attributes={\
_xla_host_transfer_rendezvous="psum.9_0",_xla_megascale_transfer_type="KIND"}
    %sd = token[] send-done(%s), channel_id=10, is_host_transfer=true
    BEHIND
    %rd = (RESULT{2,1,0:T(8,128)}, token[]) recv-done(%r), channel_id=9, is_host_transfer=true
    %sum = RESULT{2,1,0} get-tuple-element(%rd), index=0
"""
SIZE = 4 * 1024 * 8 * 128  # bytes of %g

KINDS = {  # kind -> the result, and what a chip sends, with 2 and with 4 slices
    "ALL_REDUCE": ("f32[1024,8,128]", SIZE, 1.5 * SIZE),
    "REDUCE_SCATTER": ("f32[512,8,128]", SIZE / 2, 0.75 * SIZE),
    "ALL_GATHER": ("f32[2048,8,128]", SIZE, 3 * SIZE),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 4])
def test_what_a_chip_sends_to_its_peers(kind, count):
    shape, of_two, of_four = KINDS[kind]
    sent = {2: of_two, 4: of_four}[count]
    text = EXCHANGE.replace("KIND", kind).replace("RESULT", shape).replace("BEHIND", "")
    result = run(text, **slices(count))
    name = kind.lower().replace("_", "-") + " across slices"
    assert list(result.collectives) == [name]  # apart from what stays in a slice
    across = result.collectives[name]
    assert (across.count, across.bytes) == (1, sent)
    assert across.seconds == across.exposed == pytest.approx(sent / NETWORK + FAR)
    assert result.seconds == result.parts["collectives"] == across.exposed


def test_an_exchange_behind_a_matmul():
    """What the cores do between the send and the end of the recv hides it."""
    shape = KINDS["ALL_REDUCE"][0]
    text = EXCHANGE.replace("KIND", "ALL_REDUCE").replace("RESULT", shape)
    text = text.replace("BEHIND", f"%y = {MATMUL}")
    across = run(WEIGHTS + text, **slices(2)).collectives["all-reduce across slices"]
    assert across.exposed == pytest.approx(SIZE / NETWORK + FAR - MATMUL_S)


GROUPS = "replica_groups={{0,1,2,3,64,65,66,67},{4,5,6,7,68,69,70,71}}"


@pytest.mark.parametrize(
    "op, sent",
    [
        # Each of the 4 chips of a slice exchanges a quarter with its peer.
        ("f32[1024,1024] all-reduce(%x), GROUPS, to_apply=%add", 2**22 / 4),
        ("f32[8192,1024] all-gather(%x), GROUPS, dimensions={0}", 2**22),
        ("f32[128,1024] reduce-scatter(%x), GROUPS, to_apply=%add", 2**22 / 8),
        ("f32[1024,1024] all-to-all(%x), GROUPS, dimensions={0}", 2**22 / 2),
        ("f32[1024,1024] collective-permute(%x), source_target_pairs={{0,64}}", 2**22),
    ],
)
def test_a_group_that_spans_slices_is_counted_apart(op, sent):
    text = f"""
        %x = f32[1024,1024]{{1,0}} parameter(0)
        %y = {op.replace("GROUPS", GROUPS)}
    """
    kind = op.split("(")[0].split()[1]
    (name, across) = next(iter(run(text, **slices(2)).collectives.items()))
    assert name == kind + " across slices"
    assert across.bytes == sent
    assert across.seconds == pytest.approx(sent / NETWORK + FAR)
    # On one slice of as many chips it stays inside.
    assert list(run(text, coords=CUBE * 2).collectives) == [kind]


def test_a_group_inside_each_slice_uses_the_links():
    text = """
        %x = f32[1024,1024]{1,0} parameter(0)
        %y = f32[1024,1024]{1,0} all-reduce(%x), replica_groups=[32,4]<=[128], to_apply=%add
    """
    two = run(text, **slices(2))
    assert two.collectives == run(text).collectives
    assert two.seconds == pytest.approx(2 * 3 / 4 * 2**22 / (2 * 90e9) + 2 * US)


def test_a_mesh_over_partitions_in_another_order():
    text = (
        "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}, dimensions"
    )
    # The mesh is [[0 4] [1 5] [2 6] [3 7]]; along 'a' it is one slice of 0 to 3.
    assert Torus(V5P, CUBE).group(text) == [0, 1, 2, 3]
    text = text.replace("{'a'}", "{'b'}")
    assert Torus(V5P, CUBE).group(text) == [0, 4]
