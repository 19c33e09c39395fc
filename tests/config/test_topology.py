"""The names of slices: what is read, and what a wrong one is told."""

import dataclasses

import pytest

from r1v3_jax.config import load_config, topology

READ = {  # name -> the name written back, chips, hosts, Google's name of one slice
    "v5p:4x4x8": ("v5p:4x4x8", 128, 32, "v5p-256"),
    "v5e:2x4": ("v5e:2x4", 8, 1, "v5litepod-8"),
    "v6e:16x16": ("v6e:16x16", 256, 64, "v6e-256"),
    "v5p:8x8x12": ("v5p:8x8x12", 768, 192, "v5p-1536"),
    "2 x v5p:4x4x8": ("2 x v5p:4x4x8", 256, 64, "v5p-256"),
    "2xv5p:4x4x8": ("2 x v5p:4x4x8", 256, 64, "v5p-256"),
    "4 x v5e:2x4": ("4 x v5e:2x4", 32, 4, "v5litepod-8"),
    "1 x v5p:4x4x8": ("v5p:4x4x8", 128, 32, "v5p-256"),
}


@pytest.mark.parametrize("name", READ)
def test_slices_by_name(name):
    chips = topology.parse(name)
    assert (chips.name, chips.chips, chips.hosts, chips.accelerator_type) == READ[name]
    assert topology.parse(chips.name) == chips


REFUSED = {
    "v5p": "kinds are v5p, v5e, v6e|v5p has 2x2x1",
    "v5p:4x4": "v5p has 2x2x1, .*, or multiples of 4 in rising order",
    "v5p:3x3x3": "v5p has",
    "v5p:8x4x4": "v5p has",
    "v5p:04x4x4": "v5p has",
    "v5p:4x4xx8": "v5p has",
    "v5e:3x3": "v5e has 1x1, 2x2, ",
    "v4:2x2x1": "kinds are v5p, v5e, v6e, as in v5p:4x4x8, or in 2 x v5p:4x4x8",
    "0 x v5p:4x4x8": "'0' is no number of slices; 2 x v5p:4x4x8 would do",
    "02 x v5p:4x4x8": "'02' is no number of slices",
    "-1 x v5p:4x4x8": "'-1' is no number of slices",
    "1.5 x v5e:2x4": "'1.5' is no number of slices; 2 x v5e:2x4 would do",
    "two x v5p:4x4x8": "'two' is no number of slices",
    "² x v5p:4x4x8": "'²' is no number of slices",
    "9 x v5p:9x9x9": "v5p has 2x2x1",
    "2 x v9:2x2": "kinds are",
    "2 x": "kinds are",
    "2 * v5p:4x4x8": "kinds are",
    "": "kinds are",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_name_is_refused_with_one_that_would_do(name):
    with pytest.raises(ValueError, match=REFUSED[name]) as refused:
        topology.parse(name)
    assert str(refused.value).startswith(f"topology {name!r}: ")


MESHES = {  # chips -> the mesh (16, 4, 2) on them
    "v5p:4x4x4": (8, 4, 2),
    "v5p:2x2x1": (1, 2, 2),
    "2 x v5p:4x4x8": (32, 4, 2),
    "4 x v5p:4x4x8": (64, 4, 2),
    # 8 chips would hold 4 x 2 once, but a slice has only 4.
    "2 x v5p:2x2x1": (2, 2, 2),
}


@pytest.mark.parametrize("name", MESHES)
def test_only_data_spans_slices(name):
    pod = load_config("tpu_v5p_256")
    chips = topology.parse(name)
    assert pod.mesh_of(chips) == MESHES[name]
    assert MESHES[name][0] % chips.slices == 0


def test_a_mesh_that_cannot_span_the_slices_is_refused():
    text = load_config("tpu_v5p_256_text")
    # Twice the chips, twice the rows.
    stage = dataclasses.replace(text.stages["cold_start"], rows=128)
    text = text.with_stages(cold_start=stage)
    two = dataclasses.replace(text, topology="2 x v5p:4x4x8", mesh=(32, 4, 2))
    assert two.slices == 2 and text.slices == 1
    message = (
        r"Run.mesh \(1, 128, 2\) has data 1, which cannot span the 2 slices of "
        r"2 x v5p:4x4x8; a mesh that would do: \(2, 64, 2\)"
    )
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(two, mesh=(1, 128, 2))
    message = r"has 128 devices and .* 256 chips; a mesh that would do: \(32, 4, 2\)"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(two, mesh=(16, 4, 2))
