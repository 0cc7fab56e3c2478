"""Export a trained network to ONNX, and run it with onnxruntime, without distcnn.

Needs: pip install '.[onnx]' onnxruntime
"""

import argparse
import json
from pathlib import Path

import numpy as np

import distcnn as dc
from distcnn.interop import export

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="data/mnist.h5", help="image set in HDF5")
parser.add_argument("--output", default="runs/exported", help="run directory, new or empty")
parser.add_argument("--max-steps", type=int, default=100)
args = parser.parse_args()

trainer = dc.Trainer("lenet")
run = trainer.fit(args.data, max_steps=args.max_steps, output=args.output)
if trainer.is_root:
    model = Path(args.output) / "model.onnx"
    print(f"{model}: {export(args.output, model).size_bytes:,} bytes, of {run.params_sha256}")

    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    images, labels = dc.datasets.open(args.data).read("test")
    pixels = images.transpose(0, 3, 1, 2)  # to (N, channels, height, width), still 0 to 255
    probabilities, _logits = session.run(None, {"pixels": pixels})
    predicted = probabilities.argmax(axis=1)
    print("predicted", [names[label] for label in predicted[:5]], "true", labels[:5].tolist())

    ours = run.network.predict(images)
    assert np.array_equal(predicted, ours.argmax(axis=1))
    print(f"the same classes; probabilities differ by {np.abs(probabilities - ours).max():.1e}")
