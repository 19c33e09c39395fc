"""The time of transformers' own `generate`, for `python tools/bench --compare=transformers`.

Knows nothing of this program and needs none of its packages but torch and transformers: it runs in
whatever environment --transformers_python names. --directory holds `hf`, a checkpoint, and
prompts.npz, as `tools/bench` writes them. Temperature 1; every sample runs to its last token. On a
GPU the time is taken when the device is done; --cache=static is transformers' cache of a fixed size,
with which it compiles a step.
"""

import argparse
import json
import resource
import statistics
import time

import numpy as np
import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--samples", type=int, required=True, help="of a prompt")
    parser.add_argument("--new", type=int, required=True, help="tokens of a sample")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--cache", default="dynamic", choices=["dynamic", "static"])
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    prompts = np.load(f"{arguments.directory}/prompts.npz")
    ids = torch.from_numpy(prompts["tokens"]).long()
    inputs, kind = {"input_ids": ids}, transformers.AutoModelForCausalLM
    if len(prompts["tiles"]):
        kind = transformers.AutoModelForImageTextToText
        inputs["pixel_values"] = torch.from_numpy(prompts["tiles"]).permute(0, 3, 1, 2).contiguous()
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.dtype)
    model = kind.from_pretrained(f"{arguments.directory}/hf", dtype=dtype).eval().to(device)
    inputs = {name: x.to(device) for name, x in inputs.items()}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    how = {
        "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
        "min_new_tokens": arguments.new, "max_new_tokens": arguments.new,
        "num_return_sequences": arguments.samples, "attention_mask": torch.ones_like(ids).to(device),
    }  # fmt: skip
    if arguments.cache == "static":
        how["cache_implementation"] = "static"
    wall, cpu = [], []
    for _ in range(arguments.runs + 1):
        started = time.perf_counter(), time.process_time()
        with torch.no_grad():
            out = model.generate(**inputs, **how)
        if device.type == "cuda":
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    assert out.shape == (len(ids) * arguments.samples, ids.shape[1] + arguments.new), out.shape
    result = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "wall_s": {"median": statistics.median(wall[1:])},
        "cpu_s": {"median": statistics.median(cpu[1:])},
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    if device.type == "cuda":
        result["peak_device_gib"] = torch.cuda.max_memory_allocated() / 2**30
    with open(arguments.out, "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
