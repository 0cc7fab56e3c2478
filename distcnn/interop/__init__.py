"""Trained weights in the formats of other programs: ONNX, safetensors, npz, PyTorch, Keras.

``export`` writes a run's network; ``read_foreign`` reads weights, and ``fit`` gives them to a
network of one's own. Packages of these formats are imported where a file needs them.
"""

from distcnn.interop.exporting import Exported, export
from distcnn.interop.foreign import ForeignWeights
from distcnn.interop.mapping import Fitted, fit
from distcnn.interop.reading import read_foreign

__all__ = ["Exported", "Fitted", "ForeignWeights", "export", "fit", "read_foreign"]
