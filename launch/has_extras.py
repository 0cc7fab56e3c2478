"""Exit 0 if this environment has distcnn with these extras: python has_extras.py mpi,mpich"""

import importlib.util
import sys

MODULES = {
    "mpi": ["mpi4py"],
    "images": ["PIL", "scipy"],
    "report": ["jinja2", "matplotlib", "PIL"],
    "onnx": ["onnx"],
    "safetensors": ["safetensors"],
    "tensorboard": ["tensorboardX"],
    "mpich": [],  # its use shows in mpirun, which the caller looks for
    "dev": [
        *("mpi4py", "pytest", "xdist", "pytest_cov", "pytest_rerunfailures", "hypothesis"),
        *("jinja2", "matplotlib", "PIL", "onnx", "safetensors", "tensorboardX", "scipy"),
        *("pyarrow", "onnxruntime", "selenium", "ruff", "mypy", "pdoc"),
    ],
}
needed = ["numpy", "h5py", "tqdm", "tomli_w", "threadpoolctl", "distcnn"]
for extra in sys.argv[1].split(","):
    needed += MODULES[extra]
sys.path.pop(0)
sys.exit(
    "mpich" in sys.argv[1].split(",")
    or any(importlib.util.find_spec(module) is None for module in needed)
)
